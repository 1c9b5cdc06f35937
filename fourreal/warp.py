"""Known pixels seen from other cameras, and what is missing there.

A scene holds what some input cameras saw. Drawn into other cameras it has holes, which a video
inpainting model then fills (DESIGN: warp, fill, reconstruct). A pixel is known where the drawn
surface is opaque and nothing unseen may stand before it. The second condition keeps the background
from showing through the sides of things that no input camera looked at: the space right behind a
seen surface is unseen, as far as things are taken to be thick, and what lies beyond it is known
only along lines of sight that do not cross that space. GEN3C (arXiv 2503.03751) has a mesh between
foreground and background for the same purpose. What moves at a depth that a network doubts may be
nearer or farther on its line of sight, all of which is unseen, too.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.cameras import camera_centers, point_ahead, unproject
from fourreal.gaussians import Gaussians, GaussianScene, rgb_to_harmonics
from fourreal.grid import check_shared_cell, shrunk
from fourreal.neighborhoods import JUMP, REACH, beside_jumps, eroded, grown, within_reach
from fourreal.reference_colors import reference_colors
from fourreal.rendering import render
from fourreal.rendering.path import SceneFrames

logger = logging.getLogger(__name__)

HOLE = 0.5  # grey of what is missing: what VACE was trained with
THICKNESS = 0.18  # how deep things are behind the surface that is seen, of its depth
WIDE_ANGLE = 45  # degrees from the nearest input camera beyond which little is known

NEAREST, LAST = 0.3, 0.97  # the part of a line of sight that is searched, of the surface's depth
TOLERANCE = 0.03  # by how much a point behind a surface is deeper at least, of its depth
STRIDE = 2.0  # pixels of an input camera's image per step of the search, at most
OPAQUE = 0.5  # alpha above which an input camera saw a surface
FAR = 1e6  # depth where it saw none
UNSURE = 3e-5  # a network's confidence, above 1, up to which what moves may lie elsewhere
ELSEWHERE = 0.2  # by how much of its depth, nearer or farther

References = tuple[Tensor, Tensor]  # frames and cells, see warp_grid


@dataclass
class WarpedGrid:
    """Frames [V, T, 3, H, W] in [0, 1], mid-grey where nothing is known, and missing
    [V, T, 1, H, W], 1 where the model must generate and 0 where the frames are to be kept."""

    frames: Tensor
    missing: Tensor

    @property
    def known_share(self) -> Tensor:
        """The share of each view's pixels that are known, [V] in 0..1."""
        return 1 - self.missing.mean(dim=(1, 2, 3, 4))

    def lengthened(self, num_times: int) -> "WarpedGrid":
        """The grid with times after its own T, up to num_times, of which nothing is known: a still
        scene as the beginning of a moving one."""
        more = (0, 0, 0, 0, 0, 0, 0, max(num_times - self.frames.shape[1], 0))
        return WarpedGrid(
            F.pad(self.frames, more, value=HOLE), F.pad(self.missing, more, value=1.0)
        )

    def shrunk(self, factor: int) -> "WarpedGrid":
        """The grid at 1/factor of its height and width: pixels have the mean colour of what is
        known of them, and are missing where that is less than half. Raises ValueError where the
        factor does not divide them."""
        height, width = self.frames.shape[-2:]
        if factor < 1 or height % factor or width % factor:
            raise ValueError(
                f"{width} x {height} pixels cannot be divided by {factor}; give a factor of 1 or "
                "more that divides both."
            )
        if factor == 1:
            return self
        known = shrunk(1 - self.missing, factor)
        colors = shrunk(self.frames * (1 - self.missing), factor) / known.clamp_min(1e-6)
        missing = known < 0.5
        return WarpedGrid(torch.where(missing, HOLE, colors), missing.float())

    def with_references(self, references: References | None) -> "WarpedGrid":
        """The grid in which cells of references (see warp_grid) are known whole."""
        if references is None:
            return self
        given, cells = check_references(*references, self.frames)
        frames, missing = self.frames.clone(), self.missing.clone()
        frames[cells], missing[cells] = given[cells], 0
        return WarpedGrid(frames, missing)


@torch.no_grad()
def warp_grid(
    scene: GaussianScene,
    extrinsics: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
    *,
    min_alpha: float = 0.9,
    grow: int = 2,
    references: References | None = None,
    repaint_all: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> WarpedGrid:
    """Draw a scene into V still cameras at its T times, and say which pixels are known.

    Static Gaussians are drawn at all times, moving ones only at their own.

    Args:
        extrinsics, intrinsics: the cameras [V, 3, 4], [V, 3, 3] in pixels of width x height.
        min_alpha: a pixel that the scene covers less is missing.
        grow: pixels by which holes are widened; never do holes shrink.
        references: frames [V, T, 3, height, width] and the cells [V, T] (boolean) of the grid that
            they are given for. These cells are known whole; the others' frames are ignored. What
            they show has their colours in the other views of their time, too.
        repaint_all: everything but the references is to be generated, with the warped frames as a
            draft (masks close to the holes leave seams).
        progress: called as progress(done, T) after every time; what it raises ends the work.

    The result is on the CPU. Cameras far from all input cameras are logged. Raises ValueError in
    one sentence for cameras or references that do not fit.
    """
    num_views, num_times = len(extrinsics), scene.num_frames
    check_target_cameras(extrinsics, intrinsics)
    if not 0 < min_alpha <= 1 or grow < 0:
        raise ValueError(
            f"min_alpha is {min_alpha} and grow {grow}, but min_alpha must lie in 0..1 (not 0) and "
            "grow must not be negative."
        )
    device = scene.static.means.device
    cameras = extrinsics.to(device).float(), intrinsics.to(device).float()
    centers = camera_centers(cameras[0])
    if sentence := wide_angles(scene, cameras[0]):
        logger.warning(sentence)
    frames = torch.full((num_views, num_times, 3, height, width), HOLE)
    missing = torch.ones(num_views, num_times, 1, height, width)
    shown, known = frames, torch.zeros(num_views, num_times, dtype=torch.bool)
    if references is not None:
        shown, known = check_references(*references, frames)
    at_time = SceneFrames(scene)
    for time in range(num_times):
        gaussians = at_time.at(time)
        drawn = render(gaussians, *cameras, width, height)
        depth, alpha = drawn.depth[..., 0], drawn.alpha
        unknown = alpha[..., 0] < min_alpha
        seen = seen_surfaces(scene, gaussians, time)
        if seen:
            points = unproject(depth, *cameras)
            for view in range(num_views):
                opaque = ~unknown[view]
                unknown[view, opaque] = unseen_in_front(points[view, opaque], centers[view], seen)
        # One pixel more and back again: what is left of the known then is wider than a speck.
        unknown = eroded(grown(unknown, grow + 1), 1)[:, None]
        color = (drawn.color / alpha.clamp_min(1e-6)).clamp(0, 1).movedim(-1, 1)
        if given := known[:, time].nonzero()[:, 0].tolist():
            color = reference_colors(color, depth, cameras, shown[:, time].to(color), given)
        frames[:, time] = torch.where(unknown, HOLE, color).cpu()
        missing[:, time] = unknown.float().cpu()
        if progress is not None:
            progress(time + 1, num_times)
    if repaint_all:
        missing.fill_(1)
    return WarpedGrid(frames, missing).with_references(references)


def of_first_times(references: References | None, num_times: int) -> References | None:
    """References (see warp_grid) of the first times alone."""
    return references and (references[0][:, :num_times], references[1][:, :num_times])


def check_target_cameras(extrinsics: Tensor, intrinsics: Tensor) -> None:
    """Raise ValueError unless these are V >= 1 cameras of finite numbers."""
    num_views = len(extrinsics)
    shapes = tuple(extrinsics.shape), tuple(intrinsics.shape)
    if not num_views or shapes != ((num_views, 3, 4), (num_views, 3, 3)):
        raise ValueError(
            f"the cameras have the shapes {shapes[0]} and {shapes[1]}, but extrinsics [V, 3, 4] "
            "and intrinsics [V, 3, 3] of the same V are needed."
        )
    if not (extrinsics.isfinite().all() and intrinsics.isfinite().all()):
        raise ValueError("the cameras hold numbers that are not finite; give known cameras.")


def check_references(given: Tensor, cells: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """The references on the CPU; ValueError unless they fit the grid of frames."""
    if given.shape != frames.shape or cells.shape != frames.shape[:2]:
        raise ValueError(
            f"the reference frames have the shape {tuple(given.shape)} and their cells "
            f"{tuple(cells.shape)}, but {tuple(frames.shape)} and {tuple(frames.shape[:2])} are "
            "needed: one frame of the grid's size for each of its cells."
        )
    return given.to(frames), cells.cpu().bool()


def reference_cells(
    shape: tuple[int, int, int, int],
    view: int = 0,
    *,
    fixed_view: Tensor | None = None,
    freeze_time: Tensor | None = None,
) -> References | None:
    """References of a grid of shape (V, T, H, W), as warp_grid takes them: `fixed_view`
    [T, 3, H, W] is a view at all times, `freeze_time` [V, 3, H, W] the first time of all views.

    None without either. Raises ValueError in one sentence for another number or size of frames, and
    for references that show different things in the cell that they share.
    """
    num_views, num_times, height, width = shape
    frames = torch.zeros(num_views, num_times, 3, height, width)
    cells = torch.zeros(num_views, num_times, dtype=torch.bool)
    row, column = (frames[view], cells[view]), (frames[:, 0], cells[:, 0])
    for name, given, place in (
        ("fixed_view", fixed_view, row),
        ("freeze_time", freeze_time, column),
    ):
        if given is None:
            continue
        if given.shape != place[0].shape:
            raise ValueError(
                f"{name} has {len(given)} images of {given.shape[-1]} x {given.shape[-2]} pixels, "
                f"but this grid needs {len(place[0])} of {width} x {height}; resize it or change "
                "the grid."
            )
        place[0].copy_(given)
        place[1].fill_(True)
    if fixed_view is not None and freeze_time is not None:
        check_shared_cell(fixed_view, freeze_time[view:])
    return (frames, cells) if cells.any() else None


def wide_angles(scene: GaussianScene, extrinsics: Tensor) -> str | None:
    """A sentence on how many cameras [V, 3, 4] look from far beside all input cameras, if any."""
    if not scene.num_views:
        return None
    inputs = scene.extrinsics.to(extrinsics)
    middle = point_ahead(inputs[0], scene.at(0).viewing_distance(inputs[0]))
    new, old = (F.normalize(camera_centers(c) - middle, dim=-1) for c in (extrinsics, inputs))
    degrees = (new @ old.T).clamp(-1, 1).acos().rad2deg().amin(dim=1)
    wide = degrees > WIDE_ANGLE + 1  # a whole arc of 45 degrees is no reason
    if not wide.any():
        return None
    return (
        f"{int(wide.sum())} of {len(wide)} views look from up to {degrees.max():.0f} degrees "
        f"beside the nearest input camera; beyond about {WIDE_ANGLE} degrees little of a view is "
        "known, so use a smaller arc, or warp in rounds."
    )


@dataclass
class SeenSurface:
    """What an input camera saw: depth [h, w] of the nearest surface, things widened; the camera,
    extrinsics [3, 4] and intrinsics [3, 3]; and the share of its depth [h, w] by which the surface
    may be nearer or farther, if it may anywhere."""

    depth: Tensor
    extrinsics: Tensor
    intrinsics: Tensor
    doubt: Tensor | None = None


def seen_surfaces(scene: GaussianScene, gaussians: Gaussians, time: int) -> list[SeenSurface]:
    """What the input cameras that looked at this time saw of the scene's Gaussians."""
    looked = list(range(scene.num_views))
    if scene.observed is not None:
        looked = scene.observed[:, time].nonzero()[:, 0].tolist()
    white = torch.zeros_like(gaussians.means)
    if scene.confidences is not None:
        white[len(scene.static) :] = (scene.confidences[1 + time] - 1 < UNSURE).to(white)[:, None]
    painted = replace(gaussians, harmonics=rgb_to_harmonics(white))
    surfaces = []
    for view in looked:
        extrinsics, intrinsics = scene.extrinsics[view], scene.intrinsics[view]
        drawn = render(painted, extrinsics[None], intrinsics[None], scene.width, scene.height)
        depth = torch.where(drawn.alpha > OPAQUE, drawn.depth, FAR)[..., 0]
        seen = things_widened(depth)[0]
        unsure = drawn.color[..., 0] > OPAQUE
        doubt = ELSEWHERE * grown(unsure, REACH)[0].to(seen) if unsure.any() else None
        surfaces.append(SeenSurface(seen, extrinsics.to(seen), intrinsics.to(seen), doubt))
    return surfaces


def things_widened(depth: Tensor) -> Tensor:
    """Depth maps [N, h, w] in which things cover some pixels of what is behind them: the rims that
    were dropped beside a jump, and one pixel more."""
    beside = beside_jumps(depth)
    nearest, farthest = within_reach(depth, REACH)
    # A splat's soft edge is drawn at a depth between two surfaces, where nothing is.
    soft = beside & (depth > nearest * (1 + JUMP)) & (depth * (1 + JUMP) < farthest)
    depth = torch.where(soft, nearest, depth)
    nearest, _ = within_reach(depth, REACH + 1)
    return torch.where(grown(beside, 1) & (depth > nearest * (1 + JUMP)), nearest, depth)


def unseen_in_front(points: Tensor, center: Tensor, seen: list[SeenSurface]) -> Tensor:
    """Which lines of sight from a camera at center [3] cross unseen space on their way to surface
    points [P, 3].

    A point is unseen that lies behind what some input camera saw, within the thickness of things,
    and in front of what none of them saw. The lines are searched in steps that are short in the
    input cameras' images; a step counts from its nearest to its deepest point.
    """
    sights = [LinesOfSight.of(points, center, surface) for surface in seen]
    steps = math.ceil(max(1.0, *(sight.length() / STRIDE for sight in sights)))
    ratio = (LAST / NEAREST) ** (1 / steps)
    unseen = torch.zeros_like(points[:, 0], dtype=torch.bool)
    for i in range(steps):
        begin = NEAREST * ratio**i
        parts = [sight.between(begin, begin * ratio) for sight in sights]
        behind, free = (torch.stack(masks).any(dim=0) for masks in zip(*parts))
        unseen |= behind & ~free
    return unseen


@dataclass
class LinesOfSight:
    """Lines from a camera to P surface points, in the image of one input camera.

    The point at a share s of the way is s * along + start, in homogeneous pixels: along [3, P],
    start [3, 1].
    """

    along: Tensor
    start: Tensor
    surface: SeenSurface

    @staticmethod
    def of(points: Tensor, center: Tensor, surface: SeenSurface) -> "LinesOfSight":
        to_image = surface.intrinsics @ surface.extrinsics
        along = to_image[:, :3] @ (points - center).T
        return LinesOfSight(along, to_image[:, :3] @ center[:, None] + to_image[:, 3:], surface)

    def at(self, share: float) -> tuple[Tensor, Tensor, Tensor]:
        """Pixel x, y and depth [P] at a share of the way."""
        x, y, z = share * self.along + self.start
        inverse = 1 / z.clamp_min(1e-6)
        return x * inverse, y * inverse, z

    @cached_property
    def aside(self) -> Tensor:
        """Which lines [P] are not the input camera's own, too, on which doubt changes nothing."""
        (x0, y0, _), (x1, y1, _) = self.at(1 - ELSEWHERE), self.at(1)
        return torch.maximum((x1 - x0).abs(), (y1 - y0).abs()) > 1

    def length(self) -> float:
        """The longest way of a searched line inside the image, in pixels along x or y."""
        height, width = self.surface.depth.shape
        (x0, y0, z0), (x1, y1, z1) = self.at(NEAREST), self.at(LAST)
        across = (x0.clamp(0, width) - x1.clamp(0, width)).abs()
        down = (y0.clamp(0, height) - y1.clamp(0, height)).abs()
        way = torch.maximum(across, down) * ((z0 > 0) & (z1 > 0))
        return way.max().item() if len(way) else 0.0

    def between(self, begin: float, end: float) -> tuple[Tensor, Tensor]:
        """Whether the lines [P] between two shares of the way run behind the surface, not deeper
        than things are thick; and whether they run in front of it. Doubt moves both ends.

        Things that the image's border cuts go on beyond it, as deep as they are at the border.
        """
        height, width = self.surface.depth.shape
        x, y, z = self.at((begin + end) / 2)
        half = (self.along[2] * ((end - begin) / 2)).abs()
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (z > 0)
        index = y.long().clamp(0, height - 1) * width + x.long().clamp(0, width - 1)
        depth = self.surface.depth.flatten()[index]
        doubt: Tensor | float = 0.0
        if self.surface.doubt is not None:
            doubt = self.surface.doubt.flatten()[index] * self.aside
        behind = z + half > depth * (1 + TOLERANCE - doubt)
        within = z - half < depth * (1 + THICKNESS + doubt)
        return (z > 0) & behind & within, inside & ~behind
