"""The torch rasterizer: exact 3DGS compositing on any device, differentiable, without extensions.

Gradients reach means, quaternions, scales, opacities and harmonics (and cameras that ask for
them). One camera at a time, so memory does not grow with their number.
"""

import torch
from einops import rearrange
from torch import Tensor

from fourreal.cameras import camera_centers
from fourreal.gaussians import Gaussians
from fourreal.rendering.composite import Composite, exact_products
from fourreal.rendering.harmonics import view_colors
from fourreal.rendering.projection import project_gaussians
from fourreal.rendering.tiles import TILE, list_tiles


def rasterize(
    gaussians: Gaussians,
    extrinsics: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
    antialiased: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the splats of a pixel: colour [C, H, W, 3], alpha and z-depth [C, H, W, 1].

    Neither background nor division by alpha is applied.
    """
    gaussians = gaussians.map(lambda tensor: tensor.float())
    with torch.autocast(gaussians.means.device.type, enabled=False), exact_products():
        images = [
            rasterize_view(gaussians, view, camera, width, height, antialiased)
            for view, camera in zip(extrinsics.float(), intrinsics.float())
        ]
    color, depth, alpha = torch.stack(images).split([3, 1, 1], dim=-1)
    return color, alpha, depth


def rasterize_view(
    gaussians: Gaussians,
    extrinsics: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
    antialiased: bool,
) -> Tensor:
    """One camera: colour, z-depth and alpha sums [H, W, 5]."""
    splats = project_gaussians(gaussians, extrinsics, intrinsics, width, height, antialiased)
    colors = view_colors(gaussians.harmonics, gaussians.means, camera_centers(extrinsics))
    depth = splats.depth[None]
    features = torch.cat([splats.geometry, colors.T, depth, torch.ones_like(depth)])
    lists = list_tiles(splats, width, height)
    tiles = Composite.apply(features, lists)
    image = rearrange(tiles, "(r k) c (i j) -> (r i) (k j) c", r=lists.tiles_y, i=TILE)
    return image[:height, :width]
