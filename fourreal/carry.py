"""Pixels of given frames carried into generated views.

A video model that was shown a video or photos draws the other views softly, yet much of them shows
what the given frames show. Of another camera, the depth of all views together says where, which is
predicted from what was generated: a surface of one view that another view has at the same depth is
seen by both. Where the depth of either is wrong the two disagree, so what is carried is rarely
misplaced; depth from the given video alone has no such check. What the same camera saw at another
time is in its place already, and no depth is asked: it still stands there where the generated
frame, soft as it is, shows the same.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fourreal.cameras import camera_centers, unproject
from fourreal.moving_objects import carry_objects
from fourreal.neighborhoods import blurred, eroded, grown
from fourreal.paste import paste_known
from fourreal.reconstruction import Reconstruction
from fourreal.reconstruction.options import CameraMode
from fourreal.reference_colors import looked_up, nearest_last
from fourreal.warp import HOLE, References, WarpedGrid, check_references, reference_cells

BOTH = 0.0225  # two views see one surface where their depths of it agree, up to this share
GAP = 0.05  # the same, in gaps of a pixel
MARGIN = 1  # pixels beside those that agree not that are left out, too
SPECK = 1  # pixels around one: smaller areas are specks, neither carried nor left out alone
SOFT = 3.0  # pixels: what is coarser, a generated frame shows as it is
SOFTEST = 1 / 40  # of the height of small frames, in which things that move are small, too
STILL = 0.05  # of colours in [0, 1]: up to this difference, so blurred, both show the same


@torch.no_grad()
def carried(
    frames: Tensor, depth: Tensor, cameras: tuple[Tensor, Tensor], references: References
) -> WarpedGrid:
    """What reference frames show of the other cells of a generated grid.

    Args:
        frames: the generated grid [V, T, 3, H, W] in [0, 1].
        depth: of what it shows, [V, T, H, W], predicted from all views together.
        cameras: extrinsics [V, 3, 4] and intrinsics [V, 3, 3] in pixels of H x W.
        references: frames and cells that are known whole, see warp_grid.

    A cell has the colours that its own camera saw at another time where the generated frame shows
    the same (see shows_same): what stands still. Else it has those of the references of its time
    where both depths agree within BOTH; single pixels follow those around them. The result is on
    the CPU, as warp_grid's; paste_known puts it into the generated grid. Raises ValueError in one
    sentence for shapes that do not fit.
    """
    if depth.shape != (*frames.shape[:2], *frames.shape[-2:]):
        raise ValueError(
            f"the depth has the shape {tuple(depth.shape)}, but the frames {tuple(frames.shape)}: "
            "one depth map for each frame is needed."
        )
    given, cells = (x.to(depth.device) for x in check_references(*references, frames))
    frames, (extrinsics, intrinsics) = frames.to(depth), (c.to(depth) for c in cameras)
    centers, result = camera_centers(extrinsics), torch.full_like(given, HOLE)
    missing = torch.ones_like(given[:, :, :1])
    for view, time in (~cells).nonzero().tolist():
        points = unproject(depth[view, time], extrinsics[view], intrinsics[view])
        colors, known = given[view, time], torch.zeros_like(points[..., 0], dtype=torch.bool)
        for source in nearest_last(cells[:, time].nonzero()[:, 0].tolist(), centers, view):
            camera = extrinsics[source : source + 1], intrinsics[source : source + 1]
            found, off = looked_up(points, camera, depth[source, time], given[source, time])
            seen = without_specks(off[None] < BOTH, off[None] < GAP)[0]
            colors, known = torch.where(seen, found, colors), known | seen
        if (shown := nearest_time(cells[view], time)) is not None:
            same = shows_same(given[view, shown], frames[view, time])
            colors, known = torch.where(same, given[view, shown], colors), known | same
        result[view, time] = torch.where(known, colors, HOLE)
        missing[view, time, 0] = (~known).float()
    return WarpedGrid(result.cpu(), missing.cpu()).with_references(references)


def without_specks(seen: Tensor, perhaps: Tensor) -> Tensor:
    """Masks [N, H, W] of what is seen, gaps closed where `perhaps` allows it, without a margin of
    MARGIN pixels and without what is left as specks."""
    closed = seen | (eroded(grown(seen, SPECK), SPECK) & perhaps)
    return grown(eroded(closed, MARGIN + SPECK), SPECK)


def shows_same(frame: Tensor, generated: Tensor) -> Tensor:
    """Pixels [H, W] of a frame [3, H, W] that a softer one of the same camera shows, too: blurred
    by SOFT pixels, or by SOFTEST of the height where that is less, the two differ by less than
    STILL in each channel, here and in the pixels around."""
    sigma = min(SOFT, SOFTEST * frame.shape[-2])
    ours, theirs = blurred(torch.stack((frame, generated)), sigma)
    return eroded(((ours - theirs).abs() < STILL).all(dim=0)[None], 1)[0]


def nearest_time(cells: Tensor, time: int) -> int | None:
    """Of the times of cells [T] of one camera the nearest to a time, the earlier of two."""
    times = cells.nonzero()[:, 0]
    return int(times[(times - time).abs().argmin()]) if len(times) else None


def carry_references(
    reconstructor: Callable[..., Reconstruction],
    frames: Tensor,
    references: References,
    cameras: CameraMode | tuple[Tensor, Tensor] = "first",
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """A generated grid [V, T, 3, H, W] with what its references show of it in place of what was
    generated, first of things that move (see carry_objects), then of all else (see carried); and
    its cameras: the given ones, or those that are predicted from it (see the reconstructor's).

    The references' own cells are theirs, too. Nothing is sharpened: Gaussians of frames that were
    are no better. device: where pixels are looked up; the result is on the CPU. progress: called as
    progress(done, total), also while things are followed; what it raises ends the work.
    """
    frames = frames.float().cpu()
    given, cells = check_references(*references, frames)
    frames = torch.where(cells[:, :, None, None, None], given, frames)
    tell, num_times = progress or (lambda done, total: None), frames.shape[1]
    options: dict[str, Any] = {"gaussians": False, "detail": 1}
    options["progress"] = lambda done, of: tell(round(num_times * done / of), 2 * num_times)
    found = reconstructor(frames, cameras=cameras, **options)
    cameras = found.extrinsics, found.intrinsics
    there = found.extrinsics.to(device), found.intrinsics.to(device)
    drawn, depth = carry_objects(
        frames.to(device),
        found.depth.to(device),
        there,
        cells.to(device),
        lambda done: tell(num_times + done, 2 * num_times),
    )
    shown = carried(drawn, depth, there, references)
    return paste_known(drawn.cpu(), shown, feather=0, match_sharpness=False), cameras


def carry_first_time(
    reconstructor: Callable[..., Reconstruction], frames: Tensor, **options: Any
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """carry_references of a grid [V, T, 3, H, W] that an embedded model made of text, with the
    first time of all views, which it draws before the rest, and best, as the references. Its
    cameras are an even movement."""
    shape = (*frames.shape[:2], *frames.shape[-2:])
    references = reference_cells(shape, freeze_time=frames[:, 0])
    assert references is not None
    return carry_references(reconstructor, frames, references, "even", **options)
