"""3D Gaussians seen by one camera: EWA splatting (Zwicker et al. 2001) as 3DGS and gsplat do it.

The 2D covariance [[A, B], [B, C]] is never inverted as such: for a long thin splat its determinant
is the small difference of large numbers. Instead the quadratic form is kept as a sum of squares,

    d^T Sigma^-1 d = (p dx)^2 + (q dy - h dx)^2,   p = A^-1/2,  q = (A / det)^1/2,  h = q B / A,

and the determinant is computed from the 2x2 minors of the projected axes, which do not cancel.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fourreal.cameras import quaternion_to_matrix
from fourreal.gaussians import Gaussians

NEAR = 0.01  # z-depth below which a Gaussian is not drawn
BLUR = 0.3  # variance added to each splat, px^2: the width of the pixel itself
ALPHA_CUT = 1.0 / 255.0  # contributions below this are skipped
FRUSTUM_MARGIN = 0.3  # how far outside the image the linearisation follows the ray, in tan(fov / 2)


class View(NamedTuple):
    """What an image shows: its cameras, its size and how small splats are drawn.

    extrinsics [C, 3, 4] (world to camera, OpenCV) and intrinsics [C, 3, 3] (pixels of a width x
    height image) of C cameras, or [3, 4] and [3, 3] of one. antialiased: scale opacities by
    sqrt(det Sigma / det (Sigma + BLUR)), which keeps the brightness of splats smaller than a pixel
    (Mip-Splatting, Yu et al. 2024).
    """

    extrinsics: Tensor
    intrinsics: Tensor
    width: int
    height: int
    antialiased: bool = False

    def each(self) -> "list[View]":
        """The same view, a camera at a time."""
        cameras = zip(self.extrinsics, self.intrinsics)
        return [self._replace(extrinsics=e, intrinsics=i) for e, i in cameras]


@dataclass
class Splats:
    """N projected Gaussians.

    geometry [6, N]: centre x, y (px), p, h, q (1/px, see above) and log opacity; depth [N]:
    z in the camera; radius [2, N]: half the bounding box where alpha >= 1/255 (px), not
    differentiable; visible [N]: False for those behind the near plane or too faint.
    """

    geometry: Tensor
    depth: Tensor
    radius: Tensor
    visible: Tensor


def project_gaussians(gaussians: Gaussians, view: View) -> Splats:
    """The Gaussians as one camera sees them (extrinsics [3, 4], intrinsics [3, 3])."""
    intrinsics = view.intrinsics
    rotation, translation = view.extrinsics[:, :3], view.extrinsics[:, 3:]
    x, y, z = rotation @ gaussians.means.T + translation
    inverse = 1.0 / z.clamp_min(NEAR)
    slope_x, slope_y = x * inverse, y * inverse
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]

    # The three axes of each Gaussian in the camera, [3 (x, y, z), 3 (axis), N].
    quaternions = gaussians.quaternions.T.contiguous().T  # one component after another: faster
    axes = quaternion_to_matrix(quaternions).permute(1, 2, 0) * gaussians.scales.T
    axes = (rotation @ axes.reshape(3, -1)).view_as(axes)
    # Their images. Far off screen the linearisation explodes, so its slope is held there.
    image_x = fx * inverse * (axes[0] - held_slope(slope_x, fx, cx, view.width) * axes[2])
    image_y = fy * inverse * (axes[1] - held_slope(slope_y, fy, cy, view.height) * axes[2])

    variance_x = image_x.square().sum(0) + BLUR  # A
    variance_y = image_y.square().sum(0) + BLUR  # C
    p = variance_x.rsqrt()
    unit_x = image_x * p
    minors = torch.linalg.cross(unit_x, image_y, dim=0).square().sum(0)
    # det / A = minors + BLUR (A - BLUR + C) / A
    q = (minors + BLUR * (unit_x.square().sum(0) + variance_y * p.square())).rsqrt()
    h = q * p * (unit_x * image_y).sum(0)

    opacities = gaussians.opacities
    if view.antialiased:  # det Sigma / det (Sigma + BLUR); the floor keeps the root differentiable
        opacities = opacities * (minors.clamp_min(1e-20).sqrt() * q)
    # The floor keeps the gradient of an invisible Gaussian finite; it is not drawn.
    log_opacity = opacities.clamp_min(ALPHA_CUT).log()
    geometry = torch.stack([fx * slope_x + cx, fy * slope_y + cy, p, h, q, log_opacity])
    with torch.no_grad():
        extent = (2.0 * (opacities / ALPHA_CUT).clamp_min(1.0).log()).sqrt()
        radius = extent * torch.stack([variance_x, variance_y]).sqrt()
        visible = (z >= NEAR) & (opacities >= ALPHA_CUT) & radius.isfinite().all(0)
    return Splats(geometry, z, radius, visible)


def held_slope(slope: Tensor, focal: Tensor, center: Tensor, size: int) -> Tensor:
    """x/z (or y/z) [N], held inside the image widened by FRUSTUM_MARGIN on both sides."""
    margin = FRUSTUM_MARGIN * 0.5 * size
    return slope.clamp(-(center + margin) / focal, (size - center + margin) / focal)
