"""A scene is pruned as its reconstruction would have been, and taken apart."""

from dataclasses import replace

import pytest
import torch

from fourreal.gaussians import Gaussians, GaussianScene
from fourreal.reconstruction import Filters, prune_scene, static_and_dynamic
from fourreal.reconstruction.maps import Maps
from fourreal.reconstruction.pixels_to_gaussians import emit_gaussians
from fourreal.reconstruction.split import StaticSplit

from ..tiny import cloud

LENS = torch.tensor([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]])
VIEWS = torch.eye(3, 4)[None], LENS[None]


def a_scene(confidences: bool = True) -> GaussianScene:
    """12 Gaussians that stand, 5 and 3 that move; each is as certain as its number says."""
    parts = [cloud(12, 1), cloud(5, 1, 1), cloud(3, 1, 2)]
    sure = [torch.arange(12.0), torch.arange(20.0, 25), torch.arange(30.0, 33)]
    scene = GaussianScene(parts[0], parts[1:], *VIEWS, 64, 48)
    scene.confidences = sure if confidences else None
    return scene


def test_faint_gaussians_go_from_every_part():
    scene = a_scene()
    left = prune_scene(scene, min_opacity=0.5)
    for before, after in zip([scene.static, *scene.dynamic], [left.static, *left.dynamic]):
        assert torch.equal(after.means, before.means[before.opacities >= 0.5])
    assert [len(c) for c in left.confidences] == [len(p) for p in (left.static, *left.dynamic)]
    assert len(scene.static) == 12


def test_the_least_certain_share_goes():
    left = prune_scene(a_scene(), confidence_percentile=50)  # of 20 the 10 below the median
    assert [len(p) for p in (left.static, *left.dynamic)] == [2, 5, 3]
    assert left.confidences[0].tolist() == [10, 11]


@pytest.mark.parametrize("confidences", [True, False])
def test_what_shares_a_voxel_becomes_one_at_its_weighted_middle(confidences):
    """Two of three Gaussians are in one voxel of 5 pixels of 1/50 at distance 2: 0.2 wide."""
    means = torch.tensor([[0.01, 0.01, 2.01], [0.05, 0.01, 2.01], [0.9, 0.01, 2.01]])
    part = Gaussians(
        *(means, torch.eye(4)[:3], torch.ones(3, 3)),
        *(torch.tensor([0.25, 0.75, 0.5]), torch.zeros(3, 1, 3)),
    )
    scene = GaussianScene(part, [Gaussians.empty()], *VIEWS, 64, 48)
    scene.confidences = [torch.tensor([3.0, 1, 1]), torch.zeros(0)] if confidences else None
    left = prune_scene(scene, voxel_size=5).static
    middle = 0.02 if confidences else 0.04
    expected = torch.tensor([[middle, 0.01, 2.01], [0.9, 0.01, 2.01]])
    torch.testing.assert_close(left.means, expected)


def test_pruning_afterwards_is_the_filter_before():
    """Of opacity and voxels, on the Gaussians of one network's maps."""
    views = VIEWS[0].repeat(2, 1, 1), VIEWS[1].repeat(2, 1, 1)
    views[0][1, 0, 3] = 0.1
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 2, 3, 48, 64, generator=generator)
    maps = Maps.known(2 + torch.rand(2, 2, 48, 64, generator=generator), *views)

    def emitted(filters: Filters) -> GaussianScene:
        static, moving, sure = emit_gaussians("none", images, maps, views, filters, StaticSplit())
        return GaussianScene(static, moving, *views, 64, 48, confidences=sure)

    whole, before = emitted(Filters.none()), emitted(replace(Filters.none(), min_opacity=0.3))
    after = prune_scene(whole, min_opacity=0.3)
    for a, b in zip((after.static, *after.dynamic), (before.static, *before.dynamic)):
        assert torch.equal(a.means, b.means)
    for a, b in zip(after.confidences, before.confidences):
        assert torch.equal(a, b)


def test_static_and_dynamic_together_are_the_scene():
    scene = a_scene()
    still, moving = static_and_dynamic(scene)
    assert still.num_frames == moving.num_frames == 2
    for time in range(2):
        both = Gaussians.concatenate([still.at(time), moving.at(time)])
        assert torch.equal(both.means, scene.at(time).means)
    assert len(still.at(1)) == 12 and [len(moving.at(t)) for t in (0, 1)] == [5, 3]
    # Each half can be pruned by its own confidence.
    assert len(prune_scene(moving, confidence_percentile=50).dynamic[0]) == 1


def test_an_empty_scene_stays_empty():
    nothing = GaussianScene(Gaussians.empty(), [Gaussians.empty()], *VIEWS, 64, 48)
    nothing.confidences = [torch.zeros(0), torch.zeros(0)]
    values = {"min_opacity": 0.5, "confidence_percentile": 50, "voxel_size": 1}
    assert prune_scene(nothing, **values).num_gaussians == 0


def test_bad_values_give_one_sentence():
    for values, words in (
        ({"confidence_percentile": 10}, "does not say how certain"),
        ({"min_opacity": 0.999}, "none of the 20 Gaussians would be left"),
        ({"voxel_size": -1}, "must not be negative"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            prune_scene(a_scene(confidences=False), **values)
        assert str(caught.value).endswith(".")
