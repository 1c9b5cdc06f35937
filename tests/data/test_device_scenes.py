"""Procedural scenes in a device's memory are those on disk."""

import torch

from fourreal.data.device_scenes import DeviceScenes
from fourreal.data.grids import DataConfig, GridData, Pick
from fourreal.scenes import describe, describe_scenes, scene_seed


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
