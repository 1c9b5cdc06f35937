"""Seconds and memory of stages, and seconds per step."""

import time

import pytest
import torch

from fourreal import profiling
from fourreal.profiling import StageProfiler, StepTimer


def test_a_stage_has_its_seconds_and_the_memory_at_its_peak(caplog):
    caplog.set_level("INFO", logger="fourreal")
    profiler = StageProfiler()
    with profiler.stage("idle"):
        pass
    with profiler.stage("work"):
        taken = torch.ones(60 * 2**20)  # 240 MB
        time.sleep(3 * profiling.WATCHED_EVERY)
        del taken
    idle, work = profiler.stages["idle"], profiler.stages["work"]
    assert list(work) == ["seconds", "peak_memory_mb"]
    assert work["seconds"] >= 3 * profiling.WATCHED_EVERY and idle["seconds"] >= 0
    assert work["peak_memory_mb"] - idle["peak_memory_mb"] > 200
    assert f"work: {work['seconds']:.1f} s, {work['peak_memory_mb']} MB" in caplog.text


def test_stages_that_are_planned_are_announced_with_what_is_left(caplog):
    caplog.set_level("INFO", logger="fourreal")
    profiler = StageProfiler(plan=("load", "work", "write"))
    for name in ("load", "aside", "work", "write"):
        with profiler.stage(name):
            pass
    assert [said for said in caplog.messages if said.startswith("Stage")] == [
        "Stage 1 of 3: load (then work, write)",
        "Stage 2 of 3: work (then write)",
        "Stage 3 of 3: write",
    ]


def test_a_stage_on_cuda_has_the_memory_of_the_gpu(monkeypatch):
    """PyTorch's counters are replaced: this says which are asked, and in which order."""
    asked = []
    for name in ("reset_peak_memory_stats", "synchronize", "max_memory_allocated"):
        monkeypatch.setattr(
            torch.cuda, name, lambda device, name=name: asked.append((name, device)) or 3 * 2**20
        )
    device = torch.device("cuda", 1)
    profiler = StageProfiler(device)
    with profiler.stage("work"):
        pass
    assert profiler.stages["work"]["peak_gpu_memory_mb"] == 3
    names = ("reset_peak_memory_stats", "synchronize", "max_memory_allocated")
    assert asked == [(name, device) for name in names]


def test_a_failed_stage_leaves_no_figures():
    profiler = StageProfiler()
    with pytest.raises(KeyError), profiler.stage("work"):
        raise KeyError
    assert not profiler.stages


def test_a_step_is_timed_from_the_end_of_the_one_before(monkeypatch):
    clock = iter((10.0, 11.0, 13.0, 14.0))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    timer = StepTimer()
    assert timer(None, 0, torch.tensor(0.0), {}) == {} and timer.seconds_per_step() is None
    for step in (1, 2, 3):
        timer(None, step, torch.tensor(0.0), {})
    assert timer.seconds_per_step() == 1.0  # the median of 1, 2 and 1
