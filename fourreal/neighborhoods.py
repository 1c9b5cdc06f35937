"""What maps hold within some pixels of each pixel."""

import torch.nn.functional as F
from torch import Tensor


def grown(mask: Tensor, reach: int) -> Tensor:
    """Masks [N, H, W] widened by `reach` pixels."""
    return F.max_pool2d(mask[:, None].float(), 2 * reach + 1, 1, reach)[:, 0] > 0


def eroded(mask: Tensor, reach: int) -> Tensor:
    """Masks [N, H, W] narrowed by `reach` pixels; the frame's edge takes nothing away."""
    return ~grown(~mask, reach)


def within_reach(values: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """The least and the greatest of maps [N, h, w] within `reach` pixels of each one."""
    least, most = (
        sign * F.max_pool2d(sign * values[:, None], 2 * reach + 1, 1, reach)[:, 0]
        for sign in (-1, 1)
    )
    return least, most
