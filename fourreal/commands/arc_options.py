"""From a scene to still cameras on an arc: options and steps that commands share."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fourreal.cameras import arc_cameras, point_ahead, scale_intrinsics
from fourreal.commands.results import progress_bar
from fourreal.gaussians import GaussianScene
from fourreal.warp import References, WarpedGrid, of_first_times, warp_grid

Cameras = tuple[Tensor, Tensor]


@dataclass(kw_only=True)
class ArcOptions:
    """Still cameras on an arc about what the scene's first view looks at."""

    arc: float | None = None
    """Degrees of the whole arc, to the right; negative to the left. Little is known of a view
    beyond about 45."""
    elevation: float = 0.0
    """By how many degrees the cameras rise along the arc."""
    distance: float = 1.0
    """The last camera's distance from the middle, as a share of the first one's."""


def cameras_on_arc(
    scene: GaussianScene, options: ArcOptions, num_views: int, width: int, height: int
) -> Cameras:
    """Cameras [V, 3, 4], [V, 3, 3] in pixels of width x height on the arc that begins at the
    scene's first view; without an arc the scene's own views."""
    extrinsics = scene.extrinsics.cpu()
    intrinsics = scene.intrinsics.cpu()
    intrinsics = scale_intrinsics(intrinsics, width / scene.width, height / scene.height)
    if options.arc is None:
        return extrinsics, intrinsics
    return arc_cameras(
        extrinsics[0],
        intrinsics[0],
        num_views,
        degrees=options.arc,
        elevation=options.elevation,
        distance=options.distance,
        centre=point_ahead(extrinsics[0], scene.at(0).viewing_distance(extrinsics[0])),
    )


def warp_to(
    scene: GaussianScene,
    cameras: Cameras,
    width: int,
    height: int,
    device: torch.device,
    *,
    references: References | None = None,
    repaint_all: bool = False,
) -> WarpedGrid:
    """warp_grid on a device, with a bar; a scene of fewer times than the references goes on with
    nothing known."""
    with progress_bar("warping", scene.num_frames) as progress:
        warped = warp_grid(
            scene.to(device),
            *cameras,
            width,
            height,
            references=of_first_times(references, scene.num_frames),
            repaint_all=repaint_all,
            progress=progress,
        )
    if references is None:
        return warped
    return warped.lengthened(references[0].shape[1]).with_references(references)
