"""The paths of objects through a grid's times.

An object is drawn over the plate, the scene without it, in all views at once and moved until the
result looks like the frames: what it looked like at the time of the given frames is known, so
three numbers a time are sought, by the Gauss-Newton method, from coarse to fine. A given video
weighs most; generated frames of the other views say how far away it is. Nothing turns or bends.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.cameras import colors_at, project, scale_intrinsics, unproject
from fourreal.moving_objects.segmentation import Cutout, MovingObject
from fourreal.neighborhoods import blurred, grown

ROWS = 64  # of the frames in which paths are sought
BLURS = ((4.0, 4), (2.0, 3), (1.0, 4))  # pixels of these, and steps downhill
GENERATED = 0.05  # weight of a generated frame; a given one's is 1
ROBUST = 0.1  # of colours: what differs much more counts little
ONWARD = 0.8  # of the last step: where the next one is sought first,
PRIOR = 1.0  # and the weight of being a radius away from there, as of one pixel's colour
TRIED = 0.04  # radii: the steps from which slopes are taken
FARTHEST = 0.4  # radii that one step goes at most
BEHIND = 0.02  # of depth: an object that is farther behind the plate is hidden by it


class Sprites:
    """The pixels of an object as each camera saw them at one time: P points of the world, each
    drawn by its own camera alone, so that what one view shows stays as sharp as it is.

    view [P], points [P, 3], depth [P], values [P, C] and weights [P], the share of a pixel.
    """

    def __init__(
        self, weights: Tensor, values: Tensor, depth: Tensor, cameras: tuple[Tensor, Tensor]
    ) -> None:
        """weights [V, H, W], values [V, C, H, W] and z-depth [V, H, W]; pixels of cameras."""
        own = weights > 0
        self.view = own.nonzero()[:, 0]
        self.points = unproject(depth, *cameras)[own]
        self.depth, self.weights = depth[own], weights[own]
        self.values = values.movedim(1, -1)[own]

    def drawn(
        self, shifts: Tensor, cameras: tuple[Tensor, Tensor], height: int, width: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Moved by each of B shifts [B, 3]: mean values [B, V, C, H, W], alpha [B, V, 1, H, W], the
        share of a pixel that is covered, and mean z-depth [B, V, 1, H, W], 0 where it is 0.

        Points are splatted bilinearly; one that comes nearer covers more pixels.
        """
        extrinsics, intrinsics = cameras
        moved = self.points[:, None] + shifts
        pixels, depth = project(moved, extrinsics[self.view], intrinsics[self.view])
        size = (self.depth[:, None] / depth.clamp_min(1e-3)).clamp(max=10).square()
        weights = torch.where(depth > 0, self.weights[:, None] * size, 0)
        values = self.values[:, None].expand(-1, len(shifts), -1)
        values = torch.cat([values, depth[..., None], torch.ones_like(depth)[..., None]], -1)
        image = (
            torch.arange(len(shifts), device=depth.device) * len(extrinsics) + self.view[:, None]
        )
        total = values.new_zeros(len(shifts) * len(extrinsics) * height * width, values.shape[-1])
        corner = (pixels - 0.5).floor()
        part = pixels - 0.5 - corner
        for right in (0, 1):
            for down in (0, 1):
                x, y = (corner + corner.new_tensor([right, down])).unbind(-1)
                share = (part - 1 + corner.new_tensor([right, down])).abs().prod(-1)
                inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
                row, column = y.clamp(0, height - 1).long(), x.clamp(0, width - 1).long()
                index = (image * height + row) * width + column
                drawn = values * (weights * share * inside)[..., None]
                total.index_add_(0, index.flatten(), drawn.flatten(0, 1))
        total = total.view(len(shifts), len(extrinsics), height, width, -1).movedim(-1, 2)
        weight = total[:, :, -1:]
        mean = total[:, :, :-1] / weight.clamp_min(1e-6)
        return mean[:, :, :-1], weight.clamp(max=1), mean[:, :, -1:]


def tracked(
    frames: Tensor,
    cutouts: list[Cutout],
    plate: Tensor,
    cameras: tuple[Tensor, Tensor],
    given: Tensor,
    time: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Shifts [K, T, 3] of K objects in world units, against where they are at `time`.

    Args:
        frames: [V, T, 3, H, W] in [0, 1].
        cutouts: the objects, as the cameras see them at `time`.
        plate: colours and depth [V, 4, H, W] of the scene without them.
        cameras: extrinsics [V, 3, 4] and intrinsics [V, 3, 3] in pixels of H x W.
        given: the frames that are known, not generated [V, T].
        time: index of the time.
        progress: called with the number of times that are done.
    """
    height, width = frames.shape[-2:]
    factor = max(1, round(height / ROWS))
    size = height // factor, width // factor
    small = cameras[0], scale_intrinsics(cameras[1], size[1] / width, size[0] / height)
    sprites = []
    for cutout in cutouts:
        maps = torch.cat([torch.ones_like(cutout.alpha), cutout.depth[:, None], cutout.colors], 1)
        share, rest = F.adaptive_avg_pool2d(cutout.alpha * maps, size).split((1, 4), 1)
        rest = rest / share.clamp_min(1e-6)
        sprites.append(Sprites(share[:, 0], rest[:, 1:], rest[:, 0], small))
    objects = [cutout.item for cutout in cutouts]
    stage = Stage(objects, sprites, F.adaptive_avg_pool2d(plate, size), small)
    small_frames = torch.stack([F.adaptive_avg_pool2d(view, size) for view in frames])
    trust = torch.where(given, 1.0, GENERATED)[..., None, None, None]
    shifts = frames.new_zeros(len(cutouts), frames.shape[1], 3)
    done = 1
    for times in (range(time, frames.shape[1]), range(time, -1, -1)):
        for before, last, now in zip((time, *times), times, times[1:], strict=False):
            guess = shifts[:, last] + ONWARD * (shifts[:, last] - shifts[:, before])
            shifts[:, now] = stage.sought(small_frames[:, now], trust[:, now], guess)
            progress(done := done + 1)
    return shifts


@dataclass
class Stage:
    """Objects and the plate [V, 4, h, w], of colours and depth, at the size of the search."""

    objects: list[MovingObject]
    sprites: list[Sprites]
    plate: Tensor
    cameras: tuple[Tensor, Tensor]

    def sought(self, frame: Tensor, trust: Tensor, guess: Tensor) -> Tensor:
        """Shifts [K, 3] near a guess for which the stage looks like frames [V, 3, h, w]; trust:
        the weight of each view, [V, 1, 1, 1]."""
        shifts, unit = guess.clone(), torch.eye(3, device=guess.device)
        layers = [self.layer(number, shift[None]) for number, shift in enumerate(shifts)]
        unseen = [self.unseen(number, shift) for number, shift in enumerate(shifts)]
        for sigma, steps in BLURS:
            target = blurred(frame, sigma)
            for number in list(range(len(shifts))) * steps:
                item, shift = self.objects[number], shifts[number]
                tried = torch.cat([shift[None], shift + TRIED * item.radius * unit])
                layers[number] = self.layer(number, tried)
                off = blurred(composited(self.plate[:, :3], layers), sigma) - target
                size = (off[0].square().sum(1, keepdim=True) + 1e-6).sqrt()
                seen = ~torch.stack(unseen).any(0)[:, None]
                weight = trust * seen * ROBUST / (size + ROBUST)
                off = (off * weight.sqrt()).flatten(1)
                slopes = (off[1:] - off[0]) / TRIED
                away = (shift - guess[number]) / item.radius
                step = torch.linalg.solve(
                    slopes @ slopes.T + PRIOR * unit, slopes @ off[0] + PRIOR * away
                )
                shifts[number] -= item.radius * step.clamp(-FARTHEST, FARTHEST)
                layers[number] = self.layer(number, shifts[number, None])
                unseen[number] = self.unseen(number, shifts[number])
        return shifts

    def unseen(self, number: int, shift: Tensor) -> Tensor:
        """Pixels [V, h, w] that are unseen_before because of an object at a shift [3]."""
        item, size = self.objects[number], self.plate.shape[-2:]
        return unseen_before([item], shift[None], self.cameras, size)

    def layer(self, number: int, shifts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Colours [B, V, 3, h, w], alpha and depth [B, V, 1, h, w] of an object at B shifts."""
        size = self.plate.shape[-2:]
        colors, alpha, depth = self.sprites[number].drawn(shifts, self.cameras, *size)
        return colors, in_front(alpha, depth, self.plate[:, 3:]), depth


def in_front(alpha: Tensor, depth: Tensor, plate_depth: Tensor) -> Tensor:
    """Alpha without what the plate hides."""
    return alpha.masked_fill(depth > (1 + BEHIND) * plate_depth, 0)


def composited(back: Tensor, layers: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Layers of colours, alpha and depth over a background, the farthest first at each pixel."""
    if len(layers) == 1:
        color, alpha, _ = layers[0]
        return back + alpha * (color - back)
    shape = torch.broadcast_shapes(back.shape, *(layer[0].shape for layer in layers))
    parts = [
        torch.stack([layer[i].expand(*shape[:-3], -1, -1, -1) for layer in layers])
        for i in (0, 1, 2)
    ]
    order = parts[2].argsort(0, descending=True)
    colors, alpha = parts[0].gather(0, order.expand_as(parts[0])), parts[1].gather(0, order)
    for color, share in zip(colors, alpha, strict=True):
        back = back + share * (color - back)
    return back


def unseen_before(
    objects: list[MovingObject],
    shifts: Tensor,
    cameras: tuple[Tensor, Tensor],
    size: Sequence[int],
    views: Tensor | slice = slice(None),
) -> Tensor:
    """Pixels [V, h, w] around objects at shifts [K, 3] of which their photos do not say whether
    they show them: before they moved, these places lay outside the frame or behind something.
    views: of the objects' that the cameras are."""
    height, width = size
    unseen = torch.zeros(len(cameras[0]), height, width, dtype=torch.bool, device=shifts.device)
    for item, shift in zip(objects, shifts, strict=True):
        if not item.hidden[views].any():
            continue
        depth = project((item.center + shift)[None], *cameras)[1]  # [V, 1]
        points, where = before_moving(depth[..., None].expand_as(unseen), shift, cameras)
        hidden = item.hidden[views, None].to(where)
        hidden = colors_at(hidden, where)
        close = (points - item.center).norm(dim=-1) < 2 * item.radius
        unseen |= grown(hidden[:, 0] > 0.1, 1) & close
    return unseen


def before_moving(
    depth: Tensor, shift: Tensor, cameras: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Where the points that pixels show at this depth [N, H, W] were before they moved by a shift
    [3]: in the world [N, H, W, 3] and in the frame [N, H, W, 2], from -1 to 1 (grid_sample's)."""
    points = unproject(depth, *cameras) - shift
    pixels, _ = project(points.flatten(1, 2), *cameras)
    size = pixels.new_tensor(depth.shape[:0:-1])
    return points, (2 * pixels / size - 1).view_as(points[..., :2])
