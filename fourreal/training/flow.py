"""Rectified flow on grids of latents: what is known of a grid, how noisy it is, and the loss.

Paper, supplement: references are drawn at random; of a grid with references only the other cells
are learned where the model gets the known ones clean.
"""

from typing import Literal

import torch
from torch import Tensor

from fourreal.grid import reference_mask

NoiseLevels = Literal["logit-normal", "uniform"]


def draw_masks(
    kinds: Tensor, columns: Tensor, static: list[bool], num_views: int, num_frames: int
) -> Tensor:
    """Known cells [B, V*F] for reference kinds [B] from 0 to 3 (none, fixed view, freeze time,
    both), where freeze time shows so many columns [B] of latents.

    Static scenes get no fixed view: from it the model would learn to copy (paper, supplement).
    Nor is a reference given that is the whole grid. Where nothing would be left to learn, nothing
    is known.
    """
    masks = torch.stack(
        [
            reference_mask(
                num_views,
                num_frames,
                k in (1, 3) and num_views > 1 and not still,
                n * (k in (2, 3) and num_frames > 1),
            )
            for k, n, still in zip(kinds.tolist(), columns.tolist(), static)
        ]
    ).flatten(1)
    return masks & ~masks.all(1, keepdim=True)


def draw_noise_levels(
    shifts: Tensor, generator: torch.Generator, levels: NoiseLevels = "logit-normal"
) -> Tensor:
    """Noise levels [B] from 0 to 1, shifted by shifts [B]: logit-normal (arXiv 2403.03206), or
    uniform, as the steps of sampling are spread."""
    count = len(shifts)
    drawn = (
        torch.rand(count, generator=generator)
        if levels == "uniform"
        else torch.randn(count, generator=generator).sigmoid()
    )
    return shifts * drawn / (1 + (shifts - 1) * drawn)


def draw_noise(like: Tensor, generator: torch.Generator, on_device: bool = False) -> Tensor:
    """Noise of the shape, type and device of `like`; drawn there, where asked for, by a generator
    that follows from the one of the step, and else by that, on the host."""
    if not on_device:
        return torch.randn(like.shape, generator=generator).to(like)
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    own = torch.Generator(like.device).manual_seed(seed)
    return torch.randn(like.shape, generator=own, device=like.device).to(like)


def flow_loss(predicted: Tensor, noise: Tensor, latents: Tensor, unknown: Tensor) -> Tensor:
    """Mean squared error of the velocity noise - latents over the unknown cells (mask
    broadcastable to the latents)."""
    error = (predicted.float() - (noise - latents)).square() * unknown
    return error.sum() / (unknown.expand_as(error).sum().clamp_min(1))
