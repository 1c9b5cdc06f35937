"""Two views of each time: what exact maps show, and what cameras of their own do."""

import pytest
import torch

from fourreal.evaluation.two_views import score_pairs
from fourreal.reconstruction import Maps, Reconstructor
from fourreal.scenes import make_scene, scene_seed

from ..tiny import open_temporal_gates, tiny_model

ONE, OTHERS = [(1, 4)] * 3, [(0, 3), (1, 4), (2, 5)]


class Knowing(Reconstructor):
    """Answers with exact maps of a scene, each time in the unit `units[t]`, and with cameras that
    jitter by `jitter` unless they are replaced."""

    def __init__(self, scene, pairs, units=(1.0, 1.0, 1.0), jitter=0.0):
        super().__init__(open_temporal_gates(tiny_model(gaussian_head="none")))
        self.scene, self.pairs, self.units, self.jitter = scene, pairs, units, jitter

    def predict(self, images, *, camera_replacement=True, **_):
        scene = self.scene
        if images.shape[1] == len(scene.frames):
            return Maps.known(
                scene.depth[:, :1].transpose(0, 1), scene.extrinsics, scene.intrinsics
            )
        generator, parts = torch.Generator().manual_seed(0), []
        for time, (pair, unit) in enumerate(zip(self.pairs, self.units)):
            own = list(pair)
            assert torch.equal(images[time], scene.frames[own, time])
            extrinsics = scene.extrinsics[own].clone()
            extrinsics[..., 3] *= unit
            if not camera_replacement:
                extrinsics[..., 3] += self.jitter * torch.randn(2, 3, generator=generator)
            depth = unit * scene.depth[own, time][None]
            parts.append(Maps.known(depth, extrinsics, scene.intrinsics[own]))
        return Maps.cat(parts)


@pytest.fixture(scope="module")
def scene():
    return make_scene(scene_seed("validation", 1), 6, 3, 32, 32)


@pytest.mark.parametrize(("pairs", "replaced"), [(ONE, True), (ONE, False), (OTHERS, False)])
def test_exact_maps_show_the_views_between(scene, pairs, replaced):
    scores = score_pairs(Knowing(scene, pairs), scene.frames, pairs, replaced)
    assert scores["held_out_psnr"] > 24 and scores["held_out_ssim"] > 0.8
    assert ("flicker" in scores) == (pairs is ONE)


def test_where_pairs_change_each_time_may_have_a_unit_of_its_own(scene):
    equal, other = (
        score_pairs(Knowing(scene, OTHERS, units), scene.frames, OTHERS, False)
        for units in ((1.0, 1.0, 1.0), (1.0, 1.5, 0.7))
    )
    assert other["held_out_psnr"] == pytest.approx(equal["held_out_psnr"], abs=0.01)


def test_cameras_of_their_own_move_what_stands_still(scene):
    model = Knowing(scene, ONE, jitter=0.05)
    with_tokens, without = (score_pairs(model, scene.frames, ONE, r) for r in (True, False))
    assert with_tokens["held_out_psnr"] > without["held_out_psnr"] + 0.5
    assert 2 * with_tokens["flicker"] < without["flicker"]
