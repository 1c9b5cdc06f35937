"""The one entry to the rasterizers: choose a backend, composite over a background."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fourreal.gaussians import Gaussians
from fourreal.rendering import gsplat_backend
from fourreal.rendering.gsplat_backend import rasterize_with_gsplat
from fourreal.rendering.harmonics import harmonic_degree
from fourreal.rendering.projection import View
from fourreal.rendering.torch_backend import rasterize_with_torch

BACKENDS = ("auto", "torch", "gsplat")
Rasterizer = Callable[[Gaussians, View], tuple[Tensor, Tensor, Tensor]]  # colour, alpha, depth


@dataclass
class Rendering:
    """Images of C cameras, float32: color [C, H, W, 3] over the background (not clamped above),
    alpha [C, H, W, 1] in [0, 1], depth [C, H, W, 1].

    depth is the expected z-depth in world units, sum_i w_i z_i / alpha, and 0 where alpha is 0.
    """

    color: Tensor
    alpha: Tensor
    depth: Tensor


def available_backends() -> tuple[str, ...]:
    """The backends that work here: always "torch", and "gsplat" with CUDA and its package."""
    return ("torch", "gsplat") if gsplat_backend.is_available() else ("torch",)


def render(
    gaussians: Gaussians | Sequence[Gaussians],
    extrinsics: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
    *,
    background: Tensor | None = None,
    antialiased: bool = False,
    backend: str = "auto",
) -> Rendering:
    """Render Gaussians from C pinhole cameras, as gsplat's classic mode does.

    gaussians: those of one time, or of T >= 1 times, whose images are then [T, C, H, W, ..].
    extrinsics [C, 3, 4]: world to camera, OpenCV. intrinsics [C, 3, 3]: pixels of a width x height
    image, first pixel centre at (0.5, 0.5). background: colour [3] or [C, 3], black when None.
    antialiased keeps the brightness of splats smaller than a pixel (Mip-Splatting's filter).
    backend: "torch" (any device), "gsplat" (CUDA), or "auto": gsplat for tensors on CUDA when it
    works, torch otherwise. Differentiable in every field of the Gaussians.

    Raises ValueError for wrong shapes, sizes, harmonic degrees, or a backend that cannot be used.
    """
    view = View(extrinsics, intrinsics, width, height, antialiased)
    if isinstance(gaussians, Gaussians):
        return render_view(gaussians, view, background, backend)
    times = [render_view(g, view, background, backend) for g in gaussians]
    return Rendering(
        torch.stack([time.color for time in times]),
        torch.stack([time.alpha for time in times]),
        torch.stack([time.depth for time in times]),
    )


def render_view(
    gaussians: Gaussians, view: View, background: Tensor | None, backend: str
) -> Rendering:
    """`render` for the Gaussians of one time."""
    check_inputs(gaussians, view, backend)
    device = gaussians.means.device
    view = view._replace(
        extrinsics=view.extrinsics.to(device), intrinsics=view.intrinsics.to(device)
    )
    color, alpha, depth = choose_rasterizer(backend, device)(gaussians, view)
    # Where anything was drawn alpha is at least 1/255, so the floor only avoids 0 / 0.
    depth = depth / alpha.clamp_min(1e-6)
    if background is not None:
        background = torch.as_tensor(background, dtype=color.dtype, device=device)
        color = color + (1.0 - alpha) * background.expand(len(color), 3)[:, None, None]
    return Rendering(color, alpha, depth)


def check_inputs(gaussians: Gaussians, view: View, backend: str) -> None:
    """Raise ValueError for wrong shapes, sizes, harmonic degrees and backends."""
    extrinsics, intrinsics = view.extrinsics, view.intrinsics
    cameras = extrinsics.shape[0]
    if extrinsics.shape != (cameras, 3, 4) or intrinsics.shape != (cameras, 3, 3) or not cameras:
        raise ValueError(
            "render needs extrinsics [C, 3, 4] and intrinsics [C, 3, 3] of the same C >= 1, got "
            f"{tuple(extrinsics.shape)} and {tuple(intrinsics.shape)}."
        )
    if view.width < 1 or view.height < 1:
        raise ValueError(
            f"the image size is {view.width} x {view.height}, but must be at least 1 x 1."
        )
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}, but must be one of {', '.join(BACKENDS)}.")
    harmonic_degree(gaussians.harmonics)


def choose_rasterizer(backend: str, device: torch.device) -> Rasterizer:
    """What rasterizes tensors of this device. Raises ValueError when gsplat was asked for and
    cannot be used."""
    if backend == "gsplat":
        if device.type != "cuda":
            raise ValueError(
                f"backend 'gsplat' needs tensors on CUDA, but these are on {device.type}; "
                "use 'torch' or 'auto'."
            )
        if not gsplat_backend.is_available():
            raise ValueError(
                "backend 'gsplat' was asked for, but gsplat does not work here "
                f"({gsplat_backend.why_not()}); use 'torch' or 'auto'."
            )
        return rasterize_with_gsplat
    if backend == "auto" and device.type == "cuda" and gsplat_backend.is_available():
        return rasterize_with_gsplat
    return rasterize_with_torch
