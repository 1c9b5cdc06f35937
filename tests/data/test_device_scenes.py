"""Procedural scenes in a device's memory are those on disk."""

import pytest
import torch

from fourreal.cameras import relative_to_first
from fourreal.data import device_scenes
from fourreal.data.device_scenes import DeviceScenes, draw_frames
from fourreal.data.grids import DataConfig, GridData, Pick
from fourreal.data.posed import choose_sample
from fourreal.scenes import describe, describe_scenes, scene_seed

from ..pretend_cuda import PretendCuda


def test_examples_from_memory_are_those_from_disk(tmp_path):
    data = GridData(DataConfig(scenes=3, first_scene=2, height=16, width=16, cache=tmp_path), 8, 29)
    scenes = DeviceScenes("train", range(2, 5), (8, 29, 16, 16), torch.device("cpu"))
    picks = [Pick("procedural", 2 + n % 3, seed=n) for n in range(6)]
    backwards = set()
    for views, frames in ((8, 1), (1, 29), (3, 9)):
        windows = [data.window(pick, views, frames) for pick in picks]
        kept = scenes.read(windows)
        for pick, window, example in zip(picks, windows, kept):
            assert torch.equal(example, data.draw(pick, views, frames).frames)
            backwards.add(window.backwards)
    assert backwards == {False, True}


def test_many_scenes_are_described_as_one_by_one(monkeypatch):
    monkeypatch.setattr("fourreal.scenes.MANY", 3)
    captions = [scene.caption for scene in describe_scenes("validation", range(1, 6), 2, 5)]
    assert captions == [describe(scene_seed("validation", n), 2, 5).caption for n in range(1, 6)]


@pytest.mark.parametrize("pixels", [1, 40 * 16 * 16, 2**19])  # one frame, 40 or all at a time
def test_frames_drawn_together_are_those_drawn_by_time_in_full_precision(pixels, monkeypatch):
    monkeypatch.setattr(device_scenes, "PIXELS_OF_SOME", pixels)
    chosen = choose_sample([5, 9, 11, 77], [0, 3, 7], [2, 9, 20, 28], num_views=12, size=16)
    wanted = chosen.to("cpu")
    with torch.autocast("cpu", torch.bfloat16):
        frames, depth = draw_frames(chosen.batch, 16, 16)
    assert frames.shape == (4, 4, 3, 3, 16, 16) and depth.shape == (4, 4, 3, 16, 16)
    assert torch.equal(frames, wanted.frames) and torch.equal(depth, wanted.depth)
    assert chosen.batch.camera.shape == (4, 3, 3)  # as it was


def test_a_sample_is_the_same_wherever_it_is_drawn():
    chosen = choose_sample([5, 9], [0, 3], [2, 9, 20], num_views=12, size=16)
    wanted = chosen.to("cpu")
    with PretendCuda() as device:
        drawn = chosen.to("cuda")
        assert device.operations["cuda"] > 100
        found = drawn.to("cpu")
    for name, value in vars(wanted).items():
        torch.testing.assert_close(getattr(found, name), value, atol=1e-5, rtol=1e-5)
    for own, world in zip(wanted.extrinsics, chosen.batch.extrinsics):
        torch.testing.assert_close(own, relative_to_first(world))
