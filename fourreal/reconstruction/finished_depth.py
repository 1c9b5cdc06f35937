"""Depth as it goes into the scene: its edges sharpened, and adjusted between the views."""

from collections.abc import Callable

import torch
from torch import Tensor

from fourreal.parallel import on_each
from fourreal.reconstruction.bundle_adjustment import adjust_depth
from fourreal.reconstruction.filters import sharpen_depth
from fourreal.reconstruction.image_fit import Images
from fourreal.reconstruction.options import ReconstructionOptions
from fourreal.reconstruction.pixels_to_gaussians import Cameras


def finished_depth(
    images: Images,
    depth: Tensor,
    cameras: Cameras,
    options: ReconstructionOptions,
    detail: int,
    tell: Callable[[int], None],
) -> Tensor:
    """Depth [T, V, h, w] of images [T, V, 3, h, w] and cameras of the V views, each time computed
    where the cameras are.

    detail: by how much the network's depth was enlarged. tell(done) is called after each time that
    was adjusted.
    """
    device, adjusts = cameras[0].device, options.adjusts(depth.shape[1])
    finished = torch.empty_like(depth)

    def finish(time: int) -> None:
        image, own = images[time].to(device), depth[time].to(device)
        if options.filters.sharpen:
            own = sharpen_depth(image, own, options.filters.sharpen, detail)
        finished[time] = adjust_depth(image, own, cameras) if adjusts else own

    on_each(finish, range(len(depth)), device, tell if adjusts else lambda done: None)
    return finished
