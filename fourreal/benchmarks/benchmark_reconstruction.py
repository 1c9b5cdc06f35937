"""`fourreal benchmark reconstruction`: the paper's table of views x times on the present device.

Seconds, peak memory and Gaussians of whole reconstructions with random weights of any size. The
paper's (supplement): an A100 at 350 x 518, float32.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fourreal.commands.generate import Report
from fourreal.files.atomic import atomic_path
from fourreal.reconstruction import VGGT, Reconstructor, VGGTConfig
from fourreal.reconstruction.layers import LayerScale


@dataclass
class ReconstructionBenchmark:
    """Time reconstructions of random grids with random weights."""

    views: tuple[int, ...] = (2, 4, 8, 16)
    times: tuple[int, ...] = (1, 4, 8, 16)
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
    """CUDA where there is one."""
    out: Path | None = None
    """JSON file to write as well."""


@torch.no_grad()
def random_reconstructor(config: VGGTConfig, device="cpu", dtype=None) -> Reconstructor:
    """A reconstructor with random weights that keep the size of the signal.

    Made in place, so that no second copy of the weights is ever held: VGGT-1B takes 2.4 GB for its
    matrices in bfloat16 (the default). Open temporal gates.
    """
    with torch.device("meta"):
        model = VGGT(config)
        for part in model.aggregator.modules():
            if isinstance(part, nn.Linear):
                part.to(dtype or torch.bfloat16)
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
    return Reconstructor(model, dtype=dtype or torch.bfloat16)


def random_grid(num_views: int, num_times: int, height: int, width: int) -> Tensor:
    """Frames [V, T, 3, H, W]: still noise per view with a square that moves over it."""
    generator = torch.Generator().manual_seed(0)
    still = torch.rand(num_views, 1, 3, height, width, generator=generator)
    frames = still.expand(-1, num_times, -1, -1, -1).clone()
    side = height // 4
    for t in range(num_times):
        left = (width - side) * t // max(1, num_times - 1)
        frames[:, t, :, side : 2 * side, left : left + side] = 0.8
    return frames


def measure(reconstructor: Reconstructor, frames: Tensor, window: int | None) -> dict[str, float]:
    """Seconds, peak memory in GB (of the GPU, or of the process on a CPU) and Gaussians."""
    device, report = reconstructor.device, Report()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    with report.stage("run"):
        scene = reconstructor(frames, window=window).scene
    seconds = time.perf_counter() - start
    memory = report.stages["run"]["peak_memory_mb"] / 1024
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device) / 2**30
    return {
        "seconds": round(seconds, 3),
        "memory_gb": round(memory, 2),
        "gaussians": scene.num_gaussians,
    }


def benchmark_reconstruction(config: ReconstructionBenchmark) -> dict:
    """Print a Markdown table of seconds / GB / Gaussians, one row per number of views."""
    dim, depth = config.embed_dim, config.layers
    heads = max(1, dim // 64)
    levels = tuple(max(0, round(depth * share) - 1) for share in (0.2, 0.5, 0.75, 1.0))
    sizes = VGGTConfig(
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        dino_depth=depth,
        dino_num_heads=heads,
        camera_head_num_heads=heads,
        dpt_features=dim // 4,
        dpt_out_channels=(dim // 4, dim // 2, dim, dim),
        intermediate_layers=levels,
        point_head=False,
        temporal="token" if config.temporal else "none",
    )
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    reconstructor = random_reconstructor(sizes, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    count = sum(p.numel() for p in reconstructor.model.parameters()) / 1e6
    print(f"{name}, {count:.0f} M parameters, {config.height} x {config.width}, bfloat16")
    print("| views | " + " | ".join(f"T={t}" for t in config.times) + " |")
    print("|---" * (1 + len(config.times)) + "|")
    cells = {}
    for views in config.views:
        row = [f"| {views}"]
        for times in config.times:
            frames = random_grid(views, times, config.height, config.width)
            try:
                found = measure(reconstructor, frames, config.window)
            except torch.OutOfMemoryError:
                row.append("out of memory")
                continue
            cells[f"{views}x{times}"] = found
            row.append("{seconds:.3g} s / {memory_gb} GB / {gaussians}".format(**found))
        print(" | ".join(row) + " |", flush=True)
    settings = json.loads(json.dumps(asdict(config), default=str))
    result = {"device": name, "settings": settings, "cells": cells}
    if config.out:
        with atomic_path(config.out) as temporary:
            Path(temporary).write_text(json.dumps(result, indent=1))
    return result
