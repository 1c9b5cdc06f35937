"""Pixels of given frames carried into generated views, by the depth of both.

A video model that was shown a video or photos draws the other views softly, yet much of them shows
what the given frames show. The depth of all views together, predicted from what was generated,
says where: a surface of one view that another view has at the same depth is seen by both. Where
the depth of either is wrong the two disagree, so what is carried is rarely misplaced; depth from
the given video alone has no such check.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fourreal.cameras import camera_centers, unproject
from fourreal.neighborhoods import eroded, grown
from fourreal.paste import paste_known
from fourreal.reconstruction import Reconstruction
from fourreal.reference_colors import agrees_with_drawn, looked_up, nearest_last
from fourreal.warp import HOLE, References, WarpedGrid, check_references

BOTH = 0.0225  # two views see one surface where their depths of it agree, up to this share
GAP = 0.05  # the same, in gaps of a pixel
MARGIN = 1  # pixels beside those that agree not that are left out, too
SPECK = 1  # pixels around one: smaller areas are specks, neither carried nor left out alone


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

    A cell has the colours of the references of its time where both depths agree within BOTH, and
    else those that its own camera saw at another time, where depth has not changed and the
    generated frame shows the same: what stands still. Single pixels follow those around them. The
    result is on the CPU, as warp_grid's; paste_known puts it into the generated grid. Raises
    ValueError in one sentence for shapes that do not fit.
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
        for source, shown in sources(cells, centers, view, time):
            camera = extrinsics[source : source + 1], intrinsics[source : source + 1]
            surface, frame = depth[source, shown], given[source, shown]
            found, off = looked_up(points, camera, surface, frame)
            seen = off < BOTH
            if shown != time:
                seen &= agrees_with_drawn(frame, frames[view, time])
            seen = without_specks(seen[None], off[None] < GAP)[0]
            colors, known = torch.where(seen, found, colors), known | seen
        result[view, time] = torch.where(known, colors, HOLE)
        missing[view, time, 0] = (~known).float()
    return WarpedGrid(result.cpu(), missing.cpu()).with_references(references)


def without_specks(seen: Tensor, perhaps: Tensor) -> Tensor:
    """Masks [N, H, W] of what is seen, gaps closed where `perhaps` allows it, without a margin of
    MARGIN pixels and without what is left as specks."""
    closed = seen | (eroded(grown(seen, SPECK), SPECK) & perhaps)
    return grown(eroded(closed, MARGIN + SPECK), SPECK)


def sources(cells: Tensor, centers: Tensor, view: int, time: int) -> list[tuple[int, int]]:
    """The reference cells (view, time) of cells [V, T] that a cell takes pixels of, the best last:
    of its own camera the time nearest by, then those of its time, from the farthest to the nearest
    camera of centers [V, 3]."""
    times = cells[view].nonzero()[:, 0]
    own = times[(times - time).abs().argsort()[:1]].tolist()
    beside = nearest_last(cells[:, time].nonzero()[:, 0].tolist(), centers, view)
    return [(view, shown) for shown in own] + [(source, time) for source in beside]


def carry_references(
    reconstructor: Callable[..., Reconstruction],
    frames: Tensor,
    references: References,
    cameras: tuple[Tensor, Tensor] | None = None,
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """A generated grid [V, T, 3, H, W] with what its references show of it (see carried) in place
    of what was generated, and its cameras: the given ones, or those that are predicted from it.

    The references' own cells are theirs, too. Nothing is sharpened: Gaussians of frames that were
    are no better. device: where pixels are looked up; the result is on the CPU. progress: see
    Reconstructor.
    """
    frames = frames.float().cpu()
    given, cells = check_references(*references, frames)
    frames = torch.where(cells[:, :, None, None, None], given, frames)
    options: dict[str, Any] = {"split": None, "detail": 1, "progress": progress}
    found = reconstructor(frames, cameras=cameras or "first", **options)
    cameras = found.extrinsics, found.intrinsics
    shown = carried(frames, found.depth.to(device), cameras, references)
    return paste_known(frames, shown, feather=0, match_sharpness=False), cameras
