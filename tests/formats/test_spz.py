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
from .comparing import same_rotation


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
        "four.spz": (b"NGSP" + bytes(40), "version 4"),
        "other.spz": (gzip.compress(b"x" * 50), "not an SPZ"),
        "nine.spz": (packed(b"NGSP", 9, 1, 0, 12, 0, 0), "version 9"),
        "degree.spz": (packed(b"NGSP", 3, 1, 7, 12, 0, 0), "degree 7"),
        "extended.spz": (packed(b"NGSP", 3, 1, 0, 12, 2, 0), "extensions"),
        "short.spz": (packed(b"NGSP", 3, 2, 0, 12, 0, 0, body=bytes(30)), "need 40"),
        "long.spz": (packed(b"NGSP", 3, 1, 0, 12, 0, 0, body=bytes(30)), "holds more"),
        "huge.spz": (packed(b"NGSP", 3, 2**32 - 1, 4, 12, 0, 0), "too few"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            load_spz(tmp_path / name)
        assert name in str(error.value)
