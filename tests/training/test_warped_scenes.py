"""Warped scenes: what the first view shows is right, the geometry is the one asked for, and
training sees training scenes alone."""

from types import SimpleNamespace

import pytest
import torch

from fourreal.data.cache import fingerprint
from fourreal.data.grids import DataConfig
from fourreal.scenes import make_scene, scene_seed
from fourreal.training.warped_scenes import WarpCache, WarpData, first_view_depth, warp_first_view

from ..tiny import tiny_model

SIZE = (3, 5, 48, 48)


class Answering:
    """A reconstructor that answers with one depth of its own unit, and counts its calls."""

    def __init__(self, depth=None):
        self.model, self.depth, self.calls = tiny_model(), depth, 0

    def __call__(self, frames, **options):
        assert len(frames) == 1  # it sees the given view alone
        self.calls += 1
        return SimpleNamespace(depth=torch.ones(frames[:, :, 0].shape) * self.depth)


def scene_of(split, index):
    return make_scene(scene_seed(split, index), *SIZE)


def test_the_first_view_is_known_whole_and_the_others_as_far_as_it_saw_them():
    scene = scene_of("validation", 2)
    warped = warp_first_view(scene, scene.depth[:1])
    assert torch.equal(warped.frames[0], scene.frames[0]) and not warped.missing[0].any()
    known = warped.missing[1:, :, 0] == 0
    assert 0.25 < known.float().mean() < 0.95
    error = (warped.frames - scene.frames)[1:].square().movedim(2, -1)[known].mean()
    assert -10 * error.log10() > 30


@pytest.mark.parametrize("unit", [0.1, 7.0])
def test_predicted_depth_comes_in_the_unit_of_the_cameras(unit):
    scene = scene_of("validation", 3)
    depth = first_view_depth(scene, Answering(unit * scene.depth[:1]))
    assert (depth / scene.depth[:1] - 1).abs().max() < 1e-5


def test_scenes_have_exact_and_predicted_depth_by_turns_and_are_drawn_once(tmp_path):
    reconstructor = Answering(1.0)  # a wall: as wrong as depth can be
    cache = WarpCache(tmp_path, "validation", SIZE, reconstructor)
    cache.fill(2)
    assert reconstructor.calls == 1
    for index, depth in ((0, scene_of("validation", 0).depth[:1]), (1, None)):
        scene = scene_of("validation", index)
        wall = torch.full_like(scene.depth[:1], scene.depth[:1].median())
        expected = warp_first_view(scene, wall if depth is None else depth)
        example = WarpCache(tmp_path, "validation", SIZE, reconstructor).get(index)
        assert example.caption == scene.caption
        assert torch.equal(example.warped.missing, expected.missing)
        assert (example.frames - scene.frames).abs().max() <= 0.5 / 255 + 1e-6
        assert (example.warped.frames - expected.frames).abs().max() <= 0.5 / 255 + 1e-6
    assert reconstructor.calls == 1
    assert fingerprint(reconstructor.model) in cache.folder.name


def test_training_sees_training_scenes_in_both_directions_of_time(tmp_path):
    data = WarpData(DataConfig(scenes=1, height=48, width=48, cache=tmp_path), *SIZE[:2])
    data.fill()
    assert data.captions() == [scene_of("train", 0).caption]
    forwards = data.training.get(0)
    assert (forwards.frames - scene_of("train", 0).frames).abs().max() < 0.003
    seen = set()
    for seed in range(8):
        example = data.draw(torch.Generator().manual_seed(seed))
        turned = bool((example.frames != forwards.frames).any())
        for own, given in zip(example.tensors(), forwards.tensors()):
            assert torch.equal(own, given.flip(1) if turned else given)
        seen.add(turned)
    assert seen == {False, True}


@pytest.mark.parametrize("options", [{"videos": ("clips",)}, {"scenes": 0}])
def test_clips_whose_geometry_is_not_known_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match="procedural scenes alone"):
        WarpData(DataConfig(cache=tmp_path, **options), 2, 5)
