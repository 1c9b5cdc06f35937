"""Whether neighbouring views of a grid show the parallax that their exact geometry demands.

Colours at corresponding pixels do not tell: a blurred grid agrees with itself better than a sharp
one, and one picture in all views agrees well. So each patch of a view is looked for in the next
view, around the place where exact geometry puts it; how far off it is found is the error.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.cameras import pixel_grid, warp
from fourreal.grid import spaced_times

REACH = 4  # pixels around the exact place, in both directions
PATCH = 5  # pixels across
LEAST_FLOW = 1.0  # pixels between two views: what moves less tells nothing
SEEN_WITHIN = 0.03  # a point is seen where its depth is that of the surface up to this share
TIMES = 2  # evenly spaced, are compared


class Parallax:
    """The exact flow between neighbouring views of a scene, and the pixels that can be told by it:
    those that the next view sees too, that are elsewhere there, and that are found there in the
    exact frames, which flat surfaces are not.

    exact [V, T, 3, H, W] in [0, 1]; depth [V, T, H, W]; extrinsics [V, 3, 4] and intrinsics
    [V, 3, 3] of still cameras, in pixels.
    """

    def __init__(self, exact: Tensor, depth: Tensor, extrinsics: Tensor, intrinsics: Tensor):
        self.times = spaced_times(TIMES, exact.shape[1])
        self.depth, self.extrinsics, self.intrinsics = depth, extrinsics, intrinsics
        side = torch.arange(-REACH, REACH + 1, device=exact.device)
        self.shifts = torch.cartesian_prod(side, side)  # [R, 2], rows and columns
        self.distances = self.shifts.float().norm(dim=-1)
        self.told = [self._tells(v, exact) for v in range(len(exact) - 1)]

    def _warped(self, view: int, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images [T, C, H, W] of the next view as this one sees them; see `warp`."""
        cameras = [(self.extrinsics[v], self.intrinsics[v]) for v in (view, view + 1)]
        return warp(images, self.depth[view, self.times], *cameras)

    def _found(self, view: int, frames: Tensor) -> Tensor:
        """How many pixels from its exact place each patch of a view is found [T, H, W]."""
        here, there = frames[view, self.times], frames[view + 1, self.times]
        moved = [there.roll((-int(y), -int(x)), (-2, -1)) for y, x in self.shifts]
        warped = self._warped(view, torch.cat(moved, 1))[0].unflatten(1, (len(moved), -1))
        error = (warped - here[:, None]).square().mean(2)  # [T, R, H, W]
        error = F.avg_pool2d(error, PATCH, 1, PATCH // 2, count_include_pad=False)
        return self.distances[error.argmin(1)]

    def _tells(self, view: int, exact: Tensor) -> Tensor:
        height, width = exact.shape[-2:]
        grid = pixel_grid(height, width, exact.device).movedim(-1, 0)
        depth = self.depth[view + 1, self.times][:, None]
        other = torch.cat([depth, grid.expand(len(depth), -1, -1, -1)], 1)
        warped, inside, distance = self._warped(view, other)
        seen = inside & ((warped[:, 0] / distance - 1).abs() < SEEN_WITHIN)
        elsewhere = (warped[:, 1:] - grid).norm(dim=1) >= LEAST_FLOW
        return seen & elsewhere & (self._found(view, exact) == 0)

    def score(self, frames: Tensor) -> dict[str, float]:
        """Of a grid [V, T, 3, H, W] in [0, 1]: parallax_right, the share of the telling pixels that
        are found within a pixel of their exact place, and parallax_error, how far off they are in
        the mean, in pixels, at most that of the search; NaN where no pixel tells."""
        found = torch.cat([self._found(v, frames)[told] for v, told in enumerate(self.told)])
        if not len(found):
            return {"parallax_right": float("nan"), "parallax_error": float("nan")}
        return {
            "parallax_right": float((found <= 1).float().mean()),
            "parallax_error": float(found.mean()),
        }
