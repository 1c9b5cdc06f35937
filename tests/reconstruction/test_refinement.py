"""Photometric refinement."""

import pytest
import torch

from fourreal.gaussians import GaussianScene
from fourreal.metrics.pixels import psnr
from fourreal.reconstruction import Filters, Maps, Reconstructor, StaticSplit, refine_scene
from fourreal.reconstruction.pixels_to_gaussians import emit_gaussians
from fourreal.rendering import render
from fourreal.scenes import make_scene, scene_seed

from ..tiny import tiny_model

SIZE = 32


def reconstructed(scene, views):
    cameras = scene.extrinsics[views], scene.intrinsics[views]
    maps = Maps.known(scene.depth[views].transpose(0, 1), *cameras)
    frames = scene.frames[views].transpose(0, 1)
    static, dynamic, _ = emit_gaussians("none", frames, maps, cameras, Filters(), StaticSplit())
    return GaussianScene(static, dynamic, *cameras, SIZE, SIZE)


def test_refinement_helps_views_that_it_never_saw():
    scene = make_scene(scene_seed("test", 0), num_views=5, num_frames=2, height=SIZE, width=SIZE)
    inputs, held_out = [0, 2, 4], [1, 3]
    before = reconstructed(scene, inputs)

    def score(found, views):
        cameras = scene.extrinsics[views], scene.intrinsics[views]
        shown = [render(found.at(t), *cameras, SIZE, SIZE).color.movedim(-1, 1) for t in (0, 1)]
        return psnr(torch.stack(shown, 1).clamp(0, 1), scene.frames[views])

    kept = before.static.means.clone()
    steps = []
    with torch.inference_mode():  # as inside ComfyUI
        after = refine_scene(before, scene.frames[inputs], 40, progress=steps.append)
    assert steps == list(range(1, 41))
    assert score(after, inputs) > score(before, inputs) + 1
    assert score(after, held_out) > score(before, held_out) + 0.3
    assert torch.equal(before.static.means, kept) and len(after.static) == len(before.static)
    assert (after.static.opacities <= 1).all() and (after.static.scales > 0).all()


def test_refinement_can_be_cancelled_and_is_asked_for():
    reconstructor, frames = Reconstructor(tiny_model()), torch.rand(2, 2, 3, SIZE, SIZE)
    calls = []
    found = reconstructor(frames, refine=2, progress=lambda *call: calls.append(call))
    assert calls == [(done, 6) for done in range(1, 7)]
    assert found.scene.metadata["refinement_steps"] == "2"
    plain = reconstructor(frames).scene
    assert "refinement_steps" not in plain.metadata
    before, after = (torch.cat([p.opacities for p in s.dynamic]) for s in (plain, found.scene))
    assert before.shape == after.shape and not torch.equal(before, after)

    def cancel(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refine_scene(plain, frames, 5, progress=cancel)
    with pytest.raises(ValueError, match="this scene was made of"):
        refine_scene(plain, frames[:1], 5)
