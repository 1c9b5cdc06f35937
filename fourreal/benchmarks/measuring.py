"""Time, memory and the device's own speed, as the benchmarks measure them."""

import os
import statistics
import time
from collections.abc import Callable

import torch

PRODUCT_SIZES = {"cuda": 8192, "cpu": 1536}  # of the square matrices that tell a device's speed


def device_name(device: torch.device) -> str:
    """The GPU's name, or CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def synchronize(device: torch.device) -> None:
    """Wait for all work on `device`."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize(device)


def median_seconds(
    functions: dict[str, Callable[[], object]], device: torch.device, repeats: int
) -> dict[str, float]:
    """Median time of each function, called in turn, so that a busy machine slows all alike.

    One further round before them is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            synchronize(device)
            start = time.perf_counter()
            function()
            synchronize(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def matrix_product(
    device: torch.device, dtype: torch.dtype
) -> tuple[Callable[[], torch.Tensor], int]:
    """A large square matrix product and the number of its FLOP: the rate a kernel can hope for.

    Time it with median_seconds beside what it is compared with.
    """
    size = PRODUCT_SIZES["cuda" if device.type == "cuda" else "cpu"]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return lambda: a @ b, 2 * size**3


def peak_memory(function: Callable[[], object], device: torch.device) -> int:
    """The most bytes that PyTorch holds at one time while `function` runs, beyond those before it.

    On a CPU every allocation is counted, those inside kernels too.
    """
    if device.type == "cuda":
        synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it reports its start and stop
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        function()
    now = peak = 0
    for event in profile.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak
