"""The torch rasterizer: exact 3DGS compositing on any device, differentiable, without extensions.

Gradients reach means, quaternions, scales, opacities and harmonics (and cameras that ask for
them). One camera at a time, so memory does not grow with their number.
"""

import sys
from functools import cache

import torch
from einops import rearrange
from torch import Tensor

from fourreal.cameras import camera_centers
from fourreal.gaussians import Gaussians
from fourreal.rendering.composite import Composite, exact_products
from fourreal.rendering.harmonics import view_colors
from fourreal.rendering.projection import View, project_gaussians
from fourreal.rendering.tiles import TILE, list_tiles


@cache
def keep_freed_memory() -> None:
    """Once per process: let glibc keep what is freed, for a fifth of the time of an image on a CPU.

    Once a block of nearly 32 MB has been freed, glibc keeps freed memory up to twice its size
    instead of fetching it from the system anew, page by page (mallopt(3)). Other systems have
    another allocator. The block itself is never written to, so it takes no memory.
    """
    if sys.platform == "linux":
        torch.empty(31 * 2**20, dtype=torch.uint8)


def rasterize_with_torch(gaussians: Gaussians, view: View) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the splats of a pixel: colour [C, H, W, 3], alpha and z-depth [C, H, W, 1].

    Neither background nor division by alpha is applied.
    """
    if gaussians.means.device.type == "cpu":
        keep_freed_memory()
    gaussians = gaussians.map(lambda tensor: tensor.float())
    view = view._replace(extrinsics=view.extrinsics.float(), intrinsics=view.intrinsics.float())
    with torch.autocast(gaussians.means.device.type, enabled=False), exact_products():
        images = [rasterize_camera(gaussians, camera) for camera in view.each()]
    color, depth, alpha = torch.stack(images).split([3, 1, 1], dim=-1)
    return color, alpha, depth


def rasterize_camera(gaussians: Gaussians, view: View) -> Tensor:
    """One camera: colour, z-depth and alpha sums [H, W, 5]."""
    splats = project_gaussians(gaussians, view)
    colors = view_colors(gaussians.harmonics, gaussians.means, camera_centers(view.extrinsics))
    depth = splats.depth[None]
    features = torch.cat([splats.geometry, colors.T, depth, torch.ones_like(depth)])
    lists = list_tiles(splats, view.width, view.height)
    tiles = Composite.apply(features, lists)
    image = rearrange(tiles, "(r k) c (i j) -> (r i) (k j) c", r=lists.tiles_y, i=TILE)
    return image[: view.height, : view.width]
