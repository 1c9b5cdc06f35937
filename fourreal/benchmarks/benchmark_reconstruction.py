"""`fourreal benchmark reconstruction`: the paper's table of views x times on the present device.

Seconds, peak memory and Gaussians of whole reconstructions with random weights of any size. The
paper's (supplement): an A100 at 350 x 518, float32.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor, nn

from fourreal.benchmarks.measuring import device_name
from fourreal.devices import choose_device, matrix_dtype
from fourreal.files.json_files import as_json, write_json
from fourreal.profiling import StageProfiler
from fourreal.reconstruction import VGGT, Reconstructor, VGGTConfig
from fourreal.reconstruction.layers import LayerScale


@dataclass
class ReconstructionBenchmark:
    """Time reconstructions of random grids with random weights."""

    num_views: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--views"])] = (2, 4, 8, 16)
    """Numbers of views to time: the rows of the table."""
    num_frames: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--times"])] = (1, 4, 8, 16)
    """Numbers of frames of each view to time: the columns of the table."""
    height: int = 350
    width: int = 518
    """Size of the frames; the longer side is also what the network sees."""
    embed_dim: int = 1024
    """Width of the transformer; VGGT-1B has 1024."""
    layers: int = 24
    """Pairs of frame and global blocks, and blocks of the patch embedding."""
    temporal: bool = True
    """With (open) temporal layers, as the paper; without them a window is one time."""
    window: int | None = None
    """Times per run of the network."""
    device: str | None = None
    """cpu, cuda or cuda:N (default: CUDA where there is one)."""
    out: Path | None = None
    """JSON file to write as well."""


def network_sizes(config: ReconstructionBenchmark) -> VGGTConfig:
    """The sizes of a VGGT of this width and depth, its heads in the proportions of VGGT-1B."""
    dim, depth = config.embed_dim, config.layers
    heads = max(1, dim // 64)
    first, second, third, last = (
        max(0, round(depth * share) - 1) for share in (0.2, 0.5, 0.75, 1.0)
    )
    return VGGTConfig(
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        dino_depth=depth,
        dino_num_heads=heads,
        camera_head_num_heads=heads,
        dpt_features=dim // 4,
        dpt_out_channels=(dim // 4, dim // 2, dim, dim),
        intermediate_layers=(first, second, third, last),
        point_head=False,
        temporal="token" if config.temporal else "none",
    )


@torch.no_grad()
def random_reconstructor(config: VGGTConfig, device: str | torch.device = "cpu") -> Reconstructor:
    """A reconstructor with random weights that keep the size of the signal, in the device's type
    (see matrix_dtype).

    Made in place, so that no second copy of the weights is ever held: in bfloat16 the matrices of
    VGGT-1B take 2.4 GB. Open temporal gates.
    """
    dtype = matrix_dtype(torch.device(device))
    with torch.device("meta"):
        model = VGGT(config)
        for part in model.aggregator.modules():
            if isinstance(part, nn.Linear):
                part.to(dtype)
    model.to_empty(device=device)
    for part in model.modules():
        for name, value in part.named_parameters(recurse=False):
            if isinstance(part, LayerScale):
                value.fill_(config.layer_scale_init)
            elif isinstance(part, nn.LayerNorm) or name == "bias":
                value.fill_(float(name == "weight"))
            else:
                fan_in = value[0].numel() if isinstance(part, nn.Linear | nn.Conv2d) else 2500
                value.uniform_(-((3 / fan_in) ** 0.5), (3 / fan_in) ** 0.5)
    # Open fields of view, in every iteration.
    model.camera_head.pose_branch.fc2.bias[6:] = 0.25
    return Reconstructor(model, dtype=dtype)


def random_grid(num_views: int, num_frames: int, height: int, width: int) -> Tensor:
    """Frames [V, T, 3, H, W]: still noise per view with a square that moves over it."""
    generator = torch.Generator().manual_seed(0)
    still = torch.rand(num_views, 1, 3, height, width, generator=generator)
    frames = still.expand(-1, num_frames, -1, -1, -1).clone()
    side = height // 4
    for t in range(num_frames):
        left = (width - side) * t // max(1, num_frames - 1)
        frames[:, t, :, side : 2 * side, left : left + side] = 0.8
    return frames


def measure_reconstruction(
    reconstructor: Reconstructor, frames: Tensor, window: int | None
) -> dict[str, float]:
    """Seconds, peak memory in GB (of the GPU, or of the process on a CPU) and Gaussians."""
    profiler = StageProfiler(reconstructor.device)
    with profiler.stage("run"):
        scene = reconstructor(frames, window=window).scene
    figures = profiler.stages["run"]
    memory = figures.get("peak_gpu_memory_mb", figures["peak_memory_mb"])
    return {
        "seconds": figures["seconds"],
        "memory_gb": round(memory / 1024, 2),
        "gaussians": scene.num_gaussians,
    }


def benchmark_reconstruction(config: ReconstructionBenchmark) -> dict[str, Any]:
    """Print a Markdown table of seconds / GB / Gaussians, one row per number of views."""
    device = choose_device(config.device)
    reconstructor = random_reconstructor(network_sizes(config), device)
    count = sum(p.numel() for p in reconstructor.model.parameters()) / 1e6
    size = f"{config.height} x {config.width}"
    dtype = str(reconstructor.dtype).removeprefix("torch.")
    print(f"{device_name(device)}, {count:.0f} M parameters, {size}, {dtype}")
    print("| views | " + " | ".join(f"T={t}" for t in config.num_frames) + " |")
    print("|---" * (1 + len(config.num_frames)) + "|")
    cells = {}
    for num_views in config.num_views:
        row = [f"| {num_views}"]
        for num_frames in config.num_frames:
            frames = random_grid(num_views, num_frames, config.height, config.width)
            try:
                found = measure_reconstruction(reconstructor, frames, config.window)
            except torch.OutOfMemoryError:
                row.append("out of memory")
                continue
            cells[f"{num_views}x{num_frames}"] = found
            row.append("{seconds:.3g} s / {memory_gb} GB / {gaussians}".format(**found))
        print(" | ".join(row) + " |", flush=True)
    result = {"device": device_name(device), "settings": as_json(asdict(config)), "cells": cells}
    if config.out:
        write_json(config.out, result)
    return result
