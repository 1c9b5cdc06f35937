"""What maps hold within some pixels of each pixel."""

import torch
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


def window(
    y: Tensor, x: Tensor, reach: int, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows [P, k, 1] and columns [P, 1, k] of the k x k pixels within `reach` of pixels (y, x) [P],
    moved into the frame where they are outside it, and which are inside [P, k, k]."""
    steps = torch.arange(-reach, reach + 1, device=y.device)
    rows, columns = y[:, None, None] + steps[:, None], x[:, None, None] + steps
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return rows.clamp(0, height - 1), columns.clamp(0, width - 1), inside
