"""MOGE_GEOMETRY and DA3_GEOMETRY, the depth that core's nodes predict, as maps and cameras.

Both are dicts of tensors for N images: see the heads of core's nodes_moge.py and
nodes_depth_anything_3.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fourreal.cameras import scale_intrinsics

SKY = 0.5  # probability above which core's own nodes take a pixel for sky


@dataclass
class PredictedDepth:
    """Depth [N, H, W], where it is sky or unknown [N, H, W], of the cameras what is known,
    intrinsics [N, 3, 3] in pixels of H x W and extrinsics [N, 3, 4], and a reconstructor's
    confidence in its depth [N, H, W]."""

    depth: Tensor
    sky: Tensor
    intrinsics: Tensor | None = None
    extrinsics: Tensor | None = None
    confidence: Tensor | None = None


def predicted_depth(geometry: dict) -> PredictedDepth:
    """The maps and cameras of a MOGE_GEOMETRY or a DA3_GEOMETRY, which alone has a mode.

    Raises ValueError for a geometry without depth and for that of a panorama.
    """
    if "depth" not in geometry:
        raise ValueError("the geometry holds no depth; connect Run MoGe or Depth Anything 3.")
    return from_da3(geometry) if "mode" in geometry else from_moge(geometry)


def from_moge(geometry: dict) -> PredictedDepth:
    """MoGe's intrinsics are in widths and heights of the image, which have no shift of half a
    pixel; what its mask leaves out is sky or unknown, at infinity."""
    if "intrinsics" not in geometry:
        raise ValueError(
            "this MOGE_GEOMETRY is of a panorama, but a scene needs images of a camera; use Run "
            "MoGe Inference."
        )
    depth = geometry["depth"].float().cpu()
    sky = depth.isinf()
    if "mask" in geometry:
        sky |= ~geometry["mask"].bool().cpu()
    height, width = depth.shape[-2:]
    return PredictedDepth(
        depth, sky, scale_intrinsics(geometry["intrinsics"].float().cpu(), width, height)
    )


def from_da3(geometry: dict) -> PredictedDepth:
    """Depth Anything 3 has cameras where it saw several views at once. Its intrinsics are in pixels
    of what the network saw, a resized image, whose centre the principal point is."""
    depth = geometry["depth"].float().cpu()
    sky = geometry["sky"].cpu() > SKY if "sky" in geometry else torch.zeros_like(depth).bool()
    intrinsics = geometry["intrinsics"][0].float().cpu() if "intrinsics" in geometry else None
    if intrinsics is None or not (intrinsics[:, :2, 2] > 0).all():  # core's stand-in: identities
        return PredictedDepth(depth, sky)
    centre = torch.tensor([depth.shape[-1] / 2, depth.shape[-2] / 2])
    intrinsics = (
        intrinsics
        * torch.cat([centre / intrinsics[:, :2, 2], torch.ones(len(intrinsics), 1)], dim=1)[
            :, :, None
        ]
    )
    return PredictedDepth(depth, sky, intrinsics, geometry["extrinsics"][0, :, :3].float().cpu())
