"""Objects that move, pasted into generated frames where their paths take them.

A small video model draws an object that moves as a soft blob; photos of all views at one time show
it sharply. It is cut out there (segmentation), its path is found (following), and it is drawn over
the plate, the scene without it, in all other frames. Two kinds are left as generated: what turns or
bends does not look like its photo any more, which the given video tells, or without one the
generated frames of all views; and what a better model has drawn as sharply as its photo is more
than a photo that was moved.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.moving_objects.following import (
    Sprites,
    before_moving,
    composited,
    in_front,
    tracked,
    unseen_before,
)
from fourreal.moving_objects.segmentation import (
    CHANGED,
    VIEWS,
    Cutout,
    MovingObject,
    moving_objects,
)
from fourreal.neighborhoods import blurred, eroded, grown, ring_filled

INSIDE, RIM = 0.034, 0.075  # of colours: mean errors in the given video of an object that is drawn
ALIKE = 0.4  # of the plate's error: that of an object that is drawn, in generated frames
ONCE = 1.3  # times these errors: where one time has more, the object is left there as generated
SHARP = 0.9  # of the squared steps of colour in photos: what is generated with more is not soft
SEEN = 1 / 4  # of the times: so often the given video must show an object at least
BEYOND = 1.01  # times its depth: what is seen behind an object, not the object itself
BARE = 20.0  # exponent of depth: frames in which the plate lies deeper show it rather,
PURE = 10.0  # and the same of colours: those in which it looks less like the object
FEWEST = 31  # pixels whose errors tell anything about an object's rim,
INNER = 6  # or about its inside
EXPLAINED = 0.06  # of colours: a mixture or a shade of the plate is no farther off
SHADOW = 0.92  # of the plate's colours: what is darker without changing hue is a shadow
GHOST = 1 / 20  # of a frame's height: so far around an object its generated self is sought,
EDGE = 1 / 4  # and as a share of this, the blur of the edge at which it is taken away


@torch.no_grad()
def carry_objects(
    frames: Tensor,
    depth: Tensor,
    cameras: tuple[Tensor, Tensor],
    given: Tensor,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Tensor, Tensor]:
    """A generated grid in which objects that move look as they do in the frames that are given.

    Args:
        frames: [V, T, 3, H, W] in [0, 1].
        depth: of what they show, [V, T, H, W].
        cameras: extrinsics [V, 3, 4] and intrinsics [V, 3, 3] in pixels of H x W.
        given: cells [V, T] of frames that are given, not generated.
        progress: called with the number of times, of T, that are done.

    Returns frames and depth with the objects drawn where they move to. Needs one time that is given
    for VIEWS views; else, and where nothing moves, or what moves turns or is sharp already, both
    are as they were. Given frames stay.
    """
    count, time = (int(x) for x in given.sum(0).max(0))
    objects = moving_objects(frames, depth, cameras, time) if count >= VIEWS else []
    if not objects:
        progress(frames.shape[1])
        return frames, depth
    for item in objects:
        item.hidden[~given[:, time]] = True
    plate = plate_of(frames, depth, objects, time)
    cutouts = [Cutout.of(item, frames[:, time], plate) for item in objects]
    shifts = tracked(frames, cutouts, plate, cameras, given, time, progress)
    scenery = Scenery(cutouts, plate, cameras)
    drawn = scenery.looks_right(frames, shifts, given, time)
    drawn &= scenery.soft(frames, shifts, drawn, given)[:, None]
    frames, depth = frames.clone(), depth.clone()
    for now in range(frames.shape[1]):
        views = (~given[:, now]).nonzero()[:, 0]
        if not len(views) or not drawn[:, now].any():
            continue
        colors, surface, put = scenery.view_at(
            frames[views, now], shifts[:, now], drawn[:, now], views
        )
        frames[views, now] = torch.lerp(frames[views, now], colors, put)
        depth[views, now] = torch.where(put[:, 0] > 0.5, surface[:, 0], depth[views, now])
    return frames, depth


def plate_of(frames: Tensor, depth: Tensor, objects: list[MovingObject], time: int) -> Tensor:
    """Colours and depth [V, 4, H, W] of a scene without its objects at one time: where they are
    the mean of what is seen there at other times, most of what lies deepest and looks least like
    them, for what is generated mixes with it where an object passes."""
    plate = torch.cat([frames[:, time], depth[:, time, None]], 1)
    own = grown(torch.stack([item.mask for item in objects]).any(0), 1)
    known = ~own
    for view, (ours, surface) in enumerate(zip(frames, depth, strict=True)):
        ratio = surface / surface[time]
        change = (ours - ours[time]).abs().amax(1)
        bare = (change > CHANGED) & (ratio > BEYOND)
        weight = BARE * (ratio - 1).clamp(max=0.25) + PURE * change.clamp(max=0.5)
        weight = weight.exp() * bare  # [T, H, W]
        total = weight.sum(0)
        maps = torch.cat([ours, surface[:, None]], 1)
        mean = (maps * weight[:, None]).sum(0) / total.clamp_min(1e-6)
        plate[view] = torch.where(own[view], mean, plate[view])
        known[view] |= total > 1e-3
    return ring_filled(plate, known, own)


@dataclass
class Scenery:
    """K objects that are cut out, the plate [V, 4, H, W] and the cameras."""

    cutouts: list[Cutout]
    plate: Tensor
    cameras: tuple[Tensor, Tensor]

    def layer(self, number: int, shift: Tensor, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Colours [N, 3, H, W], alpha and depth [N, 1, H, W] of an object at a shift [3] in N of
        the views: each view's own photo, looked up by the depth that its pixels move to."""
        cutout, cameras = self.cutouts[number], (self.cameras[0][views], self.cameras[1][views])
        alpha, plate = cutout.alpha[views], self.plate[views]
        height, width = alpha.shape[2:]
        sprite = Sprites(alpha[:, 0], plate[:, :0], cutout.depth[views], cameras)
        _, cover, depth = sprite.drawn(shift[None], cameras, height, width)
        near = cover[0, :, 0] > 0.3
        wide = grown(near, 2)
        depth = ring_filled(depth[0], near, wide)
        _, where = before_moving(depth[:, 0].clamp_min(1e-3), shift, cameras)
        colors = F.grid_sample(
            cutout.colors[views], where, "bicubic", "border", align_corners=False
        )
        alpha = F.grid_sample(alpha, where, align_corners=False) * wide[:, None]
        return colors.clamp(0, 1), in_front(alpha, depth, plate[:, 3:]), depth

    @property
    def objects(self) -> list[MovingObject]:
        return [cutout.item for cutout in self.cutouts]

    def looks_right(self, frames: Tensor, shifts: Tensor, given: Tensor, time: int) -> Tensor:
        """The objects and times [K, T] at which frames [V, T, 3, H, W] show what is drawn.

        Those that are given say so of a time, or that an object is not there, while most times show
        it. Where none is given the generated ones of all views must agree, of all objects and at
        all of these times: they are soft, and nothing else says what is where.
        """
        errors = frames.new_full((*shifts.shape[:2], 2), torch.nan)
        for now in set(range(frames.shape[1])) - {time}:
            sure = bool(given[:, now].any())
            views = (given[:, now] | (not sure)).nonzero()[:, 0]
            errors[:, now] = self.errors(frames[views, now], shifts[:, now], views, sure)
        often = (~errors[..., 1].isnan()).sum(1) > SEEN * frames.shape[1]
        usual = errors.nanmedian(1).values.nan_to_num(0).amax(-1) < 1
        right = (often & usual)[:, None] & (errors.nan_to_num(0).amax(-1) < ONCE)
        return right & right[:, ~given.any(0)].all()

    def errors(self, frames: Tensor, shifts: Tensor, views: Tensor, sure: bool) -> Tensor:
        """How far objects at shifts [K, 3] are from what frames [N, 3, H, W] of some views show:
        inside and at their rims [K, 2], as multiples of what a given frame may have; of generated
        frames (not sure) of both together, as multiples of what they may. NaN where too little of
        an object is seen."""
        reach = max(2, round(3 * frames.shape[-2] / 128))
        cameras, back = (self.cameras[0][views], self.cameras[1][views]), self.plate[views, :3]
        layers = [self.layer(number, shift, views) for number, shift in enumerate(shifts)]
        target = blurred(frames, 1)
        off = (blurred(composited(back, layers), 1) - target).abs().amax(1)
        # The plate alone, which given frames need not be compared with.
        bare = off if sure else (blurred(back, 1) - target).abs().amax(1)
        unseen = unseen_before(self.objects, shifts, cameras, off.shape[1:], views)
        found = frames.new_full((len(shifts), 2), torch.nan)
        for number, (_, alpha, _) in enumerate(layers):
            inside = eroded(alpha[:, 0] > 0.9, reach) & ~unseen
            around = grown(alpha[:, 0] > 0.1, reach) & ~unseen
            if sure:
                parts = (inside, INSIDE, INNER), (around & ~inside, RIM, FEWEST)
                for part, (where, bound, least) in enumerate(parts):
                    if where.sum() >= least:
                        found[number, part] = off[where].mean() / bound
            elif around.sum() >= FEWEST:
                made, empty = (x[around].square().mean().sqrt() for x in (off, bare))
                found[number] = made / (ALIKE * empty.clamp_min(CHANGED / 8))
        return found

    def soft(self, frames: Tensor, shifts: Tensor, drawn: Tensor, given: Tensor) -> Tensor:
        """The objects [K] that generated frames [V, T, 3, H, W] show much softer than their photos,
        at the times [K, T] at which they are to be drawn."""
        energy = frames.new_zeros(2, len(shifts))
        for number, now in (drawn & ~given.all(0)).nonzero().tolist():
            views = (~given[:, now]).nonzero()[:, 0]
            layer = self.layer(number, shifts[number, now], views)
            made = composited(self.plate[views, :3], [layer])
            around = grown(layer[1][:, 0] > 0.1, 2)
            for index, shown in enumerate((frames[views, now], made)):
                energy[index, number] += squared_steps(shown)[around].sum()
        return energy[0] < SHARP * energy[1]

    def view_at(
        self, frames: Tensor, shifts: Tensor, drawn: Tensor, views: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Colours [N, 3, H, W], depth [N, 1, H, W] of N views with those of the objects that are
        `drawn` [K] at shifts [K, 3], and how far they replace frames [N, 3, H, W], [N, 1, H, W]:
        where the objects are, and with soft edges where the frames have them beside their place,
        but for pixels whose photo does not say what is there (see unseen_before), and around
        objects that are not drawn."""
        reach = max(6, round(GHOST * frames.shape[-2]))
        cameras = self.cameras[0][views], self.cameras[1][views]
        back, depth = self.plate[views].split((3, 1), 1)
        kept = unseen_before(self.objects, shifts, cameras, frames.shape[2:], views)[:, None]
        layers, cover, near = [], torch.zeros_like(depth), depth < 0
        for number, shift in enumerate(shifts):
            own, alpha, surface = self.layer(number, shift, views)
            wide = grown(alpha[:, 0] > 0.1, reach)[:, None]
            near, kept = near | (wide & drawn[number]), kept | (wide & ~drawn[number])
            alpha = alpha * drawn[number]
            layers.append((own, alpha, surface))
            front = (alpha > 0.5) & ((cover <= 0.5) | (surface < depth))
            depth, cover = torch.where(front, surface, depth), cover.maximum(alpha)
        colors = composited(back, layers)
        near &= ~kept
        ghost = ghosts(frames, back, colors, cover[:, 0], reach) & near
        beside = near & grown(ghost[:, 0], 1)[:, None]
        put = beside * blurred(ghost.to(depth), EDGE * reach)
        return colors, depth, put.maximum((near & (cover > 0.05)).to(depth))


def squared_steps(frames: Tensor) -> Tensor:
    """Squared differences [N, H, W] of pixels of frames [N, 3, H, W] from those to their right and
    below them, which blur takes away."""
    right = F.pad(frames.diff(dim=-1), (0, 1)).square().sum(1)
    return right + F.pad(frames.diff(dim=-2), (0, 0, 0, 1)).square().sum(1)


def ghosts(frames: Tensor, back: Tensor, colors: Tensor, cover: Tensor, reach: int) -> Tensor:
    """Pixels [N, 1, H, W] of generated frames [N, 3, H, W] that show an object beside its place.

    Args:
        frames: what was generated.
        back: the plate [N, 3, H, W].
        colors: the plate with the objects where they belong [N, 3, H, W].
        cover: the share of each pixel that objects cover there [N, H, W].
        reach: pixels around them in which ghosts are sought.

    A ghost is a mixture of the plate and of the object's colours next to it, a shadow is the plate
    in another brightness: a pixel is what explains it better, if either does. Next to an object all
    that is not a shadow is taken to be a ghost, but for what neither explains.
    """
    solid = cover > 0.9
    wide, beside = grown(solid, reach + 1)[:, None], grown(cover > 0.05, 2)[:, None]
    way, change = ring_filled(colors, solid, wide[:, 0]) - back, frames - back
    mix = ((change * way).sum(1, True) / way.square().sum(1, True).clamp_min(1e-3)).clamp(0, 1)
    shade = (frames * back).sum(1, True) / back.square().sum(1, True).clamp_min(1e-3)
    shade = shade.clamp(0.3, 1.1)
    off_mixed = (change - mix * way).square().sum(1, True)
    off_shaded = (frames - shade * back).square().sum(1, True)
    mixed = off_mixed < off_shaded
    ghost = (wide & mixed & (mix > 0.1)) | (beside & (mixed | (shade >= SHADOW)))
    return ghost & (off_mixed.minimum(off_shaded) < EXPLAINED**2)
