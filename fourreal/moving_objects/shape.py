"""The shape of an object that several cameras see, from their views of it.

The depth of a network is good to a few percent, which is a third of a small object's radius: its
surfaces, one of each view, do not meet, and stand out beside it when it is seen from elsewhere.
That it was cut out says more: no point of it lies outside of what another view shows of it (its
visual hull, Laurentini 1994), and where a point is seen in two views both show the same colour
there. With these the depth of all views is corrected together, by descent.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.cameras import camera_centers, project, scale_intrinsics, unproject
from fourreal.descent import descend, soft
from fourreal.moving_objects.segmentation import Cutout
from fourreal.neighborhoods import blurred, grown

ROWS = 128  # of the frames in which a shape is sought, at most
CELL = 2  # pixels across the cells that corrections of depth are held in
STEPS, RATE = 80, 0.02  # of Adam; logarithms of depth
FAR = 24  # pixels beside an object: what is farther away is no farther outside
# An error counts as e / (e + softness): of pixels outside an object, colours, logarithms of depth.
OUTSIDE_SOFTNESS, COLOR_SOFTNESS, DEPTH_SOFTNESS = 2.0, 0.03, 0.03
DEPTH_WEIGHT = 0.3  # of an error of depth; the others' is 1
HIDDEN = 0.08  # of depth, by which a point lies behind what the other view sees
SPREAD, STEP_SPREAD = 0.2, 0.55  # of corrections, and from cell to cell
CLEARLY = 0.7  # of the disagreement before: with more, depth was as good


def shaped(cutout: Cutout, cameras: tuple[Tensor, Tensor]) -> Tensor:
    """Depth [V, H, W] of an object with which its V >= 2 views agree better.

    cameras: extrinsics [V, 3, 4] and intrinsics [V, 3, 3] in pixels of H x W. It differs from the
    cutout's own, in whose unit it is, by smooth factors; it is that where the views do not agree
    clearly better in the end. Works under no_grad and inference mode.
    """
    height, width = cutout.depth.shape[1:]
    factor = max(1, round(height / ROWS))
    size = height // factor, width // factor
    maps = torch.cat([cutout.colors, cutout.alpha, cutout.item.hidden[:, None]], 1)
    small = F.adaptive_avg_pool2d(maps, size)
    depth = F.interpolate(cutout.depth[:, None], size, mode="nearest-exact")[:, 0]
    lenses = scale_intrinsics(cameras[1], size[1] / width, size[0] / height)
    with torch.inference_mode(False), torch.enable_grad():
        views = ObjectViews(small.clone(), depth.clone(), (cameras[0].clone(), lenses.clone()))
        cells = depth.new_zeros(len(depth), 1, *(max(n // CELL, 2) for n in size))

        def loss() -> Tensor:
            steps = cells.diff(dim=-1).square().mean() + cells.diff(dim=-2).square().mean()
            unlikely = cells.square().mean() / SPREAD**2 + steps / STEP_SPREAD**2
            return views.disagreement(corrections(cells, size)) + unlikely

        before = loss().item()
        if before:
            descend([cells], loss, RATE, STEPS)
        if not loss().item() < CLEARLY * before:
            return cutout.depth
    return cutout.depth * corrections(cells.detach(), (height, width)).exp()


def corrections(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """Logarithms [V, h, w] of the factors of depth that cells [V, 1, rows, columns] hold."""
    return F.interpolate(cells, size, mode="bilinear", align_corners=False)[:, 0]


class ObjectViews:
    """The pixels of an object in V views, P in all, and what each view shows where they lie in it.

    maps [V, 5, h, w]: colours, alpha, and where there may be more of the object than is seen;
    depth [V, h, w]; cameras in pixels of h x w.
    """

    def __init__(self, maps: Tensor, depth: Tensor, cameras: tuple[Tensor, Tensor]) -> None:
        self.cameras, self.own = cameras, maps[:, 3] > 0.5
        self.logarithms = depth.clamp_min(1e-3).log()
        colors = blurred(maps[:, :3], 1)
        self.view, self.colors = self.own.nonzero()[:, 0], colors.movedim(1, -1)[self.own]
        self.centers = camera_centers(cameras[0])[self.view]
        self.rays = unproject(torch.ones_like(depth), *cameras)[self.own] - self.centers
        outside = sum((~grown(self.own, reach)).to(depth) for reach in range(1, FAR))
        outside = outside + (~self.own).to(depth)
        kinds = self.own.to(depth), (maps[:, 4] > 0).to(depth), outside
        self.maps = torch.cat([colors, torch.stack(kinds, 1)], 1)

    def disagreement(self, logarithms: Tensor) -> Tensor:
        """How much the views contradict each other, were depth corrected by these [V, h, w]."""
        depth = self.logarithms + logarithms
        points = self.centers + self.rays * depth[self.own].exp()[:, None]
        pixels, distance = project(points.expand(len(depth), -1, -1), *self.cameras)
        where = 2 * pixels / pixels.new_tensor(depth.shape[:0:-1]) - 1
        shown = F.grid_sample(
            torch.cat([self.maps, depth[:, None]], 1), where[:, None], "bilinear", "border", False
        )[:, :, 0]  # [V, 7, P]
        color, (own, hidden, outside, surface) = shown[:, :3], shown[:, 3:].unbind(1)
        others = torch.arange(len(depth), device=depth.device)[:, None] != self.view
        told = (where.abs() < 1).all(-1) & others & (hidden < 0.5)
        behind = distance.clamp_min(1e-3).log() - surface
        seen = told & (own > 0.5) & (behind < HIDDEN)
        off = soft((color - self.colors.T).abs().mean(1), COLOR_SOFTNESS)
        off = off + DEPTH_WEIGHT * soft(behind.abs(), DEPTH_SOFTNESS)
        errors = (soft(outside, OUTSIDE_SOFTNESS), told), (off, seen)
        return sum(
            ((error * counts).sum() / counts.sum().clamp_min(1) for error, counts in errors),
            start=depth.new_zeros(()),
        )
