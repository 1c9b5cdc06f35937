"""What maps hold within some pixels of each pixel."""

import torch
import torch.nn.functional as F
from torch import Tensor

JUMP = 0.05  # relative range of depth beyond a slanted plane's that is a jump
REACH = 2  # pixels around one in which a jump counts: a window of 5 x 5
FLANK = 4  # steps to each side of the window that say how slanted the surfaces are


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


def beside_jumps(depth: Tensor) -> Tensor:
    """Pixels [N, H, W] of depth maps around which depth jumps.

    Along rows and columns: the range of disparity over 5 pixels, less what the surfaces to either
    side of them would make of it (their smallest steps, of the steeper side: slanted planes have
    equal steps of disparity, and where two meet in a crease nothing jumps), is more than JUMP of
    the smallest disparity there.
    """
    disparity = 1 / depth
    steps_across = 2 * REACH
    beside = torch.zeros_like(depth, dtype=torch.bool)
    for dim in (1, 2):
        lines = disparity.transpose(dim, 2)  # along the last dimension
        most, least = (
            sign * F.max_pool1d(sign * lines, steps_across + 1, 1, REACH) for sign in (1, -1)
        )
        around = REACH + FLANK
        steps = F.pad(lines.diff(dim=2).abs(), (around, around), value=torch.inf)
        smallest = -F.max_pool1d(-steps, FLANK, 1)
        flanks = smallest[..., : -steps_across - FLANK], smallest[..., steps_across + FLANK :]
        slope = torch.maximum(*(f.masked_fill(f.isinf(), 0) for f in flanks))
        beside |= (most - least - steps_across * slope > JUMP * least).transpose(dim, 2)
    return beside


def blurred(frames: Tensor, sigma: float) -> Tensor:
    """Frames [..., H, W] blurred by a Gaussian of `sigma` pixels; borders go on as they are.

    As two products with matrices, which no convolution along one axis was faster than on a CPU,
    from 64 x 64 (five times) to 1080 x 1920 (as fast).
    """
    place = frames.device, frames.dtype
    down, across = (blurring(size, sigma, *place) for size in frames.shape[-2:])
    return down @ (frames @ across.T)


def blurring(size: int, sigma: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The matrix [size, size] that blurs a line of so many pixels, see blurred."""
    reach = int(3 * sigma + 0.5)
    steps = torch.arange(-reach, reach + 1, device=device)
    kernel = (-0.5 * (steps.to(dtype) / sigma) ** 2).exp()
    sources = (torch.arange(size, device=device)[:, None] + steps).clamp(0, size - 1)
    shares = (kernel / kernel.sum()).expand(size, -1)
    return kernel.new_zeros(size, size).scatter_add_(1, sources, shares)


def ring_filled(maps: Tensor, known: Tensor, where: Tensor) -> Tensor:
    """Maps [N, C, H, W], 0 where they are not known [N, H, W]; in the pixels of `where` that known
    ones reach they are filled in rings, each pixel the mean of those of the 3 x 3 around that are
    known already."""
    kernel = maps.new_ones(maps.shape[1] + 1, 1, 3, 3)
    maps = torch.cat([maps, torch.ones_like(maps[:, :1])], 1) * known[:, None]
    while True:
        total = F.conv2d(maps, kernel, padding=1, groups=len(kernel))
        new = where & (maps[:, -1] == 0) & (total[:, -1] > 0)
        if not new.any():
            return maps[:, :-1]
        maps = torch.where(new[:, None], total / total[:, -1:].clamp_min(1), maps)
