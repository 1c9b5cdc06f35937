"""Objects that move, cut out of frames that several cameras took at one time.

What moves leaves its place: later its pixels show something that lies deeper and has another
colour. That finds most of an object in frames as soft as a video model draws them. The given frames
are sharp and say where it ends: it goes on through pixels whose colours hardly differ. The views
vote, since each of them sees most of its surface. What never leaves its place, such as a floor that
is passed over or shaded, is taken out again, and so are pieces of a surface that goes on.
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
NEVER = 0.15  # of the times at which a part shows another colour: if that is less often deeper,
LEFT = 0.35  # or less often than this, and another colour is seen
SELDOM = 0.15  # of the times at most, then the part stands still,
MOSTLY = 0.75  # unless it shows another colour at more of the times
STEP = 0.05  # of colours: neighbouring pixels of one object differ by less
SLOPE = 0.02  # of depth: the same, as a share
OPEN = 0.5  # of its boundary: a part that does not end there by either is of a larger surface
WHOLE = 3  # times the area that surely moves: what is larger is not one object alone
SAME = 0.02  # two views see one surface where their depths agree up to this share,
ALIKE = 0.1  # and their colours up to this difference
CLOSE = 0.015  # of depth: the same for pixels that tell objects from each other
HIDDEN = 0.02  # of an object's points: where more are behind something, it may hide others, too
TOUCHING = 3  # pixels at the frame's edge: an object that has more may go on beyond it
VIEWS = 3  # that must show an object
LEAST = 1 / 400  # of a frame: objects that cover less are left as they are
THICK = 2  # pixels: what is farther from the inside of an object is a thin part of it
RIM_REACH = 5  # pixels beside the sure part of an object in which its depth is not sure
GAP = 0.01  # of the median depth: surfaces that are farther apart are of two objects


@dataclass
class MovingObject:
    """An object as V cameras see it at one time.

    mask: its pixels [V, H, W]. depth: their z-depth [V, H, W], of no meaning elsewhere. hidden:
    pixels [V, H, W] in which something in front may hide more of it, and those at the frame's edge
    beyond which there may be more. center [3] and radius of the surface that is seen, in world
    units.
    """

    mask: Tensor
    depth: Tensor
    hidden: Tensor
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
    mask = moving_pixels(frames, depth, time)
    parts = alike_parts(torch.ones_like(mask), colors)
    mask = voted(mask, colors, now, cameras)
    mask = leaves(frames, depth, mask | mostly_in(mask, parts), time)
    mask = voted(mask, colors, now, cameras)
    mask = bounded(mask | mostly_in(mask, parts), colors, now)
    seen = confirmed(mask, now, cameras)
    labels = torch.full_like(mask, -1, dtype=torch.long)
    labels[seen] = clustered(unproject(now, *cameras)[seen], GAP * float(now.median()))
    least = LEAST * mask[0].numel()
    numbers, counts = labels[seen].unique(return_counts=True)
    order = counts.argsort(descending=True)[: int((counts >= VIEWS * least).sum())]
    numbers = without_rims(labels, numbers[order])
    labels, filled = spread_labels(
        torch.where(torch.isin(labels, numbers), labels, -1), mask, colors, now
    )
    points, found = unproject(filled, *cameras), []
    for number in numbers.tolist():
        own = labels == number
        if (own.flatten(1).sum(1) > least / 2).sum() >= max(VIEWS, len(own) / 2):
            seen_at = points[own]
            center = seen_at.mean(0)
            radius = (seen_at - center).norm(dim=1).kthvalue(-(-9 * len(seen_at) // 10))[0]
            hidden = hidden_parts(own, seen_at, now, cameras)
            found.append(MovingObject(own, filled, hidden, center, radius))
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


def hidden_parts(
    mask: Tensor, points: Tensor, depth: Tensor, cameras: tuple[Tensor, Tensor]
) -> Tensor:
    """Pixels [V, H, W] in or beyond which there may be more of an object than its mask [V, H, W].

    Where something nearer, of this depth [V, H, W], hides what another view sees of it, more than
    HIDDEN of its points [P, 3]; and the frame's edge in views in which it reaches that, or in which
    it is not at all.
    """
    pixels, distance = project(points[None], *cameras)
    row, column, inside = pixels_hit(pixels, distance, *mask.shape[1:])
    view = torch.arange(len(mask), device=mask.device)[:, None]
    behind = depth[view, row, column] * (1 + DEEPER) < distance
    behind &= inside & ~grown(mask, 1)[view, row, column]
    behind &= behind.float().mean(1, keepdim=True) > HIDDEN
    hidden, edge = torch.zeros_like(mask), torch.ones_like(mask)
    hidden[view.expand_as(row)[behind], row[behind], column[behind]] = True
    edge[:, 1:-1, 1:-1] = False
    reaches = (mask & edge).flatten(1).sum(1) > TOUCHING
    return grown(hidden, 1) | (edge & (reaches | ~mask.flatten(1).any(1))[:, None, None])


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
        changed, deeper = changes(ours, surface, time)
        left = (changed & deeper).sum(0)
        moves = ((left >= OFTEN) & (2 * left >= deeper.sum(0)))[None]
        sure[view] = eroded(moves, reach)[0]
        near[view] = grown(moves, 2 * reach)[0] & (changed.sum(0) >= OFTEN)
    colors, now = frames[:, time], depth[:, time]
    part = flooded(sure, sure | near, colors)
    whole = flooded(sure, torch.ones_like(sure), colors, now)
    one = whole.flatten(1).sum(1) < WHOLE * part.flatten(1).sum(1)
    return part | (whole & one[:, None, None])


def changes(frames: Tensor, depth: Tensor, time: int) -> tuple[Tensor, Tensor]:
    """Where a view's frames [T, 3, H, W] have another colour than at one time, and where what they
    show, of depth [T, H, W], lies deeper: [T, H, W] each."""
    other = (frames - frames[time]).abs().amax(1) > CHANGED
    return other, depth > (1 + DEEPER) * depth[time]


def flooded(start: Tensor, where: Tensor, colors: Tensor, depth: Tensor | None = None) -> Tensor:
    """The pixels [V, H, W] of parts of `where` in which there are some of `start`."""
    labels = alike_parts(where, colors, depth)
    reached = torch.zeros(where.numel(), dtype=torch.bool, device=where.device)
    reached[labels[start & where]] = True
    return reached[labels]


def alike_parts(where: Tensor, colors: Tensor, depth: Tensor | None = None) -> Tensor:
    """Numbers [V, H, W] that are the same for pixels between which there is a way in `where` of
    steps to the four pixels beside, none of which changes colours [V, 3, H, W] by STEP or more,
    nor depth [V, H, W] by SLOPE."""
    nodes = torch.arange(where.numel(), device=where.device).view_as(where)
    edges = []
    for dim in (1, 2):
        ends = [x.narrow(dim, i, x.shape[dim] - 1) for x in (where, nodes) for i in (0, 1)]
        link = ends[0] & ends[1] & hardly_changes(dim, colors, depth)
        edges.append(torch.stack([ends[2][link], ends[3][link]]))
    return components(where.numel(), torch.cat(edges, 1)).view_as(where)


def hardly_changes(dim: int, colors: Tensor, depth: Tensor | None = None) -> Tensor:
    """Where the step from a pixel to the next one along rows (dim 1) or columns (2) changes colours
    [V, 3, H, W] by less than STEP, and depth [V, H, W] by less than SLOPE."""
    small = colors.diff(dim=dim + 1).abs().amax(1) < STEP
    if depth is not None:
        size = depth.shape[dim] - 1
        ratio = depth.narrow(dim, 1, size) / depth.narrow(dim, 0, size)
        small &= (ratio - 1).abs() < SLOPE
    return small


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


def mostly_in(mask: Tensor, parts: Tensor) -> Tensor:
    """The pixels [V, H, W] of alike parts [V, H, W] most of whose pixels are in a mask."""
    votes = torch.where(mask, 1, -1).flatten()
    return torch.zeros_like(votes).index_add_(0, parts.flatten(), votes)[parts] > 0


def bounded(mask: Tensor, colors: Tensor, depth: Tensor) -> Tensor:
    """The pixels [V, H, W] of alike parts of a mask without pieces of larger surfaces, which go on
    beyond the mask, without a step of colour or depth, on more than OPEN of their boundary."""
    parts = alike_parts(mask, colors)
    ends, goes_on = torch.zeros(2, mask.numel(), dtype=torch.long, device=mask.device)
    for dim in (1, 2):
        alike = hardly_changes(dim, colors, depth)
        sides = [parts.narrow(dim, i, parts.shape[dim] - 1) for i in (0, 1)]
        for here, beside in (sides, sides[::-1]):
            end = here != beside
            ends += here[end].bincount(minlength=len(ends))
            goes_on += here[end & alike].bincount(minlength=len(ends))
    return mask & (goes_on <= OPEN * ends)[parts]


def leaves(frames: Tensor, depth: Tensor, mask: Tensor, time: int) -> Tensor:
    """The pixels [V, H, W] of alike parts of a mask that leave their place. Of what stands still
    and is covered at times, or shaded, other colours are seen seldom, or what is seen then is
    hardly ever deeper."""
    parts = alike_parts(mask, frames[:, time]).flatten()
    often = torch.zeros(3, *mask.shape, device=depth.device)  # of the times
    for view, (ours, surface) in enumerate(zip(frames, depth, strict=True)):
        changed, deeper = changes(ours, surface, time)
        often[0, view], often[1, view] = mask[view], changed.float().mean(0)
        often[2, view] = (changed & deeper).float().mean(0)
    size, other, left = torch.zeros(3, len(parts), device=depth.device).index_add_(
        1, parts, often.flatten(1)
    )
    moves = (left > NEVER * other) & ((other > SELDOM * size) | (left > LEFT * other))
    moves |= other > MOSTLY * size
    return mask & moves[parts].view_as(mask)


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


def spread_labels(
    labels: Tensor, mask: Tensor, colors: Tensor, depth: Tensor
) -> tuple[Tensor, Tensor]:
    """Labels [V, H, W], below 0 where there is none, with those of neighbours in a mask, ring by
    ring: first where colours [V, 3, H, W] hardly change on the way, then for RIM_REACH pixels
    anyhow, at last as at first. And depth [V, H, W] with the mean of these neighbours' there: where
    an object ends, or has one colour, its depth is not sure."""
    numbers = labels[labels >= 0].unique()[:, None, None]
    kernel = depth.new_ones(len(numbers) * 2, 1, 3, 3)
    filled = torch.where(labels >= 0, depth, 0)
    parts = alike_parts(mask, colors)
    for alike in (True, False, True) if len(numbers) else ():
        allowed = of_one_object(labels, mask, parts)[:, None] == numbers if alike else 1
        for _ in range(mask.numel() if alike else RIM_REACH):
            own = (labels[:, None] == numbers).to(depth)
            around = torch.cat([own, own * filled[:, None]], 1)
            around = F.conv2d(around, kernel, padding=1, groups=len(kernel))
            number, total = around.chunk(2, 1)
            most, which = (number * allowed).max(1)
            new = mask & (labels < 0) & (most > 0)
            if not new.any():
                break
            mean = total.gather(1, which[:, None])[:, 0] / most.clamp_min(1)
            filled = torch.where(new, mean, filled)
            labels = torch.where(new, numbers[which, 0, 0], labels)
    return labels, torch.where(labels >= 0, filled, depth)


def of_one_object(labels: Tensor, mask: Tensor, parts: Tensor) -> Tensor:
    """Labels [V, H, W] of the alike parts [V, H, W] of a mask: that of all pixels of a part that
    have one, unless it is WHOLE times as large; else -1."""
    parts = parts.flatten()
    known, own = labels.flatten() >= 0, labels.flatten()
    size = torch.zeros_like(own).index_add_(0, parts, mask.flatten().long())
    sure = torch.zeros_like(own).index_add_(0, parts, known.long())
    least, most = (
        torch.full_like(own, -1).scatter_reduce(0, parts[known], own[known], by, include_self=False)
        for by in ("amin", "amax")
    )
    alone = (least == most) & (size < WHOLE * sure)
    return torch.where(alone, most, -1)[parts].view_as(labels)
