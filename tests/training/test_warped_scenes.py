"""Warped scenes: what the first view shows is right, the geometry is the one asked for, and
training sees training scenes alone."""

from types import SimpleNamespace

import pytest
import torch

from fourreal.data.cache import fingerprint
from fourreal.data.grids import DataConfig
from fourreal.scenes import make_scene, scene_seed
from fourreal.training.warped_scenes import (
    QUICK_FROM,
    WarpCache,
    WarpData,
    first_view_depth,
    seen_from_first_view,
    warp_first_view,
)
from fourreal.warp import HOLE

from ..tiny import tiny_model

SIZE = (3, 5, 48, 48)


class Answering:
    """A reconstructor that answers with one depth of its own unit, and counts its calls."""

    def __init__(self, depth=None, sure=2.0):
        self.model, self.depth, self.sure, self.calls = tiny_model(), depth, sure, 0
        self.device = torch.device("cpu")

    def __call__(self, frames, **options):
        assert len(frames) == 1  # it sees the given view alone
        self.calls += 1
        depth = torch.ones(frames[:, :, 0].shape) * self.depth
        return SimpleNamespace(depth=depth, depth_confidence=torch.full_like(depth, self.sure))


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
    depth, sure = first_view_depth(scene, Answering(unit * scene.depth[:1]))
    assert (depth / scene.depth[:1] - 1).abs().max() < 1e-5
    assert torch.equal(sure, torch.full_like(depth, 2.0))


def test_scenes_have_exact_and_predicted_depth_by_turns_and_are_drawn_once(tmp_path):
    reconstructor = Answering(1.0, sure=1.0)  # a wall: as wrong as depth can be, and not sure
    cache = WarpCache(tmp_path, "validation", SIZE, reconstructor)
    cache.fill(range(2))
    assert reconstructor.calls == 1
    for index, depth in ((0, scene_of("validation", 0).depth[:1]), (1, None)):
        scene = scene_of("validation", index)
        wall = torch.full_like(scene.depth[:1], scene.depth[:1].median())
        guess = {"depth": wall, "confidence": torch.ones_like(wall)}
        expected = warp_first_view(scene, **(guess if depth is None else {"depth": depth}))
        example = WarpCache(tmp_path, "validation", SIZE, reconstructor).get(index).floats()
        assert example.caption == scene.caption
        assert torch.equal(example.warped.missing, expected.missing)
        assert (example.frames - scene.frames).abs().max() <= 0.5 / 255 + 1e-6
        assert (example.warped.frames - expected.frames).abs().max() <= 0.5 / 255 + 1e-6
    assert reconstructor.calls == 1
    assert fingerprint(reconstructor.model) in cache.folder.name


def test_training_sees_training_scenes_in_both_directions_of_time(tmp_path):
    config = DataConfig(scenes=1, height=48, width=48, cache=tmp_path)
    data = WarpData(config, *SIZE[:2], 0, Answering(1.0))
    data.fill()
    assert data.captions() == [scene_of("train", 0).caption]
    forwards = data.warped.get(0)
    assert (forwards.floats().frames - scene_of("train", 0).frames).abs().max() < 0.003
    seen, orders = set(), set()
    for seed in range(24):
        example = data.draw(torch.Generator().manual_seed(seed))
        turned = bool((example.warped.missing != forwards.warped.missing).any())
        upright = example.backwards() if turned else example
        means = [e.frames.float().mean((0, 1, 3, 4)) for e in (upright, forwards)]
        order = [int((mean - means[1]).abs().argmin()) for mean in means[0]]
        for own, given in zip(upright.tensors()[:2], forwards.tensors()[:2]):
            assert torch.equal(own, given[:, :, order])
        assert example.caption == ("" if order != [0, 1, 2] else example.caption)
        seen.add(turned)
        orders.add(tuple(order))
    assert seen == {False, True} and len(orders) > 3


@pytest.mark.parametrize("options", [{"videos": ("clips",)}, {"scenes": 0}])
def test_clips_whose_geometry_is_not_known_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match="procedural scenes alone"):
        WarpData(DataConfig(cache=tmp_path, **options), 2, 5, 0, Answering(1.0))


@pytest.mark.parametrize("index", [1, 4])
def test_holes_told_from_exact_depth_are_much_like_those_of_a_warp(index):
    size = (4, 5, 64, 64)
    scene = make_scene(scene_seed("validation", index), *size)
    quick, warped = seen_from_first_view(scene), warp_first_view(scene, scene.depth[:1])
    assert not quick.missing[0].any() and torch.equal(quick.frames[0], scene.frames[0])
    holes, others = (grid.missing[1:] > 0.5 for grid in (quick, warped))
    assert (holes & others).sum() > 0.6 * (holes | others).sum()
    assert abs(holes.float().mean() - others.float().mean()) < 0.1
    assert torch.equal(quick.frames, torch.where(quick.missing > 0.5, HOLE, scene.frames))


def test_background_that_stands_still_is_seen_at_all_times():
    scene = make_scene(scene_seed("validation", 1), 2, 9, 64, 64)
    longer = seen_from_first_view(scene).missing[1, 0]
    scene.depth, scene.moving = scene.depth[:, :1], scene.moving[:, :1]
    scene.frames = scene.frames[:, :1]
    first = seen_from_first_view(scene).missing[1, 0]
    assert (longer <= first).all() and longer.sum() < first.sum()


def test_quick_scenes_are_others_and_are_not_warped(tmp_path):
    config = DataConfig(scenes=1, height=48, width=48, cache=tmp_path)
    data = WarpData(config, *SIZE[:2], 1, Answering(1.0))
    other = scene_of("train", QUICK_FROM)
    assert data.captions() == [scene_of("train", 0).caption, other.caption]
    examples = [data.draw(torch.Generator().manual_seed(seed)) for seed in range(12)]
    drawn = [example.floats().warped.missing for example in examples]
    expected = seen_from_first_view(other).missing
    quick = [any(torch.equal(m, e) for e in (expected, expected.flip(1))) for m in drawn]
    assert 2 < sum(quick) < 10
