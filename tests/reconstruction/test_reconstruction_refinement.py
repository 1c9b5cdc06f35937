"""Photometric refinement, stability measures and the benchmark's table."""

import json

import pytest
import torch

from fourreal.benchmarks.benchmark_reconstruction import (
    ReconstructionBenchmark,
    benchmark_reconstruction,
    random_grid,
    random_reconstructor,
)
from fourreal.cameras import camera_centers
from fourreal.evaluation.stability import camera_jitter, flicker, score_stability
from fourreal.gaussians import GaussianScene
from fourreal.metrics.pixels import psnr
from fourreal.reconstruction import Filters, Reconstructor, StaticSplit, refine_scene
from fourreal.reconstruction.emission import Maps, emit_gaussians
from fourreal.rendering import render
from fourreal.scenes import make_scene, scene_seed

from ..tiny import open_temporal_gates, tiny_config, tiny_model

SIZE = 32


def reconstructed(scene, views):
    depth, frames = scene.depth[views].transpose(0, 1), scene.frames[views].transpose(0, 1)
    maps = Maps(None, depth, torch.full_like(depth, 2.0), None)
    cameras = scene.extrinsics[views], scene.intrinsics[views]
    ones = torch.ones(len(depth))
    static, dynamic = emit_gaussians("none", frames, maps, ones, cameras, Filters(), StaticSplit())
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
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
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


def test_camera_jitter_is_the_deviation_of_centres_in_percent_of_the_rig():
    torch.manual_seed(0)
    still = torch.eye(4)[:3].repeat(5, 3, 1, 1)
    still[:, 1, 0, 3], still[:, 2, 0, 3] = 2.0, -2.0
    assert camera_jitter(still) == 0
    shaken = still.clone()
    shaken[:, 1:, 1, 3] += torch.tensor([0.1, -0.1, 0.1, -0.1, 0.0])[:, None]
    centers = camera_centers(shaken)
    wanted = centers[:, 1:].std(0, correction=0).norm(dim=-1).sum() / 3
    size = (centers[:, 1:] - centers[:, :1]).norm(dim=-1).mean()
    assert camera_jitter(shaken) == pytest.approx(float(100 * wanted / size), rel=1e-5)


def test_flicker_counts_still_pixels_only():
    frames = torch.full((1, 3, 3, 4, 4), 0.5)
    frames[:, 1] += 10 / 255
    frames[:, :, :, 0] = torch.rand(3, 3, 4)  # moves
    still = torch.ones(1, 2, 4, 4, dtype=torch.bool)
    still[:, :, 0] = False
    assert flicker(frames, still) == pytest.approx(10, rel=1e-5)


@pytest.mark.parametrize("trained", [False, True])
def test_camera_token_replacement_leaves_no_jitter(trained):
    model = tiny_model()
    if trained:
        open_temporal_gates(model)
    scene = make_scene(scene_seed("test", 1), num_views=3, num_frames=3, height=SIZE, width=SIZE)
    scores = score_stability(Reconstructor(model), scene.frames, scene.frames)
    assert scores["camera_jitter"] == 0
    assert scores["camera_jitter_without"] > 0.01
    assert scores["flicker"] > 0 and scores["flicker_without"] > 0


def test_the_benchmark_fills_its_table(tmp_path, capsys):
    config = ReconstructionBenchmark(
        (1, 2), (1, 2), 28, 42, embed_dim=64, layers=4, device="cpu", out=tmp_path / "b.json"
    )
    benchmark_reconstruction(config)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[3].startswith("| 1 |") and lines[4].count(" GB / ") == 2
    cells = json.loads((tmp_path / "b.json").read_text())["cells"]
    assert set(cells) == {"1x1", "1x2", "2x1", "2x2"}
    assert all(c["seconds"] > 0 and c["memory_gb"] > 0 for c in cells.values())
    assert 0 < cells["1x1"]["gaussians"] < cells["2x2"]["gaussians"]


def test_random_weights_of_any_size_give_finite_maps():
    torch.manual_seed(0)
    reconstructor = random_reconstructor(tiny_config(layer_scale_init=0.01))
    assert reconstructor.model.aggregator.frame_blocks[0].attn.qkv.weight.dtype == torch.bfloat16
    assert reconstructor.model.aggregator.temporal_is_trained()
    found = reconstructor(random_grid(2, 3, SIZE, SIZE))
    assert torch.isfinite(found.depth).all() and found.depth.std() > 0
    assert found.intrinsics[0, 0, 0] < 4 * SIZE
