"""Metrics of images and grids of frames, on values in [0, 1]."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.files.extras import import_extra, install_extra

EQUAL = 60.0  # dB of frames that are equal, so that a mean exists
MOVED = 0.06  # a pixel has moved when a channel differs by more than this from time 0


def psnr(a: Tensor, b: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB of images [..., 3, H, W].

    mask [..., H, W] limits it to some pixels; nan when the mask is empty.
    """
    error = (a - b).square()
    if mask is not None:
        error = error.movedim(-3, -1)[mask]
    return float(-10 * torch.log10(error.mean()))


def mean_psnr(a: Tensor, b: Tensor, mask: Tensor | None = None) -> float:
    """The mean over frames of their PSNR in dB, at most EQUAL each, of grids [V, T, 3, H, W].

    mask [V, T, H, W] limits it to some pixels; frames without any are left out, nan when all are.
    """
    error = (a - b).square().mean(2)
    if mask is None:
        mask = torch.ones_like(error, dtype=torch.bool)
    count = mask.sum((-1, -2))
    mean = (error * mask).sum((-1, -2)) / count.clamp_min(1)
    return float((-10 * mean.log10()).clamp_max(EQUAL)[count > 0].mean())


def gradient_energy(frames: Tensor) -> float:
    """Mean squared difference of neighbouring pixels of images [..., H, W], along rows and
    columns; blur takes it away. Compare it with that of exact frames."""
    return float(frames.diff(dim=-1).square().mean() + frames.diff(dim=-2).square().mean())


def import_torchmetrics() -> Any:
    """torchmetrics.functional.image. Raises ValueError where torchmetrics is not installed."""
    return import_extra(
        "torchmetrics.functional.image",
        f"scores and their losses need the package torchmetrics; {install_extra('train')}.",
    )


def ssim(a: Tensor, b: Tensor) -> float:
    """Mean structural similarity of images [..., 3, H, W], at least 11 x 11.

    Raises ValueError without torchmetrics, whose it is.
    """
    a, b = a.flatten(0, -4), b.flatten(0, -4)
    found = import_torchmetrics().structural_similarity_index_measure(a, b, data_range=1.0)
    assert isinstance(found, Tensor)  # and no tuple, which full_image would give
    return float(found)


def moving_region(frames: Tensor) -> Tensor:
    """Mask [V, T, H, W] of the pixels of a grid [V, T, 3, H, W] that differ from their view's time
    0, dilated by 2 pixels."""
    moved = (frames - frames[:, :1]).abs().amax(2) > MOVED
    return F.max_pool2d(moved.float().flatten(0, 1)[:, None], 5, 1, 2)[:, 0].bool().view_as(moved)


def smoothness(frames: Tensor, dim: int) -> float:
    """100 (1 - mean absolute change from frame to frame) of a grid [V, T, 3, H, W], along time
    (dim 1) or views (dim 0): VBench's temporal flickering (arXiv 2311.17982), without its choice of
    still videos. Compare it with that of exact frames."""
    return float(100 * (1 - frames.diff(dim=dim).abs().mean()))
