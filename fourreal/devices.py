"""Where heavy work runs: on CUDA where there is one, unless the user names another device."""

import ctypes
import sys

import torch


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


def give_back_memory() -> None:
    """Let glibc return to the system what was freed between blocks that are still in use.

    Else long work that keeps a little of every step holds the largest step's memory as well. Other
    systems have other allocators, and nothing is done.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
