"""PLY: round trips, the layout of 3DGS, other programs' files, damage."""

import math
import random
import struct
import tracemalloc

import numpy as np
import pytest
import torch

from fourreal.formats import load_ply, save_ply
from fourreal.gaussians import Gaussians

from ..tiny import cloud
from .comparing import assert_same


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
    assert header.startswith(
        b"ply\nformat binary_little_endian 1.0\n"
        b"comment Vertical axis: y\n"
        b"comment Axes: x right, y down, z forward (OpenCV)\n"
        b"element vertex 3\n"
    )
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
        "words.ply": (b"ply\nformat words 1.0\nelement vertex 0\nend_header\n", "binary"),
        "mesh.ply": (
            b"ply\nformat binary_little_endian 1.0\nelement face 3\n"
            b"property list uchar int vertex_indices\nend_header\n",
            "holds face",
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
    with pytest.raises(ValueError, match="truncated or damaged"):
        load_ply(tmp_path / "g.ply")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6
