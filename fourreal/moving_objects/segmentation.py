"""Objects that move, cut out of frames that several cameras took at one time.

What moves leaves its place: later its pixels show something that lies deeper and has another
colour. That finds most of an object in frames as soft as a video model draws them. The given frames
are sharp and say where it ends: it goes on through pixels whose colours hardly differ. At last the
views vote, since each of them sees most of its surface.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.cameras import pixels_hit, project, unproject
from fourreal.neighborhoods import eroded, grown, ring_filled
from fourreal.reference_colors import looked_up

CHANGED = 0.08  # of colours in [0, 1]: what differs more shows something else
DEEPER = 0.04  # what is seen where an object was lies deeper than it, by this share at least
OFTEN = 2  # times at which an object has left a pixel that is its own
STEP = 0.05  # of colours: neighbouring pixels of one object differ by less
SLOPE = 0.02  # of depth: the same, as a share
WHOLE = 3  # times the area that surely moves: what is larger is not one object alone
SAME = 0.02  # two views see one surface where their depths agree up to this share,
ALIKE = 0.1  # and their colours up to this difference
CLOSE = 0.015  # of depth: the same for pixels that tell objects from each other
HIDDEN = 0.02  # of an object's points: a view that misses more does not show it whole
VIEWS = 3  # that must show an object
LEAST = 1 / 400  # of a frame: objects that cover less are left as they are
THICK = 2  # pixels: what is farther from the inside of an object is a thin part of it
RIM_REACH = 5  # pixels beside the sure part of an object in which its depth is not sure
GAP = 0.01  # of the median depth: surfaces that are farther apart are of two objects


@dataclass
class MovingObject:
    """An object as V cameras see it at one time.

    mask: its pixels [V, H, W]. depth: their z-depth [V, H, W], of no meaning elsewhere. cut: the
    views [V] that do not show all that faces them, because of the frame's edge or of something in
    front. center [3] and radius of the surface that is seen, in world units.
    """

    mask: Tensor
    depth: Tensor
    cut: Tensor
    center: Tensor
    radius: Tensor


@dataclass
class Cutout:
    """An object without its ground: colours [V, 3, H, W], alpha [V, 1, H, W] in [0, 1], the share
    of each pixel that is its own, and depth [V, H, W], of meaning where alpha is above 0."""

    item: MovingObject
    colors: Tensor
    alpha: Tensor
    depth: Tensor

    @classmethod
    def of(cls, item: MovingObject, frames: Tensor, plate: Tensor) -> "Cutout":
        """From sharp frames [V, 3, H, W] and the plate [V, 3 or 4, H, W] without it. A pixel of its
        rim, one to each side, mixes the colours that are next to it inside with the plate's."""
        inside = eroded(item.mask, 1)
        around = grown(inside, THICK) & grown(item.mask, 1)
        colors, back = ring_filled(frames, inside, around), plate[:, :3]
        way = colors - back
        length = way.square().sum(1, keepdim=True)
        share = ((frames - back) * way).sum(1, keepdim=True) / length.clamp_min(1e-6)
        mask = item.mask[:, None]
        mixed = (around & ~inside)[:, None] & (length > CHANGED**2)
        alpha = torch.where(mixed, share.clamp(0, 1), mask.to(share))
        colors = torch.where(around[:, None], colors, frames)
        colors = ring_filled(colors, alpha[:, 0] > 0, grown(item.mask, 4))
        depth = ring_filled(item.depth[:, None], item.mask, grown(item.mask, 1))[:, 0]
        return cls(item, colors, alpha, depth)


def moving_objects(
    frames: Tensor, depth: Tensor, cameras: tuple[Tensor, Tensor], time: int
) -> list[MovingObject]:
    """The objects that move in a grid, as its cameras see them at one time, the largest first.

    Args:
        frames: [V, T, 3, H, W] in [0, 1]; those of `time` are sharp, the others may be soft.
        depth: z-depth [V, T, H, W].
        cameras: extrinsics [V, 3, 4] and intrinsics [V, 3, 3] in pixels of H x W.
        time: index of the time.
    """
    colors, now = frames[:, time], depth[:, time]
    mask = voted(moving_pixels(frames, depth, time), colors, now, cameras)
    seen = confirmed(mask, now, cameras)
    labels = torch.full_like(mask, -1, dtype=torch.long)
    labels[seen] = clustered(unproject(now, *cameras)[seen], GAP * float(now.median()))
    least = LEAST * mask[0].numel()
    numbers, counts = labels[seen].unique(return_counts=True)
    order = counts.argsort(descending=True)[: int((counts >= VIEWS * least).sum())]
    numbers = without_rims(labels, numbers[order])
    labels, filled = spread_labels(torch.where(torch.isin(labels, numbers), labels, -1), mask, now)
    points, found = unproject(filled, *cameras), []
    for number in numbers.tolist():
        own = labels == number
        if (own.flatten(1).sum(1) > least / 2).sum() >= max(VIEWS, len(own) / 2):
            seen_at = points[own]
            center = seen_at.mean(0)
            radius = (seen_at - center).norm(dim=1).kthvalue(-(-9 * len(seen_at) // 10))[0]
            cut = cut_off(own, seen_at, now, cameras)
            found.append(MovingObject(own, filled, cut, center, radius))
    return sorted(found, key=lambda item: -int(item.mask.sum()))


def without_rims(labels: Tensor, numbers: Tensor) -> Tensor:
    """Of the objects with these numbers, the largest first, in labels [V, H, W] those that are not
    the rim of a larger one, whose depth lies between its own and that of the ground."""
    kept = torch.zeros_like(numbers, dtype=torch.bool)
    for index, number in enumerate(numbers):
        own = labels == number
        near = grown(torch.isin(labels, numbers[kept]), RIM_REACH)
        kept[index] = 2 * (own & near).sum() < own.sum()
    return numbers[kept]


def cut_off(mask: Tensor, points: Tensor, depth: Tensor, cameras: tuple[Tensor, Tensor]) -> Tensor:
    """The views [V] in which an object with this mask [V, H, W] touches the frame's edge, or in
    which more than HIDDEN of its points [P, 3], which any view sees, lie beside the mask behind
    what has this depth [V, H, W]."""
    edge = torch.ones_like(mask)
    edge[:, 1:-1, 1:-1] = False
    pixels, distance = project(points[None], *cameras)
    row, column, inside = pixels_hit(pixels, distance, *mask.shape[1:])
    view = torch.arange(len(mask), device=mask.device)[:, None]
    behind = depth[view, row, column] * (1 + DEEPER) < distance
    hidden = inside & behind & ~grown(mask, 1)[view, row, column]
    return ((mask & edge).flatten(1).sum(1) > 3) | (hidden.float().mean(1) > HIDDEN)


def moving_pixels(frames: Tensor, depth: Tensor, time: int) -> Tensor:
    """Pixels [V, H, W] of one time of a grid (see moving_objects) that show what moves.

    Surely those around which all are left by it: at OFTEN times or more, and at half of the times
    at which something deeper is seen there. From them it goes on through steps of colour below
    STEP among pixels nearby that change, and anywhere where depth has no steps, unless that
    makes it WHOLE times as large, as where an object has the colour of its ground.
    """
    reach = max(1, frames.shape[-2] // 64)
    sure, near = torch.empty(2, *frames[:, 0, 0].shape, dtype=torch.bool, device=frames.device)
    for view, (ours, surface) in enumerate(zip(frames, depth, strict=True)):
        changed = (ours - ours[time]).abs().amax(1) > CHANGED
        deeper = surface > (1 + DEEPER) * surface[time]
        left = (changed & deeper).sum(0)
        moves = ((left >= OFTEN) & (2 * left >= deeper.sum(0)))[None]
        sure[view] = eroded(moves, reach)[0]
        near[view] = grown(moves, 2 * reach)[0] & (changed.sum(0) >= OFTEN)
    colors, now = frames[:, time], depth[:, time]
    part = flooded(sure, sure | near, colors)
    whole = flooded(sure, torch.ones_like(sure), colors, now)
    one = whole.flatten(1).sum(1) < WHOLE * part.flatten(1).sum(1)
    return part | (whole & one[:, None, None])


def flooded(start: Tensor, where: Tensor, colors: Tensor, depth: Tensor | None = None) -> Tensor:
    """The pixels [V, H, W] of `where` that lie on a way from `start` in `where` of steps to
    the four pixels beside, none of which changes colours [V, 3, H, W] by STEP or more, nor
    depth [V, H, W] by SLOPE."""
    nodes = torch.arange(where.numel(), device=where.device).view_as(where)
    edges = []
    for dim in (1, 2):
        size = where.shape[dim] - 1
        ends = [x.narrow(dim, i, size) for x in (where, nodes) for i in (0, 1)]
        link = ends[0] & ends[1] & (colors.diff(dim=dim + 1).abs().amax(1) < STEP)
        if depth is not None:
            ratio = depth.narrow(dim, 1, size) / depth.narrow(dim, 0, size)
            link &= (ratio - 1).abs() < SLOPE
        edges.append(torch.stack([ends[2][link], ends[3][link]]))
    labels = components(where.numel(), torch.cat(edges, 1)).view_as(where)
    reached = torch.zeros(where.numel(), dtype=torch.bool, device=where.device)
    reached[labels[start & where]] = True
    return reached[labels]


def components(count: int, edges: Tensor) -> Tensor:
    """For each of `count` nodes of a graph with edges [2, E] the first node of its component."""
    labels = torch.arange(count, device=edges.device)
    ends = edges.flatten()
    while True:
        least = labels[edges].amin(0).repeat(2)
        new = labels.scatter_reduce(0, labels[ends], least, "amin")
        new = new.scatter_reduce(0, ends, least, "amin")
        new = new[new]
        if torch.equal(new, labels):
            return labels
        labels = new


def voted(mask: Tensor, colors: Tensor, depth: Tensor, cameras: tuple[Tensor, Tensor]) -> Tensor:
    """What most of the views [V, H, W] that see a pixel's surface say of it, its own view included;
    colors: [V, 3, H, W]."""
    votes = torch.where(mask, 1, -1)
    shown = torch.cat([mask[:, None].float(), colors], 1)
    for view, found, off in seen_by_others(shown, depth, cameras):
        same = (off < SAME) & ((found[1:] - colors[view]).abs().amax(0) < ALIKE)
        votes[view] += same * torch.where(found[0] > 0.5, 1, -1)
    return votes > 0


def confirmed(mask: Tensor, depth: Tensor, cameras: tuple[Tensor, Tensor]) -> Tensor:
    """Pixels of masks [V, H, W] that VIEWS - 1 other views have in theirs at the same depth."""
    count = torch.zeros_like(depth)
    for view, found, off in seen_by_others(mask[:, None].float(), depth, cameras):
        count[view] += (off < CLOSE) & (found[0] > 0.5)
    return mask & (count >= VIEWS - 1)


def seen_by_others(
    maps: Tensor, depth: Tensor, cameras: tuple[Tensor, Tensor]
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For each view and each other one: the view, what the other's maps [V, C, H, W] show at the
    points that the view sees, and how far the depths are apart (see looked_up)."""
    points = unproject(depth, *cameras)
    for view, other in permutations(range(len(depth)), 2):
        camera = cameras[0][other, None], cameras[1][other, None]
        yield view, *looked_up(points[view], camera, depth[other], maps[other])


def clustered(points: Tensor, gap: float) -> Tensor:
    """Numbers [N] of the objects that points [N, 3] belong to: cubes of the size `gap` in which
    there are points are of one object where they touch, be it with a corner."""
    if not len(points):
        return points.new_zeros(0, dtype=torch.long)
    cubes = ((points - points.amin(0)) / gap).long() + 1
    sizes = cubes.amax(0) + 2
    strides = torch.stack([sizes[1] * sizes[2], sizes[2], torch.ones_like(sizes[2])])
    keys, cube_of = (cubes * strides).sum(1).unique(return_inverse=True)
    edges = []
    for step in list(product((-1, 0, 1), repeat=3))[14:]:  # the other half are their opposites
        beside = keys + int((strides * strides.new_tensor(step)).sum())
        place = torch.searchsorted(keys, beside).clamp(max=len(keys) - 1)
        hit = keys[place] == beside
        edges.append(torch.stack([hit.nonzero()[:, 0], place[hit]]))
    return components(len(keys), torch.cat(edges, 1))[cube_of]


def spread_labels(labels: Tensor, mask: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Labels [V, H, W], below 0 where there is none, with those of neighbours in a mask, ring by
    ring for RIM_REACH pixels, and depth [V, H, W] with the mean of these neighbours' there: where
    an object ends, its depth is not sure."""
    numbers = labels[labels >= 0].unique()
    kernel = depth.new_ones(len(numbers) * 2, 1, 3, 3)
    filled = torch.where(labels >= 0, depth, 0)
    for _ in range(RIM_REACH if len(numbers) else 0):
        own = (labels[:, None] == numbers[:, None, None]).to(depth)
        around = torch.cat([own, own * filled[:, None]], 1)
        around = F.conv2d(around, kernel, padding=1, groups=len(kernel))
        count, total = around.chunk(2, 1)
        most, which = count.max(1)
        new = mask & (labels < 0) & (most > 0)
        mean = total.gather(1, which[:, None])[:, 0] / most.clamp_min(1)
        filled, labels = torch.where(new, mean, filled), torch.where(new, numbers[which], labels)
    return labels, torch.where(labels >= 0, filled, depth)
