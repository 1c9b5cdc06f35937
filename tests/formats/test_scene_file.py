"""The scene file: a whole scene comes back, mapped and not read, or is refused by name."""

import json
import struct

import psutil
import pytest
import torch
from safetensors.torch import save_file

from fourreal.formats import load_scene, save_scene
from fourreal.gaussians import Gaussians

from ..tiny import cloud
from .comparing import assert_same, scene


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
