"""How an object moves, told by its path in space.

The path comes from the object's middle in all views, by the arc of cameras that procedural scenes
have in the mean. A grid whose views do not show one place has no path.
"""

from dataclasses import dataclass
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.cameras import look_at, pixel_intrinsics, project
from fourreal.metrics.objects import NEAR, around, shown, shown_whole

# The cameras of `fourreal.scenes.describe` in the mean of what is drawn there.
SPAN, RADIUS, HEIGHT, FOV_Y = 0.8, 2.7, 1.15, 0.71
TARGET = (0.0, -0.42, 0.05)
LEAST_VIEWS, LEAST_TIMES = 0.5, 0.75  # shares of views at a time, and of times, that show an object
ASTRAY = 0.03  # of the frame's width: mean distance of the middles from one place
LIT_ASTRAY = 0.06  # where only the lit side is told, of which each view shows another part
SHORT = 0.93  # of an object's size: what hides no more does not count
GUESSED = 0.1  # weight of a middle that comes from one side and the size, beside a whole one
EDGE = 0.04  # of an object's pixels may lie beyond each of its sides: stray ones
ROUNDS = 3  # of weighing views down whose middle is elsewhere, as when something is in front
# Units of length, of which the action is about 2 wide. In 29 frames what slides goes at least 0.3,
# what bounces rises at least 0.45, what swings 0.07 to 0.31 and a tenth of its length.
RESTS, RISES, HANGS, CURVES = 0.25, 0.37, 0.06, 0.1
ROUND = 0.45  # least width over length of a circle


def mean_rig(num_views: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Extrinsics [V, 3, 4] (world: the set, y down, the floor at 0) and intrinsics [V, 3, 3]."""
    azimuth = SPAN * torch.linspace(-0.5, 0.5, num_views)
    position = torch.stack(
        [RADIUS * azimuth.sin(), torch.full_like(azimuth, -HEIGHT), -RADIUS * azimuth.cos()], -1
    )
    up = torch.tensor([0.0, -1.0, 0.0])
    extrinsics = look_at(position, torch.tensor(TARGET).expand_as(position), up)
    return extrinsics, pixel_intrinsics(torch.full((num_views,), FOV_Y), height, width)


def path_of(masks: Tensor, others: Tensor, astray: float = ASTRAY) -> Tensor | None:
    """The path [T, 3] of an object with masks [V, T, H, W], in the set's frame; None where too few
    views and times show it, or where they do not show it at one place.

    others [V, T, H, W]: what may hide a part of it, as the frame's border does; astray: how far
    views may disagree, as a share of the frame's width.
    """
    num_views, num_times, height, width = masks.shape
    extrinsics, intrinsics = mean_rig(num_views, height, width)
    seen = shown(masks)
    if not seen.any():
        return None
    middles, trust = _middles(masks, others)
    trust = trust * seen[..., None]
    places = torch.full((num_times, 3), float("nan"))
    errors, off = [], torch.zeros(num_times)
    for time in range(num_times):
        if seen[:, time].float().mean() < LEAST_VIEWS or int(seen[:, time].sum()) < 2:
            continue
        place, error = triangulate(middles[:, time], trust[:, time], extrinsics, intrinsics)
        errors.append(error / width)
        places[time] = place
        off[time] = error / width
    usual = median(errors) if errors else 0.0
    places[off > max(ASTRAY, 1.2 * usual)] = float("nan")  # as where something is before it
    known = int(places[:, 0].isfinite().sum())
    if known < LEAST_TIMES * num_times or sum(errors) / len(errors) > astray:
        return None
    return _filled(places)


def _middles(masks: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """The middles of an object in pixels, columns and rows, and how far to trust them, both
    [V, T, 2]; see path_of.

    Where something hides one side of it, half its size away from the other side, of the size that
    other views or times show, which is trusted less; least where both sides are hidden.
    """
    whole, seen = shown_whole(masks, others), shown(masks)
    touched = masks & around(others, NEAR)
    found, trust = [], []
    for dim in (-2, -1):  # rows are summed for the columns' sake
        amount = masks.float().sum(dim)  # [V, T, N]
        total = amount.cumsum(-1)
        whole_amount = total[..., -1:].clamp_min(1)
        place = torch.arange(amount.shape[-1]) + 0.5
        mean = (amount * place).sum(-1) / whole_amount[..., 0]
        low, high = (_reached(total, share * whole_amount) for share in (EDGE, 1 - EDGE))
        reach = NEAR * amount.shape[-1] + 1
        near = touched.any(dim)
        cut_low = (near & (place < low[..., None] + reach)).any(-1) | (amount[..., 0] > 0)
        cut_high = (near & (place > high[..., None] - reach)).any(-1) | (amount[..., -1] > 0)
        size = torch.where(cut_low | cut_high | ~seen, float("nan"), high - low)
        size = _filled(size.nanmedian(0).values[:, None])[:, 0]
        if size.isnan().any():  # touched in all cells
            size = (high - low)[seen].quantile(0.9)
        short = high - low < SHORT * size
        cut_low, cut_high = cut_low & short, cut_high & short
        middle = torch.where(whole, mean, (low + high) / 2)
        middle = torch.where(cut_low, high - size / 2, middle)
        middle = torch.where(cut_high, low + size / 2, middle)
        found.append(middle)
        trust.append(GUESSED ** (cut_low.float() + cut_high.float()))
    return torch.stack(found, -1), torch.stack(trust, -1)


def _reached(total: Tensor, amount: Tensor) -> Tensor:
    """Where running totals [..., N] reach an amount [..., 1]: fractions of the N steps [...]."""
    after = torch.searchsorted(total, amount).clamp_max(total.shape[-1] - 1)
    before = F.pad(total, (1, 0)).gather(-1, after)
    step = (total.gather(-1, after) - before).clamp_min(1e-6)
    return (after + (amount - before) / step)[..., 0]


def triangulate(
    pixels: Tensor, trust: Tensor, extrinsics: Tensor, intrinsics: Tensor
) -> tuple[Tensor, float]:
    """The point [3] that V views see at pixels [V, 2], and the median distance in pixels between
    these and where the point is seen. Coordinates count by trust [V, 2], views that disagree with
    most weigh less."""
    projection = intrinsics @ extrinsics  # [V, 3, 4]
    rows = pixels[..., None] * projection[:, 2:] - projection[:, :2]  # [V, 2, 4]
    weight = torch.ones(len(pixels))
    for _ in range(ROUNDS):
        scaled = (rows * (weight[:, None] * trust)[..., None]).flatten(0, 1)
        point = torch.linalg.lstsq(scaled[:, :3], -scaled[:, 3:]).solution[:, 0]
        away = (project(point[None], extrinsics, intrinsics)[0][:, 0] - pixels) * (trust > 0)
        distance = away.norm(dim=-1)
        weight = 1 / (1 + distance)
    best = trust.amax(-1)
    return point, float(distance[best >= best.median()].median())


def _filled(places: Tensor) -> Tensor:
    """places [T, D], those that are NaN put between the others."""
    known = places[:, 0].isfinite().nonzero()[:, 0]
    if not len(known):
        return places
    index = torch.arange(len(places)).clamp(known[0], known[-1])
    after = known[torch.searchsorted(known, index).clamp_max(len(known) - 1)]
    before = known[(torch.searchsorted(known, index, right=True) - 1).clamp_min(0)]
    share = ((index - before) / (after - before).clamp_min(1))[:, None]
    return places[before] * (1 - share) + places[after] * share


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
        return "swing" if self.rise > max(HANGS, CURVES * self.length) else "slide"

    def size_as(self, kind: str) -> float:
        """The extent that counts for a kind of motion."""
        return self.rise if kind == "bounce" else max(self.length, self.rise)


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
