"""Evaluation of one scene on the pretend device gives the CPU's scores."""

import pytest

from fourreal.evaluation import evaluate_reconstruction as reconstruction
from fourreal.reconstruction import save_model

from ..evaluation.small import small
from ..pretend_cuda import PretendCuda
from ..tiny import tiny_model


def test_a_scene_is_scored_on_the_device_as_on_the_cpu(tmp_path, single_precision):
    save_model(tiny_model(point_head=False), tmp_path / "tiny.safetensors")

    def scores(device: str) -> dict:
        config = reconstruction.ReconstructionEvaluation(
            **small(scenes=1, num_frames=2, times=1, device=device),
            reconstructor=tmp_path / "tiny.safetensors",
        )
        found = reconstruction.evaluate_reconstruction(config)["scores"]
        return {name: score["mean"] for name, score in found.items()}

    expected = scores("cpu")
    with PretendCuda() as device:
        found = scores("cuda")
    assert found.keys() == expected.keys()
    for name, score in expected.items():
        assert found[name] == pytest.approx(score, rel=0.02, abs=0.02), name
    # Scenes are drawn on the host.
    assert device.operations["cuda"] > 2000
