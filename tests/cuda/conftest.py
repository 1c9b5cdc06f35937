"""The commands on the pretend CUDA device, and what ran where."""

import logging
from collections import Counter
from contextlib import contextmanager

import pytest
import torch

from fourreal.attention import kernels
from fourreal.profiling import StageProfiler
from fourreal.reconstruction import finished_depth, reconstructor
from fourreal.rendering import gsplat_backend

from ..pretend_cuda import PretendCuda


@pytest.fixture(autouse=True)
def nothing_is_remembered_of_the_device():
    """What is asked once per process about CUDA is asked anew."""
    asked = (kernels.failure, gsplat_backend.why_not)
    for answer in asked:
        answer.cache_clear()
    yield
    for answer in asked:
        answer.cache_clear()


@pytest.fixture
def single_precision(monkeypatch):
    """float32 where CUDA has bfloat16, so that numbers can be compared with the CPU's."""
    monkeypatch.setattr(reconstructor, "matrix_dtype", lambda device: torch.float32)


@pytest.fixture
def unadjusted(monkeypatch):
    """What networks of random weights say, as it is. Cameras and depth that are adjusted to views
    without sense end somewhere else on each device."""

    def as_they_are(images, depth, cameras, even):
        return cameras, torch.ones(len(cameras[0]), device=cameras[0].device)

    monkeypatch.setattr(reconstructor, "adjust_cameras", as_they_are)
    monkeypatch.setattr(finished_depth, "adjust_depth", lambda images, depth, cameras: depth)


@pytest.fixture
def stages(monkeypatch) -> dict[str, dict[str, Counter]]:
    """By the name of each stage of a job: {"operations", "transfers"} inside it on the pretend
    device."""
    seen: dict[str, dict[str, Counter]] = {}
    plain = StageProfiler.stage

    @contextmanager
    def stage(self, name):
        device = PretendCuda.entered
        with plain(self, name):
            if device is None:
                yield
                return
            before = {k: Counter(getattr(device, k)) for k in ("operations", "transfers")}
            yield
            seen[name] = {k: Counter(getattr(device, k)) - before[k] for k in before}

    monkeypatch.setattr(StageProfiler, "stage", stage)
    logging.getLogger("fourreal").setLevel(logging.WARNING)
    return seen


def share_on_device(counts: Counter) -> float:
    """Of the operations, those on the device."""
    return counts["cuda"] / max(1, counts["cuda"] + counts["cpu"])
