"""GLB with KHR_gaussian_splatting: its own bytes, and what other programs make of it and write."""

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch

from fourreal.formats import load_glb, save_glb
from fourreal.formats.similarity import moved
from fourreal.gaussians import Gaussians, harmonics_to_rgb, turn_about_x

from ..tiny import cloud
from .comparing import assert_same, same_rotation

PREFIX = "KHR_gaussian_splatting:"


def read_document(path):
    """(JSON, binary chunk) of a .glb file, read here by its specification."""
    data = path.read_bytes()
    magic, version, total = struct.unpack_from("<4sII", data)
    length, kind = struct.unpack_from("<I4s", data, 12)
    assert (magic, version, total, kind) == (b"glTF", 2, len(data), b"JSON")
    return json.loads(data[20 : 20 + length]), data[20 + length + 8 :]


def write_document(path, document, binary):
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(binary)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    chunks += struct.pack("<I4s", len(binary), b"BIN\0") + binary
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, total) + chunks)


def changed(tmp_path, change, count=12, degree=1):
    """A whole file whose document `change` was let at."""
    save_glb(cloud(count, degree), tmp_path / "changed.glb")
    document, binary = read_document(tmp_path / "changed.glb")
    binary = change(document, binary) or binary
    write_document(tmp_path / "changed.glb", document, binary)
    return tmp_path / "changed.glb"


@pytest.mark.parametrize(("count", "degree"), [(0, 0), (1, 0), (50, 1), (50, 3)])
def test_glb_loses_nothing(tmp_path, count, degree):
    g = cloud(count, degree)
    save_glb(g, tmp_path / "g.glb")
    assert_same(load_glb(tmp_path / "g.glb"), replace(g), atol=2e-7, rtol=0) if count else None
    assert len(load_glb(tmp_path / "g.glb")) == count


def test_glb_has_the_extension_s_layout(tmp_path):
    g = cloud(9, 2)
    save_glb(g, tmp_path / "g.glb")
    document, binary = read_document(tmp_path / "g.glb")
    assert document["extensionsUsed"] == ["KHR_gaussian_splatting"]
    (primitive,) = document["meshes"][0]["primitives"]
    assert primitive["mode"] == 0
    assert primitive["extensions"]["KHR_gaussian_splatting"] == {
        "kernel": "ellipse",
        "colorSpace": "srgb_rec709_display",
    }

    def values(name):
        accessor = document["accessors"][primitive["attributes"][name]]
        view = document["bufferViews"][accessor["bufferView"]]
        assert accessor["componentType"] == 5126 and accessor["count"] == 9
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        flat = np.frombuffer(binary, "<f4", 9 * width, view["byteOffset"])
        return torch.from_numpy(flat.reshape(9, width).copy())

    turned = turn_about_x(g)
    torch.testing.assert_close(values("POSITION"), g.means * torch.tensor([1.0, -1, -1]))
    w, x, y, z = turned.quaternions.unbind(1)
    torch.testing.assert_close(values(PREFIX + "ROTATION"), torch.stack([x, y, z, w], 1))
    torch.testing.assert_close(values(PREFIX + "SCALE"), g.scales)
    torch.testing.assert_close(values(PREFIX + "OPACITY")[:, 0], g.opacities)
    torch.testing.assert_close(values(PREFIX + "SH_DEGREE_0_COEF_0"), g.harmonics[:, 0])
    torch.testing.assert_close(values(PREFIX + "SH_DEGREE_2_COEF_3"), turned.harmonics[:, 7])
    linear = values("COLOR_0")
    srgb = torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    torch.testing.assert_close(
        srgb[:, :3], harmonics_to_rgb(g.harmonics).clamp(0, 1), atol=1e-5, rtol=1e-5
    )
    lowest = document["accessors"][primitive["attributes"]["POSITION"]]["min"]
    assert lowest == values("POSITION").amin(0).tolist()


def test_nodes_move_turn_and_scale_splats(tmp_path):
    half = 0.5**0.5
    outer = {"translation": [1, 2, 3], "children": [1]}
    inner = {"rotation": [0, half, 0, half], "scale": [2, 2, 2], "mesh": 0}

    def change(document, _):
        document["nodes"] = [outer, inner]

    result = turn_about_x(load_glb(changed(tmp_path, change)))
    turn = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # 90 degrees about y
    before = turn_about_x(cloud(12, 1))
    place = torch.tensor([1.0, 2, 3])
    expected = moved(before, 2.0, turn.double(), place)
    torch.testing.assert_close(
        expected.means, 2 * before.means @ turn.T + torch.tensor([1.0, 2, 3])
    )
    torch.testing.assert_close(result.means, expected.means, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(result.scales, 2 * before.scales)
    torch.testing.assert_close(result.harmonics, expected.harmonics, atol=1e-5, rtol=1e-5)
    assert same_rotation(result.quaternions, expected.quaternions).min() > 1 - 1e-5


def test_whole_numbers_and_strides_are_read(tmp_path):
    """Opacities as normalised bytes, four bytes apart, as KHR_mesh_quantization allows."""
    stored = np.array([0, 51, 255, 102] * 3, np.uint8)

    def change(document, binary):
        accessor = document["meshes"][0]["primitives"][0]["attributes"][PREFIX + "OPACITY"]
        rows = np.zeros((12, 4), np.uint8)
        rows[:, 0] = stored
        view = {"buffer": 0, "byteOffset": len(binary), "byteLength": 48, "byteStride": 4}
        document["bufferViews"].append(view)
        document["accessors"][accessor] = {
            **{"bufferView": len(document["bufferViews"]) - 1, "componentType": 5121},
            **{"normalized": True, "count": 12, "type": "SCALAR"},
        }
        document["buffers"][0]["byteLength"] += 48
        return binary + rows.tobytes()

    opacities = load_glb(changed(tmp_path, change)).opacities
    torch.testing.assert_close(opacities, torch.from_numpy(stored / 255).float())


def _set(*path_and_value):
    *path, last, value = path_and_value

    def change(document, _):
        for key in path:
            document = document[key]
        document[last] = value

    return change


SPLATS = ("meshes", 0, "primitives", 0, "extensions", "KHR_gaussian_splatting")
ENDLESS = {"children": [0], "mesh": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set(*SPLATS, "kernel", "box"), "kernel"),
        (_set(*SPLATS, "colorSpace", "lin_rec709_display"), "colorSpace"),
        (_set(*SPLATS, "extensions", {"KHR_spz": {}}), "KHR_spz"),
        (_set("extensionsRequired", ["EXT_meshopt_compression"]), "EXT_meshopt_compression"),
        (_set("extensionsUsed", []), "no Gaussians"),
        (_set("nodes", 0, "scale", [1, 2, 1]), "shears, mirrors or stretches"),
        (_set("nodes", 0, "rotation", [0, 0, 0, 0]), "quaternion"),
        (_set("nodes", [ENDLESS]), "without end"),
        (_set("scenes", 0, "nodes", [7]), "scenes"),
        (_set("bufferViews", 0, "byteOffset", 10**9), "truncated"),
        (_set("accessors", 0, "count", 10**9), "truncated"),
        (_set("accessors", 0, "count", 3), "same number"),
        (_set("accessors", 0, "componentType", 1), "floats"),
        (_set("buffers", 0, "uri", "http://example.org/x"), "binary chunk"),
    ],
)
def test_what_is_not_read_is_refused_by_name(tmp_path, change, message):
    def with_scene(document, binary):
        if message == "scenes":
            document["scenes"][0]["nodes"] = [7]
        else:
            change(document, binary)

    expected = "a number from 0 to 0" if message == "scenes" else message
    with pytest.raises(ValueError, match=expected) as error:
        load_glb(changed(tmp_path, with_scene))
    assert "changed.glb" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
def test_a_file_that_repeats_its_splats_without_bound_is_refused(tmp_path):
    def change(document, _):
        document["nodes"] = [{"mesh": 0}]
        document["scenes"] = [{"nodes": [0] * 60_000}]

    with pytest.raises(ValueError, match="repeats"):
        load_glb(changed(tmp_path, change, count=50))


def test_fourdgs_and_we_read_each_others_glb(tmp_path):
    fourdgs = pytest.importorskip("fourdgs", reason="fourdgs is not installed (the extra)")
    g = cloud(30, 0)
    save_glb(g, tmp_path / "ours.glb")
    theirs = fourdgs.from_gltf(str(tmp_path / "ours.glb")).gaussians
    turned = turn_about_x(g)
    np.testing.assert_allclose(theirs.positions, turned.means, atol=1e-6)
    np.testing.assert_allclose(theirs.scales, turned.scales, rtol=1e-5)
    np.testing.assert_allclose(theirs.colors[:, 3], turned.opacities, atol=1e-6)
    agreement = (torch.from_numpy(theirs.rotations).roll(1, -1) * turned.quaternions).sum(-1)
    assert agreement.abs().min() > 1 - 1e-6
    fourdgs.to_gltf(
        str(tmp_path / "theirs.glb"),
        theirs,
        0.0,
        cutoff=0.05,
        coordinate_system="y-up-right-handed",
    )
    again = load_glb(tmp_path / "theirs.glb")
    torch.testing.assert_close(again.means, g.means, atol=1e-5, rtol=0)
    torch.testing.assert_close(again.opacities, g.opacities, atol=1e-6, rtol=0)


def test_empty_gaussians_keep_their_place_in_a_sequence(tmp_path):
    save_glb(Gaussians.empty(), tmp_path / "e.glb")
    assert len(load_glb(tmp_path / "e.glb")) == 0
