"""`fourreal info`: versions, devices, and what would be used on them."""

import platform
from dataclasses import dataclass

import torch

from fourreal import __version__
from fourreal.attention import BACKENDS, choose_backend, unavailable
from fourreal.devices import choose_device, matrix_dtype
from fourreal.rendering import available_backends

# What a Wan model of full size would ask for.
HEAD_DIM, TOKENS = 128, 2**15


@dataclass
class InfoConfig:
    """Print versions, devices, and the attention and rasterizer that would be used."""


def show_info(_: InfoConfig) -> None:
    """Print it."""
    print(f"fourreal {__version__}, python {platform.python_version()}, torch {torch.__version__}")
    device = choose_device()
    on_cuda = device.type == "cuda"
    name = torch.cuda.get_device_name() if on_cuda else "none"
    print(f"CUDA device: {name}; CPU threads: {torch.get_num_threads()}")
    print(f"rasterizers: {', '.join(available_backends())}")
    dtype = matrix_dtype(device)
    backend, why = choose_backend(device, dtype, head_dim=HEAD_DIM, tokens=TOKENS)
    print(f"view-time attention: {backend} ({why})")
    for other in BACKENDS[1:]:
        absent = unavailable(other, device, dtype, head_dim=HEAD_DIM)
        limited = unavailable(other, device, dtype, head_dim=HEAD_DIM, training=True)
        state = absent or (f"available; {limited}" if limited else "available")
        print(f"  {other}: {state}")


COMMAND = (InfoConfig, show_info)
