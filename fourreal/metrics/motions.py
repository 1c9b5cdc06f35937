"""How an object moves, told by its path in space.

The path comes from the object's middle in all views, by the arc of cameras that procedural scenes
have in the mean. A grid whose views do not show one place has no path.
"""

from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from fourreal.cameras import look_at, pixel_intrinsics, project
from fourreal.metrics.objects import shown

# The cameras of `fourreal.scenes.describe` in the mean of what is drawn there.
SPAN, RADIUS, HEIGHT, FOV_Y = 0.8, 2.7, 1.15, 0.71
TARGET = (0.0, -0.42, 0.05)
LEAST_VIEWS, LEAST_TIMES = 0.5, 0.75  # shares of views at a time, and of times, that show an object
ASTRAY = 0.03  # of the frame's width: mean distance of the middles from one place
HIDDEN = 0.7  # of the largest silhouette at a time: smaller ones are partly behind something
ROUNDS = 3  # of weighing views down whose middle is elsewhere, as when something is in front
# Units of length, of which the action is about 2 wide.
RESTS, RISES, HANGS = 0.2, 0.3, 0.05  # most extent of what rests; least rise of a bounce, a swing
ROUND = 0.4  # least width over length of a circle


def mean_rig(num_views: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Extrinsics [V, 3, 4] (world: the set, y down, the floor at 0) and intrinsics [V, 3, 3]."""
    azimuth = SPAN * torch.linspace(-0.5, 0.5, num_views)
    position = torch.stack(
        [RADIUS * azimuth.sin(), torch.full_like(azimuth, -HEIGHT), -RADIUS * azimuth.cos()], -1
    )
    up = torch.tensor([0.0, -1.0, 0.0])
    extrinsics = look_at(position, torch.tensor(TARGET).expand_as(position), up)
    return extrinsics, pixel_intrinsics(torch.full((num_views,), FOV_Y), height, width)


def path_of(masks: Tensor) -> Tensor | None:
    """The path [T, 3] of an object with masks [V, T, H, W], in the set's frame; None where too few
    views and times show it, or where they do not show it at one place."""
    num_views, num_times, height, width = masks.shape
    extrinsics, intrinsics = mean_rig(num_views, height, width)
    seen = shown(masks)
    area = masks.float().sum((-1, -2))
    border = masks[..., 0].any(-1) | masks[..., -1].any(-1)
    border |= masks[..., 0, :].any(-1) | masks[..., -1, :].any(-1)
    whole = seen & ~border & (area > HIDDEN * area.amax(0))
    weight = masks.float() / masks.float().sum((-1, -2), keepdim=True).clamp_min(1)
    u = (weight.sum(-2) * (torch.arange(width) + 0.5)).sum(-1)
    v = (weight.sum(-1) * (torch.arange(height) + 0.5)).sum(-1)
    middles = torch.stack([u, v], -1)  # [V, T, 2]
    places = torch.full((num_times, 3), float("nan"))
    errors = []
    for time in range(num_times):
        views = whole[:, time] if whole[:, time].sum() > 1 else seen[:, time]
        if seen[:, time].float().mean() < LEAST_VIEWS or int(views.sum()) < 2:
            continue
        cameras = extrinsics[views], intrinsics[views]
        places[time], error = triangulate(middles[views, time], *cameras)
        errors.append(error / width)
    if len(errors) < LEAST_TIMES * num_times or sum(errors) / len(errors) > ASTRAY:
        return None
    return _filled(places)


def triangulate(pixels: Tensor, extrinsics: Tensor, intrinsics: Tensor) -> tuple[Tensor, float]:
    """The point [3] that V views see at pixels [V, 2], and the median distance in pixels between
    these and where the point is seen. Views that disagree with most weigh less."""
    projection = intrinsics @ extrinsics  # [V, 3, 4]
    rows = pixels[..., None] * projection[:, 2:] - projection[:, :2]  # [V, 2, 4]
    weight = torch.ones(len(pixels))
    for _ in range(ROUNDS):
        scaled = (rows * weight[:, None, None]).flatten(0, 1)
        point = torch.linalg.lstsq(scaled[:, :3], -scaled[:, 3:]).solution[:, 0]
        distance = (project(point[None], extrinsics, intrinsics)[0][:, 0] - pixels).norm(dim=-1)
        weight = 1 / (1 + distance)
    return point, float(distance.median())


def _filled(places: Tensor) -> Tensor:
    """places [T, 3], those that are NaN put between the others, in a running median of 3."""
    known = places[:, 0].isfinite().nonzero()[:, 0]
    index = torch.arange(len(places)).clamp(known[0], known[-1])
    after = known[torch.searchsorted(known, index).clamp_max(len(known) - 1)]
    before = known[(torch.searchsorted(known, index, right=True) - 1).clamp_min(0)]
    share = ((index - before) / (after - before).clamp_min(1))[:, None]
    whole = places[before] * (1 - share) + places[after] * share
    padded = torch.cat([whole[:1], whole, whole[-1:]])
    return padded.unfold(0, 3, 1).median(-1).values


@dataclass(frozen=True)
class Movement:
    """What a path does: rise (vertical extent), length and width (horizontal extents, along the
    main direction and across it), in units of the set."""

    rise: float
    length: float
    width: float

    @staticmethod
    def of(path: Tensor) -> "Movement":
        """That of a path [T, 3]."""
        level = path[:, [0, 2]] - path[:, [0, 2]].mean(0)
        axes = torch.linalg.svd(level, full_matrices=False).Vh
        along = level @ axes.T
        length, width = (along.amax(0) - along.amin(0)).tolist()
        return Movement(float(path[:, 1].amax() - path[:, 1].amin()), length, width)

    @property
    def kind(self) -> str:
        """bounce, orbit, slide or swing of MOTIONS, or "in place", as what spins or rests."""
        if max(self.rise, self.length) < RESTS:
            return "in place"
        if self.rise > RISES or self.rise > self.length:
            return "bounce"
        if self.width > ROUND * self.length:
            return "orbit"
        return "swing" if self.rise > HANGS else "slide"

    @property
    def size(self) -> float:
        """The extent that counts for its kind."""
        return self.rise if self.kind == "bounce" else max(self.length, self.rise)


def look_change(mask: Tensor, frames: Tensor) -> float:
    """How much an object that stays in place changes its look: the deviation over time of pixels
    [V, T, 3, H, W], at the times at which they are its own (mask [V, T, H, W]), in the mean over
    those that mostly are, and the median over views. What passes before it does not count."""
    own = mask[:, :, None].float()
    count = own.sum(1).clamp_min(1)  # [V, 1, H, W]
    mean = (frames * own).sum(1) / count
    variance = ((frames - mean[:, None]).square() * own).sum(1) / count
    deviation, mostly = variance.sqrt().amax(1), mask.float().mean(1) > 0.5
    views = [float(d[m].mean()) for d, m in zip(deviation, mostly) if m.any()]
    return median(views) if views else 0.0


def view_change(frames: Tensor) -> float:
    """How much the first and the last view of a grid [V, T, 3, H, W] differ: the mean absolute
    difference of their medians over time, which what moves does not shift."""
    first, last = (frames[view].median(0).values for view in (0, -1))
    return float((first - last).abs().mean())
