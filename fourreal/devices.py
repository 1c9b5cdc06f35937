"""Where heavy work runs, on CUDA unless the user names another device, and what room is there."""

import ctypes
import math
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil
import torch

ENOUGH = 1000  # bytes per pixel of a grid, several times what any of these models takes


def choose_device(device: str | None = None) -> torch.device:
    """The device of a name as PyTorch has them ("cpu", "cuda:1"); by default CUDA, else the CPU.

    Raises ValueError for a name that PyTorch does not know and for a device that is not there.
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
        torch.empty(0, device=chosen)
    # AssertionError: PyTorch was built without CUDA; NotImplementedError: without another backend.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"the device {name!r} is not here; give cpu, cuda or cuda:N, or none for the default."
        ) from error
    return chosen


def matrix_dtype(device: torch.device) -> torch.dtype:
    """What models multiply matrices in: bfloat16 on CUDA, float32 elsewhere."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def has_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 cost no more than those in float32.

    On a CPU that has no instructions for them (of x86, one without AVX-512) PyTorch takes a plain
    loop, which was 70 times slower on an AMD EPYC of 2021 (1024 x 1024, one core).
    """
    if device.type != "cpu":
        return True
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def give_back_memory() -> None:
    """Let glibc return to the system what was freed between blocks that are still in use.

    Else long work that keeps a little of every step holds the largest step's memory as well. Other
    systems have other allocators, and nothing is done.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def free_bytes(device: torch.device) -> int:
    """What a CUDA device has free; of a CPU, all of the machine's memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().total


def is_small(size: tuple[int, int, int, int], files: Iterable[Path], device: torch.device) -> bool:
    """Whether a grid of size (views, frames, height, width) fits anyway, so that it need not be
    planned, which takes seconds: files of weights may unfold from fp8 to bfloat16."""
    weights = sum(file.stat().st_size for file in files)
    return 2 * weights + ENOUGH * math.prod(size) < free_bytes(device)
