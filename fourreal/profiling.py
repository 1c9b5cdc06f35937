"""Seconds and peak memory of the stages of long work, and of the steps of sampling."""

import logging
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
from torch import Tensor

from fourreal.bars import announce

logger = logging.getLogger(__name__)

WATCHED_EVERY = 0.1  # seconds between two looks at the process's memory


@dataclass
class StageProfiler:
    """Seconds and peak memory of each stage, logged as they end.

    plan: the names of the stages that are to come, so that what is left is logged as one begins.
    stages: by name, {"seconds", "peak_memory_mb"} (resident memory of the process) and, where
    `device` is a CUDA device, "peak_gpu_memory_mb" (allocated by PyTorch).
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    plan: Sequence[str] = ()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what is done inside, under this name."""
        if name in self.plan:
            announce("Stage", self.plan.index(name) + 1, self.plan)
        process, peak, ended = psutil.Process(), [0], threading.Event()

        def watch() -> None:
            while not ended.wait(WATCHED_EVERY):
                peak[0] = max(peak[0], process.memory_info().rss)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        on_cuda = self.device.type == "cuda"
        if on_cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        start = time.perf_counter()
        try:
            yield
            if on_cuda:
                torch.cuda.synchronize(
                    self.device
                )  # kernels run on after the call that starts them
        finally:
            ended.set()
            watcher.join()
        peak[0] = max(peak[0], process.memory_info().rss)
        figures = {
            "seconds": round(time.perf_counter() - start, 3),
            "peak_memory_mb": round(peak[0] / 2**20),
        }
        if on_cuda:
            figures["peak_gpu_memory_mb"] = round(
                torch.cuda.max_memory_allocated(self.device) / 2**20
            )
        self.stages[name] = figures
        memory = f"{figures['peak_memory_mb']} MB"
        if on_cuda:
            memory += f", {figures['peak_gpu_memory_mb']} MB on the GPU"
        logger.info("%s: %.1f s, %s", name, figures["seconds"], memory)


class StepTimer:
    """A pipeline's callback_on_step_end that measures the time of a step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def __call__(self, pipeline: Any, step: int, timestep: Tensor, tensors: dict) -> dict:
        if timestep.device.type == "cuda":
            torch.cuda.synchronize(timestep.device)
        self.ends.append(time.perf_counter())
        return {}

    def seconds_per_step(self) -> float | None:
        """Median from the end of one step to the end of the next; None where there was one step."""
        between = [after - before for before, after in zip(self.ends, self.ends[1:])]
        return statistics.median(between) if between else None
