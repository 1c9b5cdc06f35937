"""Held-out views, stability, the split and the whole pipeline, each scored on a small case."""

from types import SimpleNamespace

import pytest
import torch

from fourreal.evaluation import evaluate_reconstruction as reconstruction
from fourreal.reconstruction import Reconstructor
from fourreal.scenes import make_scene, scene_seed

from ..tiny import open_temporal_gates, tiny_model
from .small import SIZE, small


@pytest.mark.slow
def test_reconstruction_of_exact_frames_is_scored():
    config = reconstruction.ReconstructionEvaluation(**small(scenes=1, num_frames=5, times=2))
    result = reconstruction.evaluate_reconstruction(config)
    scores = result["scores"]
    assert all(score["n"] == 1 for score in scores.values())  # of scenes, not of their times
    found = {name: score["mean"] for name, score in scores.items()}
    # Of this scene, easier than most but for its cameras: 33.0 dB, 0.946, 1.5%, 1.6 degrees.
    together, alone = (
        {name.split("/")[1]: value for name, value in found.items() if name.startswith(protocol)}
        for protocol in ("together/", "inputs_alone/")
    )
    assert together["psnr"] > 32 and together["ssim"] > 0.94
    assert 33.5 < together["psnr_enlarged"] < 35.5
    assert 0.01 < together["depth_relative_error"] < 0.02
    assert 1.2 < together["rotation_error_degrees"] < 2
    assert 0.008 < found["one_view/depth_relative_error"] < 0.02
    # Without the held-out views what is seen is worse.
    assert 31.5 < alone["psnr"] < together["psnr"]
    assert 0.7 < alone["rotation_error_degrees"] < 1.2
    rows = [found[f"{row}/psnr"] for row in ("exact", "exact_blurred_1", "exact_blurred_2")]
    assert rows == sorted(rows, reverse=True) and rows[0] == 60
    assert rows[1] > found["best_copy/psnr"] > found["still_copy/psnr"]
    assert found["flicker"] < 0.5 < found["flicker_without"]
    assert found["held_out_psnr_all_times"] > 31 and found["held_out_psnr_all_times_without"] > 31
    assert found["camera_jitter_without"] > 1


@pytest.mark.slow
def test_the_whole_pipeline_is_scored_beside_its_references(monkeypatch):
    """A model that knows the grid is as good as the exact one, and better than the references."""
    exact = make_scene(scene_seed("validation", 0), 12, 9, SIZE, SIZE).frames
    inputs = [0, 2, 3, 5, 6, 8, 9, 11]

    def pipeline(caption, fixed_view, freeze_time, **_):
        assert torch.equal(fixed_view, exact[0])
        assert torch.equal(freeze_time, exact[inputs, 0])
        return SimpleNamespace(frames=exact[inputs])

    monkeypatch.setattr(reconstruction, "video_model", lambda *_: pipeline)
    config = reconstruction.PipelineEvaluation(**small(scenes=1, num_frames=9, times=1))
    scores = {k: v["mean"] for k, v in reconstruction.evaluate_pipeline(config)["scores"].items()}
    assert scores["generated/psnr"] == scores["exact/psnr"]
    assert scores["generated/psnr_moving"] > scores["references/psnr_moving"]
    # What the references show of an exact grid is what is there, but for errors of the depth.
    assert scores["carried/psnr"] == pytest.approx(scores["exact/psnr"], abs=0.5)
    assert scores["carried/psnr"] != scores["exact/psnr"]
    rivals = ("exact_views", "exact_blurred_1", "exact_blurred_2", "still_copy")
    ordered = [scores[f"{name}/psnr"] for name in rivals]
    assert ordered == sorted(ordered, reverse=True) and ordered[0] == 60
    between = (exact[[0, 3, 6, 9], 0] + exact[[2, 5, 8, 11], 0]) / 2
    error = (between - exact[[1, 4, 7, 10], 8]).square().mean((-3, -2, -1))
    expected = float((-10 * error.log10()).mean())
    assert scores["mean_of_neighbours/psnr"] == pytest.approx(expected, abs=0.002)


def test_cameras_of_their_own_make_still_views_flicker():
    """Held-out views of several times: what stands still gives the same cameras at every time, and
    noise in the frames moves only those that each time has on its own."""
    reconstructor = Reconstructor(open_temporal_gates(tiny_model(gaussian_head="none")))
    frames = make_scene(scene_seed("test", 1), 4, 1, 32, 32).frames.expand(-1, 3, -1, -1, -1)
    same = [reconstruction.score_times(reconstructor, frames, r) for r in (True, False)]
    assert same[0]["held_out_psnr"] == pytest.approx(same[1]["held_out_psnr"], abs=0.01)
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(0)) * 0.001
    noised = [reconstruction.score_times(reconstructor, frames + noise, r) for r in (True, False)]
    assert noised[0]["flicker"] < noised[1]["flicker"]


@pytest.mark.parametrize("trained", [False, True])
def test_cameras_of_their_own_jitter_and_double_the_flicker_of_a_random_network(trained):
    model = tiny_model()
    if trained:
        open_temporal_gates(model)
    scene = make_scene(scene_seed("test", 1), num_views=3, num_frames=3, height=32, width=32)
    scores = reconstruction.score_stability(Reconstructor(model), scene.frames)
    assert set(scores) == {"flicker", "flicker_without", "camera_jitter_without"}
    assert 2 * scores["flicker"] < scores["flicker_without"]
    assert scores["camera_jitter_without"] > 10


def test_the_split_saves_most_and_costs_little(capsys):
    """`fourreal evaluate split` on two scenes; the figures of sixteen are in the model card."""
    config = reconstruction.SplitEvaluation(scenes=2, num_frames=5, height=32, width=32)
    scores = reconstruction.evaluate_split(config)["scores"]
    assert 0.65 < scores["fewer_gaussians"]["mean"] < 0.8  # 4/5 of all would be everything
    assert -0.2 < scores["psnr_change"]["mean"] < 0.1
    assert "| moving_psnr_change |" in capsys.readouterr().out
