"""Evaluation of one scene on the pretend device gives the CPU's scores."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from fourreal.evaluation import evaluate_reconstruction as reconstruction
from fourreal.evaluation.evaluate_video import VideoEvaluation, evaluate_video
from fourreal.evaluation.evaluate_warp import WarpEvaluation, evaluate_warp
from fourreal.reconstruction import save_model

from ..evaluation.small import small
from ..pretend_cuda import PretendCuda
from ..tiny import tiny_model


def check_both_devices(scores: Callable[[str], dict[str, float]], within: float) -> None:
    """Scores of a device by its name, alike on the CPU and on the pretend device, which does the
    work."""
    expected = scores("cpu")
    with PretendCuda() as device:
        found = scores("cuda")
    assert found.keys() == expected.keys()
    for name, score in expected.items():
        assert found[name] == pytest.approx(score, rel=0.02, abs=within), name
    assert device.operations["cuda"] > 2000


@pytest.mark.slow
def test_a_scene_is_scored_on_the_device_as_on_the_cpu(tmp_path, single_precision):
    save_model(tiny_model(point_head=False), tmp_path / "tiny.safetensors")

    def scores(device: str) -> dict:
        config = reconstruction.ReconstructionEvaluation(
            **small(scenes=1, num_frames=2, times=1, device=device),
            reconstructor=tmp_path / "tiny.safetensors",
        )
        found = reconstruction.evaluate_reconstruction(config)["scores"]
        return {name: score["mean"] for name, score in found.items()}

    check_both_devices(scores, 0.02)


@pytest.mark.parametrize("kind", [pytest.param("warp", marks=pytest.mark.slow), "video"])
def test_grids_are_made_and_scored_on_the_device_as_on_the_cpu(kind, tmp_path, single_precision):
    options = small(scenes=1, num_views=2, num_frames=5, height=32, width=32)
    options |= {"num_inference_steps": 1, "cache": tmp_path}
    evaluate, config = {
        "warp": (evaluate_warp, WarpEvaluation(**options, strengths=(1.0,))),
        "video": (evaluate_video, VideoEvaluation(**options, references=("both",))),
    }[kind]

    def scores(device: str) -> dict:
        found = evaluate(replace(config, device=device, cache=tmp_path / device))
        rows = found["predicted"] if kind == "warp" else {kind: found}
        return {f"{a}/{b}": s["mean"] for a in rows for b, s in rows[a]["scores"].items()}

    check_both_devices(scores, 0.1)
