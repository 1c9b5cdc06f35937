"""SPZ: round trips within its quantisation, the published layout, damage."""

import gzip
import math
import os
import struct

import pytest
import torch

from fourreal.formats import load_spz, save_spz
from fourreal.gaussians import Gaussians

from ..tiny import cloud
from .comparing import assert_same, same_rotation


@pytest.mark.parametrize("degree", range(5))
def test_spz_comes_back_within_its_quantisation(tmp_path, degree):
    g = cloud(degree=degree)
    save_spz(g, tmp_path / "g.spz")
    result = load_spz(tmp_path / "g.spz")
    torch.testing.assert_close(result.means, g.means, atol=0.5 / 4096 + 1e-6, rtol=0)
    torch.testing.assert_close(result.scales.log(), g.scales.log(), atol=1 / 32 + 1e-5, rtol=0)
    torch.testing.assert_close(result.opacities, g.opacities, atol=0.5 / 255 + 1e-6, rtol=0)
    step = 1 / 128 if degree else 0
    base = torch.full((g.harmonics.shape[1], 1), step / 2)
    base[0] = 0.5 / 255 / 0.15
    assert ((result.harmonics - g.harmonics).abs() <= base + 1e-5).all()
    assert same_rotation(result.quaternions, g.quaternions).min() > 1 - 1e-5


def test_spz_has_the_published_layout(tmp_path):
    """One Gaussian, decoded by hand as nianticlabs/spz documents it; its axes are RUB."""
    g = Gaussians(
        torch.tensor([[1.5, -0.25, 2.0]]),
        torch.tensor([[0.1, 0.2, -0.9, 0.3]]),
        torch.tensor([[0.1, 0.2, 0.3]]),
        torch.tensor([0.4]),
        torch.tensor([[[0.5, -0.5, 1.0], [0.25, 0, 0], [0, 0.5, 0], [0, 0, -0.75]]]),
    )
    save_spz(g, tmp_path / "g.spz")
    data = gzip.decompress((tmp_path / "g.spz").read_bytes())
    assert struct.unpack_from("<4sIIBBBB", data) == (b"NGSP", 3, 1, 1, 12, 0, 0)
    body = data[16:]
    assert len(body) == 9 + 1 + 3 + 3 + 4 + 9
    position = [int.from_bytes(body[i : i + 3], "little", signed=True) / 4096 for i in (0, 3, 6)]
    assert position == [1.5, 0.25, -2.0]
    assert body[9] == round(0.4 * 255)
    assert list(body[10:13]) == [round((c * 0.15 + 0.5) * 255) for c in (0.5, -0.5, 1.0)]
    assert list(body[13:16]) == [round((math.log(s) + 10) * 16) for s in (0.1, 0.2, 0.3)]
    x, y, z, w = (v / 0.95**0.5 for v in (0.2, 0.9, -0.3, 0.1))  # turned: y and z change sign
    packed = int.from_bytes(body[16:20], "little")
    assert packed >> 30 == 1  # y is the largest; its sign makes it positive
    others = []
    for shift in (20, 10, 0):
        field = packed >> shift & 1023
        others.append((field & 511) / 511 * 0.5**0.5 * (-1 if field & 512 else 1))
    assert others == pytest.approx([x, z, w], abs=1e-3)
    assert (1 - sum(v * v for v in others)) ** 0.5 == pytest.approx(y, abs=1e-3)
    # The three basis functions are -y, z and -x: the first two change sign.
    assert list(body[20:29]) == [96, 128, 128, 128, 64, 128, 128, 128, 32]


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_spz_4_holds_what_spz_3_holds(tmp_path, degree):
    pytest.importorskip("zstandard", reason="zstandard is not installed (the extra `spz`)")
    g = cloud(degree=degree)
    save_spz(g, tmp_path / "3.spz")
    save_spz(g, tmp_path / "4.spz", version=4)
    assert_same(load_spz(tmp_path / "4.spz"), load_spz(tmp_path / "3.spz"), atol=0, rtol=0)


def test_spz_4_has_the_published_layout(tmp_path):
    """Header, table of sizes, and streams whose bytes are those of version 3 in its order."""
    zstandard = pytest.importorskip(
        "zstandard", reason="zstandard is not installed (the extra `spz`)"
    )
    save_spz(cloud(9, 1), tmp_path / "3.spz")
    save_spz(cloud(9, 1), tmp_path / "4.spz", version=4)
    data = (tmp_path / "4.spz").read_bytes()
    start = struct.unpack_from("<4sIIBBBBI12s", data)
    assert start == (b"NGSP", 4, 9, 1, 12, 0, 6, 32, bytes(12))
    sizes = [struct.unpack_from("<QQ", data, 32 + 16 * i) for i in range(6)]
    assert [plain for _, plain in sizes] == [9 * w for w in (9, 1, 3, 3, 4, 9)]
    begin, body = 32 + 16 * 6, b""
    for packed, plain in sizes:
        body += zstandard.ZstdDecompressor().decompress(data[begin : begin + packed], plain)
        begin += packed
    assert begin == len(data)
    assert body == gzip.decompress((tmp_path / "3.spz").read_bytes())[16:]


def spz_4(parts, count=4, degree=0, flags=0, before=b""):
    """A version 4 file of these streams, each a Zstandard frame of one raw block (RFC 8878)."""

    def frame(data):
        block = (1 | len(data) << 3).to_bytes(3, "little")
        return b"\x28\xb5\x2f\xfd\x20" + bytes([len(data)]) + block + data

    frames = [frame(part) for part in parts]
    start = struct.pack(
        "<4sIIBBBBI12x", b"NGSP", 4, count, degree, 12, flags, len(frames), 32 + len(before)
    )
    table = b"".join(struct.pack("<QQ", len(f), len(p)) for f, p in zip(frames, parts))
    return start + before + table + b"".join(frames)


STREAMS = [bytes(36), bytes(4), bytes(12), bytes(12), bytes(16)]


def test_spz_4_made_by_hand_is_read_and_its_damage_named(tmp_path):
    pytest.importorskip("zstandard", reason="zstandard is not installed (the extra `spz`)")
    path = tmp_path / "g.spz"
    for parts in (STREAMS, [*STREAMS, b""]):  # some write the empty harmonics too
        path.write_bytes(spz_4(parts))
        assert load_spz(path).means.tolist() == [[0, 0, 0]] * 4
    good = spz_4(STREAMS)
    cases = {
        "cut": good[:-1],
        "longer": good + b"0",
        "header": good[:20],
        "count": spz_4(STREAMS, count=5),
        "many": spz_4(STREAMS, count=2**31),
        "degree": spz_4(STREAMS, degree=1),
        "extended": spz_4(STREAMS, flags=2, before=bytes(12)),
        "frame": good[:-30] + b"0" + good[-29:],
    }
    cases["frame"] = good[:112] + b"no" + good[114:]
    for name, content in cases.items():
        (tmp_path / f"{name}.spz").write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}\.spz"):
            load_spz(tmp_path / f"{name}.spz")


def test_small_files_that_unfold_are_refused(tmp_path):
    """190 KB of zeros in gzip are 200 MB of attributes, and 560 MB of Gaussians."""
    with gzip.open(tmp_path / "zeros.spz", "wb", 9) as file:
        file.write(struct.pack("<4sIIBBBB", b"NGSP", 3, 10**7, 0, 12, 0, 0))
        for _ in range(200):
            file.write(bytes(10**6))
    with pytest.raises(ValueError, match=r"zeros\.spz .* unfold to 200000000 bytes"):
        load_spz(tmp_path / "zeros.spz")


def test_spz_version_1_is_read(tmp_path):
    """Half floats, as load-spz.cc still reads them."""
    body = struct.pack("<3e", 1.0, -2.0, 0.0625) + bytes([255]) + bytes([128] * 3)
    body += bytes([160] * 3) + bytes([128] * 3)
    header = struct.pack("<4sIIBBBB", b"NGSP", 1, 1, 0, 12, 0, 0)
    (tmp_path / "g.spz").write_bytes(gzip.compress(header + body))
    assert load_spz(tmp_path / "g.spz").means.tolist() == [[1.0, 2.0, -0.0625]]


def test_spz_version_2_is_read(tmp_path):
    body = b"".join(v.to_bytes(3, "little", signed=True) for v in (4096, -8192, 256))
    body += bytes([255]) + bytes([128, 128, 128]) + bytes([160, 160, 160]) + bytes([128, 191, 128])
    header = struct.pack("<4sIIBBBB", b"NGSP", 2, 1, 0, 12, 0, 0)
    (tmp_path / "g.spz").write_bytes(gzip.compress(header + body))
    g = load_spz(tmp_path / "g.spz")
    torch.testing.assert_close(g.means, torch.tensor([[1.0, 2.0, -0.0625]]))
    torch.testing.assert_close(g.scales, torch.ones(1, 3))
    torch.testing.assert_close(
        g.quaternions, torch.tensor([[0.866, 0.0, -0.498, 0.0]]), atol=0.005, rtol=0
    )


def test_spz_keeps_far_positions_and_refuses_the_impossible(tmp_path):
    g = cloud(2)
    g.means[0, 0] = 30000.0
    save_spz(g, tmp_path / "g.spz")
    torch.testing.assert_close(load_spz(tmp_path / "g.spz").means, g.means, atol=4e-3, rtol=0)
    g.means[0, 0] = 1e9
    with pytest.raises(ValueError, match="8388607"):
        save_spz(g, tmp_path / "far.spz")
    assert os.listdir(tmp_path) == ["g.spz"]


def test_foreign_spz_is_refused_by_name(tmp_path):
    def packed(*values, body=b""):
        return gzip.compress(struct.pack("<4sIIBBBB", *values) + body)

    cases = {
        "text.spz": (b"hello", "not an SPZ"),
        "four.spz": (b"NGSP" + struct.pack("<I", 5) + bytes(40), "version 5"),
        "other.spz": (gzip.compress(b"x" * 50), "not an SPZ"),
        "nine.spz": (packed(b"NGSP", 9, 1, 0, 12, 0, 0), "version 9"),
        "degree.spz": (packed(b"NGSP", 3, 1, 7, 12, 0, 0), "degree 7"),
        "extended.spz": (packed(b"NGSP", 3, 1, 0, 12, 2, 0), "extensions"),
        "short.spz": (packed(b"NGSP", 3, 2, 0, 12, 0, 0, body=bytes(30)), "holds 4 of the 6 bytes"),
        "long.spz": (packed(b"NGSP", 3, 1, 0, 12, 0, 0, body=bytes(30)), "holds more"),
        "huge.spz": (packed(b"NGSP", 3, 2**32 - 1, 4, 12, 0, 0), "too few"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            load_spz(tmp_path / name)
        assert name in str(error.value)
