"""One step of each trainer on the pretend device, with the CPU's loss."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from fourreal import weights
from fourreal.cli import main
from fourreal.reconstruction import save_model

from ..pretend_cuda import PretendCuda
from ..tiny import tiny_model
from ..training.short_runs import tune_embedded

LOOP = [
    *("--loop.steps", "1", "--loop.batch-size", "1", "--loop.workers", "0"),
    *("--loop.log-with", "none", "--loop.warmup-steps", "0", "--loop.mixed-precision", "no"),
]


@pytest.fixture(autouse=True)
def accelerate_asks_anew_which_device_there_is():
    def forget():
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState._reset_state()

    forget()
    yield
    forget()


def losses(arguments: list[str], out: Path) -> tuple[float, float, PretendCuda]:
    """Of the step on the CPU and on the device, and the device."""
    runs = []
    assert main(["train", *arguments, *LOOP, "--loop.out", str(out / "cpu")]) == 0
    AcceleratorState._reset_state(reset_partial_state=True)
    with PretendCuda() as device:
        assert main(["train", *arguments, *LOOP, "--loop.out", str(out / "cuda")]) == 0
    for name in ("cpu", "cuda"):
        log = json.loads((out / name / "log.json").read_text())
        runs.append(log["log"][0]["loss"])
    return *runs, device


def test_a_step_of_the_autoencoder(tmp_path):
    cpu, cuda, device = losses(["autoencoder", "--num-scenes", "1", "--size", "16"], tmp_path)
    assert cuda == pytest.approx(cpu, rel=1e-3)
    assert device.operations["cuda"] > 300


@pytest.mark.parametrize("stage", ["geometry", pytest.param("dynamic", marks=pytest.mark.slow)])
def test_a_step_of_the_reconstructor(stage, tmp_path):
    torch.manual_seed(0)
    save_model(tiny_model(point_head=False), tmp_path / "start.safetensors")
    arguments = ["reconstructor", "--stage", stage, "--size", "32"]
    arguments += ["--start-from", str(tmp_path / "start.safetensors")]
    arguments += ["--num-times", "2", "--num-views", "7"]
    cpu, cuda, device = losses(arguments, tmp_path)
    assert cuda == pytest.approx(cpu, rel=1e-2)
    assert device.operations["cuda"] > 1000


@pytest.mark.parametrize("tune", ["lora", "all"])
def test_a_step_of_the_video_model(tune, tmp_path):
    options = {"steps": 1, "tune": tune, "precision": "no"}
    (cpu,) = tune_embedded(tmp_path / "cpu", tmp_path / "scenes", **options)
    AcceleratorState._reset_state(reset_partial_state=True)
    with PretendCuda() as device:
        (cuda,) = tune_embedded(tmp_path / "cuda", tmp_path / "scenes", **options)
    assert cuda == pytest.approx(cpu, rel=1e-3)
    assert device.operations["cuda"] > 1000


@pytest.mark.slow
def test_a_step_of_the_vace_on_scenes_of_both_kinds(tmp_path):
    save_model(tiny_model(point_head=False), tmp_path / "start.safetensors")
    arguments = ["video", "--vace", "--start-from", str(weights.folder())]
    arguments += ["--reconstructor", str(tmp_path / "start.safetensors")]
    arguments += ["--data.scenes", "2", "--quick-scenes", "2", "--data.height", "32"]
    arguments += ["--data.width", "32", "--grids", "2x5", "--grid-starts", "0"]
    runs = []
    for name in ("cpu", "cuda"):
        own = [*arguments, "--data.cache", str(tmp_path / f"{name}-scenes")]
        with PretendCuda() if name == "cuda" else nullcontext():
            assert main(["train", *own, *LOOP, "--loop.out", str(tmp_path / name)]) == 0
        AcceleratorState._reset_state(reset_partial_state=True)
        runs.append(json.loads((tmp_path / name / "log.json").read_text())["log"][0]["loss"])
    assert runs[1] == pytest.approx(runs[0], rel=1e-2)
    drawn = list((tmp_path / "cuda-scenes").glob("*_seen/*.npy"))
    assert len(drawn) == 2  # the processes that read them could not draw them
