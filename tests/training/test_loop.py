"""The training loop: resuming, accumulating, averaging, clipping, learning rate, trackers."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fourreal.training.draws import step_generator
from fourreal.training.loop import Loop

from .short_runs import fit, loop_config


def logs(folder):
    return json.loads((folder / "log.json").read_text())


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_stopped_run_resumes_to_the_same_weights_and_averages(tmp_path, optimizer, accumulate):
    options = {"optimizer": optimizer, "accumulate": accumulate}
    whole = fit(tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "broken", stop_at=5 * accumulate, **options)
    rest = fit(tmp_path / "broken", **options)
    assert rest.losses == whole.losses[4 * accumulate :]  # the checkpoint of step 4 is the last one
    assert rest.ends_like(whole) and not torch.equal(whole.weights[0], whole.averages[0])
    first, second = (logs(tmp_path / name) for name in ("whole", "broken"))
    assert [entry["step"] for entry in second["log"]] == [2, 4, 6, 8]
    assert [e["loss"] for e in first["log"]] == [e["loss"] for e in second["log"]]
    assert second["settings"]["seed"] == 0


@pytest.mark.slow
def test_two_processes_see_different_examples_stay_one_model_and_resume(tmp_path):
    script = Path(__file__).with_name("two_processes.py")
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*launch, script, tmp_path], env=environment, check=True, capture_output=True)
    for optimizer in ("muon", "adamw"):
        first, second = (
            json.loads((tmp_path / f"{optimizer}_{n}.json").read_text()) for n in range(2)
        )
        assert not set(first["losses"]) & set(second["losses"])
        assert first["weights"] == second["weights"]
        for seen in (first, second):
            assert seen["resumed"] == seen["losses"][4:] and seen["ends_alike"]


def test_a_run_of_other_weights_is_not_resumed(tmp_path):
    fit(tmp_path)
    with pytest.raises(ValueError, match=r"step_00000008 is of a run that trained other weights"):
        Loop(loop_config(tmp_path), nn.Linear(4, 1))


def test_a_finished_run_says_so_and_goes_on_with_more_steps(tmp_path):
    fit(tmp_path)
    with pytest.raises(ValueError, match=r"holds a finished run of 8 steps; choose another"):
        fit(tmp_path)
    assert len(fit(tmp_path, steps=10).losses) == 2
    assert len(fit(tmp_path, resume=False).losses) == 8


def test_a_finished_run_without_its_result_is_left_to_write_it(tmp_path):
    fit(tmp_path)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    loop = Loop(loop_config(tmp_path, steps=8), model, result="model.safetensors")
    loop.run(None, None)  # nothing is left to train
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match="holds a finished run"):
        Loop(loop_config(tmp_path, steps=8), model, result="model.safetensors")


def test_a_checkpoint_that_cannot_be_completed_leaves_the_one_before(tmp_path, monkeypatch):
    whole = fit(tmp_path / "whole")
    replace, calls = os.replace, []

    def fails_at_the_second(source, target):
        if Path(target).name.startswith("step_"):
            calls.append(target)
            if len(calls) == 2:
                raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr("fourreal.training.run_state.os.replace", fails_at_the_second)
    with pytest.raises(OSError, match="disk full"):
        fit(tmp_path / "broken")
    monkeypatch.undo()
    kept = [p.name for p in (tmp_path / "broken" / "checkpoints").glob("step_*")]
    assert kept == ["step_00000002"]
    rest = fit(tmp_path / "broken")
    assert rest.losses == whole.losses[2:] and rest.ends_like(whole)
    assert [p.name for p in (tmp_path / "broken" / "checkpoints").iterdir()] == ["step_00000008"]


def test_a_resumed_run_takes_another_learning_rate(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, stop_at=5)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    loop = Loop(loop_config(tmp_path, steps=8, warmup_steps=2, learning_rate=1e-5), model)
    expected = 1e-5 * (0.5 + 0.5 * math.cos(math.pi * 4 / 8))
    rates = [group["lr"] for optimizer in loop.optimizers for group in optimizer.param_groups]
    assert rates == pytest.approx([expected] * len(rates)) and len(rates) == 3


def test_a_resumed_run_may_accumulate_more(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, stop_at=8, accumulate=2)  # step 4 is the last that was kept
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    loop, stepped = Loop(loop_config(tmp_path, steps=6, save_every=1, accumulate=3), model), []

    def loss(batch, generator):
        return {"loss": model(torch.randn(4, 3, generator=generator)).square().mean()}

    loop.run(loss, lambda folder: stepped.append(loop.accelerator.sync_gradients) or {})
    assert stepped == [True, True]


def test_accumulated_batches_are_one_step_on_all_of_them(tmp_path):
    """The reference draws both halves of every step at once."""
    accumulated = fit(tmp_path / "accumulated", accumulate=2, steps=4)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    loop = Loop(loop_config(tmp_path / "joint", steps=4, warmup_steps=2), model)

    def loss(batch, generator):
        halves = []
        for number in (2 * loop.state.step, 2 * loop.state.step + 1):
            source = step_generator(0, number)
            half = torch.randn(16, 3, generator=source)
            halves.append(half + 0.1 * torch.randn(16, 3, generator=source))
        x = torch.cat(halves)
        return {"loss": (model(x) - x.sum(1, keepdim=True)).square().mean()}

    loop.run(loss, lambda folder: {})
    for ours, joint in zip(accumulated.weights, model.parameters()):
        torch.testing.assert_close(ours, joint.detach())
    found = [
        json.loads((p / "checkpoints" / "step_00000004" / "run.json").read_text())
        for p in (tmp_path / "accumulated", tmp_path / "joint")
    ]
    assert found[0]["usual_norm"] == pytest.approx(found[1]["usual_norm"], rel=1e-5)


def test_the_average_is_that_of_the_formula(tmp_path):
    """Weights 1, 2, ..., 30 by hand, so that only the average remains to be computed."""
    model = nn.Linear(1, 1, bias=False)
    loop = Loop(loop_config(tmp_path, steps=30, ema_decay=0.7, learning_rate=0.0), model)

    def loss(batch, generator):
        model.weight.data.fill_(loop.state.step + 1.0)
        return {"loss": model.weight.sum()}

    loop.run(loss, lambda folder: {"average": model.weight.item()})
    expected = 1.0
    for step in range(1, 30):
        decay = min(0.7, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step + 1)
    assert logs(tmp_path)["log"][-1]["average"] == pytest.approx(expected, rel=1e-6)
    assert model.weight.item() == 30


def test_the_learning_rate_warms_up_and_follows_half_a_cosine(tmp_path):
    model, rates = nn.Linear(1, 1), []
    options = {"steps": 50, "warmup_steps": 5, "learning_rate": 0.1, "weight_decay": 0.0}
    loop = Loop(loop_config(tmp_path, **options), model)

    def loss(batch, generator):
        rates.append(loop.optimizers[0].param_groups[0]["lr"])
        return {"loss": model.weight.sum()}

    loop.run(loss, lambda folder: {})
    cosine = [max(0.5 + 0.5 * math.cos(math.pi * n / 50), 0.02) for n in range(50)]
    expected = [0.1 * c * w for c, w in zip(cosine, [0.2, 0.4, 0.6, 0.8] + [1.0] * 46)]
    assert rates == pytest.approx(expected, rel=1e-9)


def test_a_run_stops_after_its_minutes(tmp_path):
    model = nn.Linear(1, 1)
    loop = Loop(loop_config(tmp_path, steps=10**6, minutes=1e-3), model)
    loop.run(lambda *_: {"loss": model.weight.sum()}, lambda folder: {})
    assert loop.state.seconds >= 0.06 and 0 < loop.state.step < 10**6
    assert logs(tmp_path)["log"][-1]["step"] == loop.state.step


def test_a_diverging_run_says_so(tmp_path):
    model = nn.Linear(1, 1)
    loop = Loop(loop_config(tmp_path), model)
    with pytest.raises(FloatingPointError, match="loss is nan at step 0"):
        loop.run(lambda *_: {"loss": model.weight.sum() * torch.nan}, lambda _: {})


def test_a_sudden_gradient_counts_like_a_few_usual_ones(tmp_path):
    model = nn.Linear(1, 1, bias=False)
    loop, weights = Loop(loop_config(tmp_path, steps=41, weight_decay=0.0), model), []

    def loss(batch, generator):
        weights.append(model.weight.item())
        return {"loss": model.weight.sum() * (-0.9 if loop.state.step == 20 else 0.001)}

    loop.run(loss, lambda _: {})
    assert 0.001 < loop.state.usual_norm < 0.0012
    moves = torch.tensor(weights).diff()
    # Without the limit the weight runs the other way for 15 steps.
    assert (moves[20:30] > 0).sum() <= 3


def test_tensorboard_has_the_losses_of_all_steps_and_the_scores(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed (extra `train`)",
    )
    done = fit(tmp_path, log_with="tensorboard")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [e.value for e in events.Scalars("loss")] == pytest.approx(done.losses, rel=1e-6)
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [e.step for e in events.Scalars("weight")] == [2, 4, 6, 8]
    assert events.Scalars("learning_rate")[0].value == pytest.approx(1e-3 / 2)


def test_a_tracker_that_is_not_installed_is_named_and_only_used_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.utils.is_tensorboard_available", lambda: False)
    with pytest.raises(ValueError, match="tensorboard is not installed"):
        fit(tmp_path, log_with="tensorboard")
    fit(tmp_path, log_with="auto")
    assert not (tmp_path / "tensorboard").exists()
