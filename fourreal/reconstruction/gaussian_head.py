"""Gaussians from dense predictions: the paper's 14 channels, AnySplat's, or none at all.

The paper's head (arXiv 2506.18839, section 4) is a DPT like the depth head; its activations follow
Splatt3R (arXiv 2408.13912). Channels: 3 offset, 1 opacity, 3 scale, 4 quaternion (w, x, y, z),
3 colour residual. Offset and rotation are in the pixel's camera frame and offset and scale are
relative to depth, so that given cameras and a corrected depth scale carry the Gaussians with them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cameras import matrix_to_quaternion, unproject
from ..gaussians import Gaussians, rgb_to_harmonics
from .config import VGGTConfig
from .dense_heads import DenseHead

OFFSET_SHIFT = 6.0  # Splatt3R's: raw offsets below it move the mean by less than the depth itself
MAX_LOG_SCALE = 5.0  # 150 pixels; keeps a diverging step from overflowing

# Splatt3R's gains and biases of the last convolution, per group of channels. Ours differ where the
# meaning does: log scale in pixels starts at half a pixel instead of e^-7 scene units, the rotation
# at the camera's own axes, the colour at the pixel's own.
GROUPS = {
    "offset": (0, 3, 0.001, 0.001),
    "opacity": (3, 4, 1.0, -2.0),
    "scale": (4, 7, 0.00003, -0.7),
    "quaternion": (7, 11, 0.1, 0.0),
    "color": (11, 14, 0.01, 0.0),
}


class GaussianHead(DenseHead):
    """Raw Gaussian parameters per pixel; `decode_gaussians` turns them into Gaussians."""

    def __init__(self, config: VGGTConfig):
        if config.gaussian_head == "anysplat":
            super().__init__(config, config.gaussian_channels, config.dpt_features // 2, True)
        else:
            super().__init__(config, 14, image_shortcut=config.image_shortcut)

    @torch.no_grad()
    def init_weights(self) -> None:
        super().init_weights()
        last: nn.Conv2d = self.scratch.output_conv2[2]
        if last.out_channels != 14:
            return
        for start, end, gain, bias in GROUPS.values():
            nn.init.xavier_uniform_(last.weight[start:end], gain=gain)
            last.bias[start:end] = bias
        last.bias[7] = 1.0  # w


def _camera_to_world(extrinsics: Tensor, quaternions: Tensor) -> Tensor:
    """World quaternions [S, H, W, 4] of unit quaternions in each camera's frame; wxyz."""
    rotation = matrix_to_quaternion(extrinsics[:, :, :3].transpose(-1, -2).detach())
    w1, x1, y1, z1 = rotation[:, None, None].unbind(-1)
    w2, x2, y2, z2 = quaternions.unbind(-1)
    return torch.stack(
        [
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        ],
        dim=-1,
    )


def decode_gaussians(
    raw: Tensor, images: Tensor, depth: Tensor, extrinsics: Tensor, intrinsics: Tensor
) -> Gaussians:
    """The paper head's output of S views at one time as S*H*W Gaussians, in pixel order.

    raw [S, 14, H, W], images [S, 3, H, W] in [0, 1], depth [S, H, W], extrinsics [S, 3, 4],
    intrinsics [S, 3, 3]. Differentiable in raw, depth and cameras (but for the turn of rotations).
    """
    offset, opacity, scale, quaternion, color = raw.movedim(1, -1).split([3, 1, 3, 4, 3], dim=-1)
    # Splatt3R: the direction times e^(n - 6) - e^(-6), written so that n = 0 has a gradient.
    norm = offset.square().sum(-1, keepdim=True).add(1e-12).sqrt()
    offset = offset * (norm.clamp_max(OFFSET_SHIFT).expm1() / norm) * torch.e**-OFFSET_SHIFT
    offset = offset * depth[..., None]
    rotation = extrinsics[:, None, :, :3]  # camera to world is its transpose, rows times it
    means = unproject(depth, extrinsics, intrinsics) + offset @ rotation
    footprint = depth / intrinsics[:, 0, 0, None, None]
    scales = scale.clamp_max(MAX_LOG_SCALE).exp() * footprint[..., None]
    quaternions = _camera_to_world(extrinsics, F.normalize(quaternion, dim=-1))
    harmonics = rgb_to_harmonics(images.movedim(1, -1)) + color[..., None, :]
    return Gaussians(
        means.reshape(-1, 3),
        quaternions.reshape(-1, 4),
        scales.reshape(-1, 3),
        opacity.sigmoid().reshape(-1),
        harmonics.reshape(-1, 1, 3),
    )
