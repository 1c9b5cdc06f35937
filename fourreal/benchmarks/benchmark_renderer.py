"""`fourreal benchmark renderer`: time and memory of the rasterizers, beside a matrix product."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourreal.benchmarks.measuring import device_name, median_seconds, peak_memory
from fourreal.devices import choose_device
from fourreal.files.json_files import as_json, write_json
from fourreal.gaussians import Gaussians
from fourreal.rendering import Rendering, available_backends, render

MATMUL = 2048
SIZES = {30_000: 256, 100_000: 256, 1_000_000: 512}  # Gaussians to pixels across
FIELD_OF_VIEW = math.radians(50)
SPLAT_PIXELS = 1.2  # standard deviation of a splat in the image


@dataclass
class RendererBenchmark:
    """Time rendering 30k, 100k and 1M Gaussians, forward and with backward, on every backend."""

    gaussians: tuple[int, ...] = tuple(SIZES)
    """Numbers of Gaussians; images are 512 x 512 from a million on, else 256 x 256."""
    device: str | None = None
    """cpu, cuda or cuda:N (default: CUDA where there is one)."""
    repeats: int = 5
    out: Path | None = None
    """JSON file to write as well."""


def benchmark_scene(
    count: int, pixels: int, device: str | torch.device = "cpu"
) -> tuple[Gaussians, Tensor, Tensor]:
    """Gaussians, half of them a wall and half a ball before it, each about SPLAT_PIXELS wide, with
    extrinsics [1, 3, 4] and intrinsics [1, 3, 3] of a camera with pixels x pixels."""
    r = torch.Generator().manual_seed(0)
    focal = 0.5 * pixels / math.tan(FIELD_OF_VIEW / 2)
    wall = torch.rand(count // 2, 3, generator=r) * 3 - 1.5
    wall[:, 2] = 3.2
    ball = torch.randn(count - count // 2, 3, generator=r)
    ball = 0.7 * torch.nn.functional.normalize(ball, dim=-1) + torch.tensor([0.0, 0.0, 2.4])
    means = torch.cat([wall, ball])
    spread = 0.7 + 0.6 * torch.rand(count, 3, generator=r)
    gaussians = Gaussians(
        means,
        torch.randn(count, 4, generator=r),
        means[:, 2:] * SPLAT_PIXELS / focal * spread,
        torch.rand(count, generator=r) * 0.9 + 0.05,
        torch.randn(count, 1, 3, generator=r) * 0.3,
    )
    center = pixels / 2
    intrinsics = torch.tensor([[[focal, 0, center], [0, focal, center], [0, 0, 1]]])
    return gaussians.to(device), torch.eye(3, 4, device=device)[None], intrinsics.to(device)


def benchmark_renderer(config: RendererBenchmark) -> dict[str, Any]:
    """Print a line per backend and number of Gaussians; returns their numbers. All are timed in
    turn, medians."""
    if min(config.gaussians, default=0) < 1 or config.repeats < 1:
        raise ValueError(
            f"gaussians {config.gaussians} and repeats {config.repeats} must be at least 1."
        )
    device = choose_device(config.device)
    a = torch.randn(MATMUL, MATMUL, device=device)
    print(f"{device}, {torch.get_num_threads()} threads; x: of a {MATMUL}^3 float32 matrix product")
    backends = [b for b in available_backends() if b == "torch" or device.type == "cuda"]
    rows: dict[str, dict[str, float]] = {}
    for count in config.gaussians:
        pixels = 512 if count >= 1_000_000 else 256
        gaussians, extrinsics, intrinsics = benchmark_scene(count, pixels, device)
        for backend in backends:
            drawn = gaussians, (extrinsics, intrinsics), pixels, backend
            runs: dict[str, Callable[[], object]] = {
                "matmul": partial(torch.matmul, a, a),
                "forward": partial(draw_forward, *drawn),
                "with backward": partial(draw_with_backward, *drawn),
            }
            seconds = median_seconds(runs, device, config.repeats)
            line = [f"{backend} {count} Gaussians, {pixels} x {pixels}:"]
            for name in ("forward", "with backward"):
                memory = peak_memory(runs[name], device) / 2**20
                ratio = seconds[name] / seconds["matmul"]
                figures = {"seconds": seconds[name], "peak_mb": memory, "matmul_ratio": ratio}
                rows[f"{backend} {count} {name}"] = figures
                line.append(f"{name} {1e3 * seconds[name]:.0f} ms ({ratio:.2f} x), {memory:.0f} MB")
            print(*line, f"matmul {1e3 * seconds['matmul']:.0f} ms", sep="  ")
    settings = as_json(asdict(config))
    result = {"device": device_name(device), "settings": settings, "rows": rows}
    if config.out:
        write_json(config.out, result)
    return result


@torch.no_grad()
def draw_forward(
    gaussians: Gaussians, cameras: tuple[Tensor, Tensor], pixels: int, backend: str
) -> Rendering:
    """One image."""
    return render(gaussians, *cameras, pixels, pixels, backend=backend)


def draw_with_backward(
    gaussians: Gaussians, cameras: tuple[Tensor, Tensor], pixels: int, backend: str
) -> None:
    """One image and the gradient of a squared error in every field."""
    leaves = gaussians.map(lambda x: x.detach().requires_grad_())
    color = render(leaves, *cameras, pixels, pixels, backend=backend).color
    torch.autograd.grad((color - 0.5).square().mean(), list(vars(leaves).values()))
