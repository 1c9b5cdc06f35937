"""What stands still is stored once: the split of a grid into static and dynamic pixels.

The cameras stand still, so each pixel of a view is a film of one ray. Its static layer is the
farthest surface it shows steadily; at other times something nearer covers it, or it changes. A
pixel that changes without being covered (a shadow, a turning object) has no static layer, because
its static Gaussians would shine through at the other times.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.neighborhoods import grown


@dataclass(frozen=True)
class StaticSplit:
    """How much a static pixel may vary.

    Attributes:
        color: largest absolute change of a colour channel from its median, of [0, 1].
        depth: largest relative change of depth from its median.
        min_share: a static layer is seen in at least this share of the times.
    """

    color: float = 0.06
    depth: float = 0.1
    min_share: float = 0.1

    def __post_init__(self) -> None:
        if self.color <= 0 or self.depth <= 0 or not 0 <= self.min_share <= 1:
            raise ValueError(
                f"static split has color {self.color}, depth {self.depth} and min_share "
                f"{self.min_share}; the first two must be positive, min_share between 0 and 1."
            )


@dataclass
class SplitMasks:
    """The split of one view.

    static: pixels with a static layer [H, W]; time: at which time it is seen best [H, W];
    color [3, H, W] and depth [H, W]: its medians; dynamic: pixels to store per time [T, H, W].
    """

    static: Tensor
    time: Tensor
    color: Tensor
    depth: Tensor
    dynamic: Tensor

    def to(self, device: torch.device) -> "SplitMasks":
        """A copy on a device."""
        return SplitMasks(*(part.to(device) for part in vars(self).values()))


def median_where(values: Tensor, mask: Tensor) -> Tensor:
    """Median over the first dimension [T, ...] where mask [T, ...]; NaN where nowhere."""
    return values.masked_fill(~mask, torch.nan).nanmedian(dim=0).values


def _specks_removed(mask: Tensor) -> Tensor:
    """A mask [T, H, W] without pixels that have fewer than two of eight neighbours in it."""
    neighbours = F.avg_pool2d(mask[:, None].float(), 3, 1, 1, divisor_override=1)[:, 0] - 1
    return mask & (neighbours > 1.5)


def _next_to_in_time(mask: Tensor) -> Tensor:
    """Where a mask [T, H, W] holds at this time or a neighbouring one."""
    wide = F.pad(mask.float().permute(1, 2, 0), (1, 1))
    return (
        F.max_pool1d(wide.flatten(0, 1)[:, None], 3, 1)[:, 0]
        .unflatten(0, mask.shape[1:])
        .permute(2, 0, 1)
        > 0
    )


def split_view(
    frames: Tensor,
    depth: Tensor,
    keep: Tensor,
    options: StaticSplit,
    moving: Tensor | None = None,
) -> SplitMasks:
    """Split one view: frames [T, 3, H, W], depth [T, H, W] in one unit, usable pixels [T, H, W].

    Only usable pixels become Gaussians; a static layer that is never usable is dropped. moving
    [T, H, W]: pixels that are known to show something that moves, however little they change.
    """
    log_depth = depth.clamp_min(1e-8).log()
    far = log_depth.amax(dim=0)
    # Depth of the farthest layer: the median of what is near the farthest value ever seen.
    layer = median_where(log_depth, (far - log_depth) < 2 * options.depth)
    at_layer = (log_depth - layer).abs() < options.depth
    change = (log_depth - layer).abs() / options.depth
    colors = []
    for channel in frames.unbind(1):  # one after the other: a copy of all frames is large
        colors.append(median_where(channel, at_layer))
        change = torch.maximum(change, (channel - colors[-1]).abs_() / options.color)
    color = torch.stack(colors)

    # Hysteresis: a change must pass the threshold once; around it half of it is enough.
    strong = _specks_removed(change > 1)
    if moving is not None:
        strong |= moving
    changed = strong | ((change > 0.5) & _next_to_in_time(grown(strong, 1)))
    covered = grown(changed & (log_depth < layer - options.depth), 1)  # with its soft edge
    unexplained = (changed & ~covered).any(dim=0)
    shown = ~changed & keep
    static = ~unexplained & (shown.sum(0) >= max(1, options.min_share * len(frames)))

    best = change.masked_fill(~shown, torch.inf).argmin(dim=0)
    dynamic = keep & torch.where(static, changed, True)
    return SplitMasks(static, best, color, layer.exp(), dynamic)
