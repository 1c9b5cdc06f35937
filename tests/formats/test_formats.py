"""Files of Gaussians and scenes: round trips, published layouts, damage, nothing half-written."""

import gzip
import json
import math
import os
import random
import struct
import time
import tracemalloc

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import save_file

from fourreal.files.atomic import atomic_path
from fourreal.formats import (
    load_gaussians,
    load_ply,
    load_ply_sequence,
    load_scene,
    load_splat,
    load_spz,
    save_gaussians,
    save_ply,
    save_ply_sequence,
    save_scene,
    save_splat,
    save_spz,
)
from fourreal.formats.spz import turn_about_x
from fourreal.gaussians import SH_C0, Gaussians, GaussianScene
from fourreal.rendering import render

from ..tiny import cloud

FIELDS = ("means", "quaternions", "scales", "opacities", "harmonics")


def scene():
    r = torch.Generator().manual_seed(3)
    return GaussianScene(
        cloud(20, 2),
        [cloud(7, 1, 1), Gaussians.empty(1), cloud(3, 0, 2)],
        torch.randn(4, 3, 4, generator=r),
        torch.randn(4, 3, 3, generator=r),
        64,
        48,
        12.5,
        {"prompt": "a käse", "seed": "7"},
    )


def assert_same(result, expected, **tolerance):
    for name in FIELDS:
        torch.testing.assert_close(
            getattr(result, name),
            getattr(expected, name),
            msg=lambda m, n=name: f"{n}: {m}",
            **tolerance,
        )


def same_rotation(q, other):
    return (q * other).sum(-1).abs()


# --- PLY --------------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", range(5))
def test_ply_comes_back(tmp_path, degree):
    g = cloud(degree=degree)
    save_ply(g, tmp_path / "g.ply")
    assert_same(load_ply(tmp_path / "g.ply"), g, atol=1e-6, rtol=1e-6)


def test_ply_has_the_layout_of_3dgs(tmp_path):
    """Values against the formulas of the 3DGS code: log scale, logit opacity, channels in turn."""
    g = cloud(3, degree=1)
    save_ply(g, tmp_path / "g.ply")
    header, data = (tmp_path / "g.ply").read_bytes().split(b"end_header\n")
    names = [line.split()[-1] for line in header.decode().splitlines() if "property" in line]
    expected = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    expected += [f"f_rest_{i}" for i in range(9)]
    expected += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert names == expected
    assert header.startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex 3\n")
    assert len(data) == 3 * 4 * len(names)
    values = dict(zip(names, struct.unpack_from(f"<{len(names)}f", data, 4 * len(names))))
    h = g.harmonics[1].tolist()
    assert values["z"] == pytest.approx(float(g.means[1, 2]))
    assert values["f_dc_1"] == pytest.approx(h[0][1])
    assert values["f_rest_2"] == pytest.approx(h[3][0])  # red, third coefficient
    assert values["f_rest_3"] == pytest.approx(h[1][1])  # green, first coefficient
    assert values["scale_2"] == pytest.approx(math.log(g.scales[1, 2]))
    assert values["rot_0"] == pytest.approx(float(g.quaternions[1, 0]))
    opacity = float(g.opacities[1])
    assert values["opacity"] == pytest.approx(math.log(opacity / (1 - opacity)), rel=1e-5)


def test_extreme_opacities_and_scales_stay_finite(tmp_path):
    g = cloud(2)
    g.opacities = torch.tensor([0.0, 1.0])
    g.scales[0] = 0.0
    save_ply(g, tmp_path / "g.ply")
    result = load_ply(tmp_path / "g.ply")
    torch.testing.assert_close(result.opacities, g.opacities, atol=1e-6, rtol=0)
    torch.testing.assert_close(result.scales, g.scales, atol=1e-6, rtol=1e-5)


def test_empty_ply_comes_back(tmp_path):
    save_ply(Gaussians.empty(4), tmp_path / "g.ply")
    assert load_ply(tmp_path / "g.ply").harmonics.shape == (0, 4, 3)


def foreign_ply(g, shuffle=True, trailer=b""):
    """Another program's PLY: other order, other types, comments, an unknown property."""
    names = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{i}" for i in range(9))]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    columns = torch.cat(
        [
            *(g.means, g.harmonics[:, 0], g.harmonics[:, 1:].transpose(1, 2).reshape(len(g), 9)),
            *(g.opacities.logit()[:, None], g.scales.log(), g.quaternions),
        ],
        dim=1,
    ).numpy()
    order = list(range(len(names)))
    if shuffle:
        random.Random(0).shuffle(order)
    types = [(names[i], "<f8" if i % 3 == 0 else "<f4") for i in order]
    types.insert(4, ("red", "u1"))
    table = np.zeros(len(g), np.dtype(types))
    for i in order:
        table[names[i]] = columns[:, i]
    lines = ["ply", "format binary_little_endian 1.0", "comment made elsewhere"]
    lines += [f"element vertex {len(g)}"]
    words = {"<f8": "double", "<f4": "float32", "u1": "uchar"}
    lines += [f"property {words[kind]} {name}" for name, kind in types]
    if trailer:
        lines += ["element camera 1", "property float focal"]
    return "\r\n".join([*lines, "end_header", ""]).encode() + table.tobytes() + trailer


@pytest.mark.parametrize("trailer", [b"", struct.pack("<f", 1.5)])
def test_ply_of_any_field_order_and_type_is_read(tmp_path, trailer):
    g = cloud(9, degree=1)
    (tmp_path / "g.ply").write_bytes(foreign_ply(g, trailer=trailer))
    assert_same(load_ply(tmp_path / "g.ply"), g, atol=1e-6, rtol=1e-5)


def test_what_is_not_gaussian_ply_is_refused_by_name(tmp_path):
    cases = {
        "points.ply": (
            b"ply\nformat binary_little_endian 1.0\nelement vertex 0\n"
            b"property float x\nproperty float y\nproperty float z\nend_header\n",
            "no f_dc_0",
        ),
        "ascii.ply": (b"ply\nformat ascii 1.0\nelement vertex 0\nend_header\n", "binary"),
        "compressed.ply": (
            b"ply\nformat binary_little_endian 1.0\nelement chunk 3\n"
            b"property float min_x\nend_header\n",
            "element chunk",
        ),
        "text.ply": (b"hello", "not a PLY"),
        "empty.ply": (b"", "not a PLY"),
        "endless.ply": (b"ply\n" + b"comment x\n" * 20000, "end_header"),
        "rest.ply": (foreign_ply(cloud(2)).replace(b"f_rest_8", b"f_rest_9"), "f_rest"),
        "nan.ply": (
            foreign_ply(cloud(2)[torch.tensor([0, 1])].map(lambda x: x * float("nan"))),
            "not finite",
        ),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            load_ply(tmp_path / name)
        assert name in str(error.value)


@pytest.mark.parametrize("count", [10**6, 10**18, 2**64])
def test_a_header_that_promises_too_much_costs_nothing(tmp_path, count):
    save_ply(cloud(4), tmp_path / "g.ply")
    content = (tmp_path / "g.ply").read_bytes().replace(b"vertex 4\n", b"vertex %d\n" % count)
    (tmp_path / "g.ply").write_bytes(content)
    tracemalloc.start()
    begin = time.perf_counter()
    with pytest.raises(ValueError, match="truncated or damaged"):
        load_ply(tmp_path / "g.ply")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6
    assert time.perf_counter() - begin < 1


# --- SPZ and .splat ---------------------------------------------------------------------------


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
    assert packed >> 30 == 1  # y is the largest and positive
    for shift, value in ((20, x), (10, z), (0, w)):
        field = packed >> shift & 1023
        decoded = (field & 511) / 511 * 0.5**0.5 * (-1 if field & 512 else 1)
        assert decoded == pytest.approx(value, abs=1e-3)
    # The three basis functions are -y, z and -x: the first two change sign.
    assert list(body[20:29]) == [96, 128, 128, 128, 64, 128, 128, 128, 32]
    assert y > 0.9


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


@pytest.mark.parametrize("degree", range(5))
def test_a_turned_scene_from_a_turned_camera_is_the_same_image(degree):
    g = cloud(60, degree)
    g.means[:, 2] += 4
    turn = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    extrinsics = torch.eye(3, 4)[None]
    intrinsics = torch.tensor([[[30.0, 0, 16], [0, 30, 16], [0, 0, 1]]])
    turned = extrinsics.clone()
    turned[0, :, :3] = turn
    expected = render(g, extrinsics, intrinsics, 32, 32).color
    result = render(turn_about_x(g), turned, intrinsics, 32, 32).color
    assert expected.max() > 0.2
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


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


def test_splat_comes_back_within_its_quantisation(tmp_path):
    g = cloud(degree=0)
    save_splat(g, tmp_path / "g.splat")
    assert (tmp_path / "g.splat").stat().st_size == 32 * len(g)
    result = load_splat(tmp_path / "g.splat")
    assert torch.equal(result.means, g.means)
    assert torch.equal(result.scales, g.scales)
    torch.testing.assert_close(result.opacities, g.opacities, atol=0.5 / 255 + 1e-6, rtol=0)
    torch.testing.assert_close(result.harmonics, g.harmonics, atol=0.5 / 255 / SH_C0 + 1e-5, rtol=0)
    assert same_rotation(result.quaternions, g.quaternions).min() > 1 - 1e-4


def test_splat_has_the_published_layout(tmp_path):
    g = cloud(2, degree=2)
    save_splat(g, tmp_path / "g.splat")
    record = struct.unpack_from("<6f8B", (tmp_path / "g.splat").read_bytes(), 32)
    assert list(record[:6]) == [*g.means[1].tolist(), *g.scales[1].tolist()]
    color = (0.5 + SH_C0 * g.harmonics[1, 0]).tolist()
    assert list(record[6:9]) == [round(255 * c) for c in color]
    assert record[9] == round(255 * float(g.opacities[1]))
    assert list(record[10:]) == [round(128 + 128 * q) for q in g.quaternions[1].tolist()]


def test_foreign_splat_is_refused_by_name(tmp_path):
    bad = struct.pack("<6f8B", *[float("inf")] * 6, *[0] * 8)
    for name, content in {"cut.splat": bytes(33), "inf.splat": bad}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            load_splat(tmp_path / name)


def test_the_suffix_chooses_the_format(tmp_path):
    g = cloud(5, 0)
    for suffix in (".ply", ".SPZ", ".splat"):
        save_gaussians(g, tmp_path / f"g{suffix}")
        assert len(load_gaussians(tmp_path / f"g{suffix}")) == 5
    with pytest.raises(ValueError, match=r"\.obj.*\.ply, \.spz, \.splat"):
        save_gaussians(g, tmp_path / "g.obj")


# --- scenes -----------------------------------------------------------------------------------


def test_a_scene_comes_back(tmp_path):
    expected = scene()
    save_scene(expected, tmp_path / "new" / "scene.safetensors")
    result = load_scene(tmp_path / "new" / "scene.safetensors")
    assert_same(result.static, expected.static, atol=0, rtol=0)
    assert [len(g) for g in result.dynamic] == [7, 0, 3]
    for mine, theirs in zip(result.dynamic, expected.dynamic):
        # Times are stored one after another, so with the highest degree among them.
        padded = Gaussians.concatenate([theirs, Gaussians.empty(4)])
        assert_same(mine, padded, atol=0, rtol=0)
    assert torch.equal(result.extrinsics, expected.extrinsics)
    assert torch.equal(result.intrinsics, expected.intrinsics)
    assert (result.width, result.height, result.fps) == (64, 48, 12.5)
    assert result.metadata == expected.metadata


def test_a_scene_file_says_what_it_is(tmp_path):
    save_scene(scene(), tmp_path / "scene.safetensors")
    content = (tmp_path / "scene.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack_from("<Q", content)[0]])
    assert header["__metadata__"]["format"] == "fourreal.scene"
    assert header["__metadata__"]["fps"] == "12.5"
    assert header["dynamic.means"]["shape"] == [10, 3]
    assert header["dynamic.counts"]["shape"] == [3]


def test_a_foreign_scene_file_is_refused_by_name(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "text.safetensors").write_bytes(b"hello")
    save_scene(scene(), tmp_path / "good.safetensors")
    good = (tmp_path / "good.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(good[:-40])
    (tmp_path / "next.safetensors").write_bytes(good.replace(b'"version":"1"', b'"version":"2"'))
    (tmp_path / "fps.safetensors").write_bytes(good.replace(b'"fps":"12.5"', b'"fps":"-2.5"'))
    counts = struct.pack("<3q", 7, 0, 3)
    assert counts in good
    (tmp_path / "counts.safetensors").write_bytes(
        good.replace(counts, struct.pack("<3q", 2**40, 0, 3))
    )
    for name in ("model", "text", "cut", "next", "fps", "counts"):
        with pytest.raises(ValueError, match=name + r"\.safetensors"):
            load_scene(tmp_path / f"{name}.safetensors")


def test_a_ply_sequence_comes_back_and_replaces_a_longer_one(tmp_path):
    folder = tmp_path / "sequence"
    longer = scene()
    longer.dynamic = longer.dynamic * 4
    save_ply_sequence(longer, folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "frame_0002.ply").write_bytes(b"old")
    paths = save_ply_sequence(scene(), folder)
    assert [p.name for p in paths] == ["frame_0001.ply", "frame_0002.ply", "frame_0003.ply"]
    assert sorted(os.listdir(folder)) == [*(p.name for p in paths), "notes.txt"]
    assert os.listdir(tmp_path) == ["sequence"]
    for time_, g in enumerate(load_ply_sequence(folder)):
        assert_same(g, scene().at(time_), atol=1e-6, rtol=1e-5)


def test_a_sequence_is_read_in_natural_order(tmp_path):
    for i in (10, 9, 1):
        save_ply(cloud(i, 0), tmp_path / f"f{i}.ply")
    assert [len(g) for g in load_ply_sequence(tmp_path)] == [1, 9, 10]


def test_a_folder_without_ply_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no \.ply"):
        load_ply_sequence(tmp_path)


# --- nothing half-written, nothing believed ----------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_keeps_the_old_file(tmp_path, error):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]
    with atomic_path(path) as temporary:
        assert temporary.suffix == ".bin"
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_an_interrupted_sequence_keeps_the_old_one(tmp_path, monkeypatch):
    from fourreal.formats import sequence

    save_ply_sequence(scene(), tmp_path / "sequence")
    before = {p.name: p.read_bytes() for p in (tmp_path / "sequence").iterdir()}
    calls = []

    def interrupt(gaussians, path):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        save_ply(gaussians, path)

    monkeypatch.setattr(sequence, "save_ply", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_ply_sequence(scene(), tmp_path / "sequence")
    assert {p.name: p.read_bytes() for p in (tmp_path / "sequence").iterdir()} == before
    assert os.listdir(tmp_path) == ["sequence"]


FORMATS = {
    "g.ply": (lambda path: save_ply(cloud(12), path), load_ply),
    "g.spz": (lambda path: save_spz(cloud(12), path), load_spz),
    "g.splat": (lambda path: save_splat(cloud(12), path), load_splat),
    "s.safetensors": (lambda path: save_scene(scene(), path), load_scene),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_truncation_is_noticed(tmp_path, name):
    save, load = FORMATS[name]
    save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    path = tmp_path / f"cut_{name}"
    for length in range(0, len(content), max(1, len(content) // 150)):
        if name == "g.splat" and length % 32 == 0:
            continue  # a shorter file of the same format
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=path.name.replace(".", r"\.")):
            load(path)


def test_a_scene_is_opened_without_reading_it(tmp_path):
    """The tensors are mapped: 60 MB of Gaussians cost memory when they are used."""
    large = scene()
    large.dynamic = [cloud(500_000, 1), cloud(10, 1)]
    save_scene(large, tmp_path / "large.safetensors")
    del large
    assert (tmp_path / "large.safetensors").stat().st_size > 45e6
    process = psutil.Process()
    before = process.memory_full_info().uss
    opened = load_scene(tmp_path / "large.safetensors")
    assert len(opened.at(1)) == 30
    assert process.memory_full_info().uss - before < 10e6
    assert opened.dynamic[0].means.abs().max() > 3
