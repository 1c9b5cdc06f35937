"""Gaussians from dense predictions: the paper's 14 channels, AnySplat's, or none at all.

The paper's head (arXiv 2506.18839, section 4) is a DPT like the depth head; its activations follow
Splatt3R (arXiv 2408.13912). Channels: 3 offset, 1 opacity, 3 scale, 4 quaternion (w, x, y, z),
3 colour residual. Offset and rotation are in the pixel's camera frame and offset and scale are
relative to depth, so that given cameras and a corrected depth scale carry the Gaussians with them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourreal.cameras import matrix_to_quaternion, unproject
from fourreal.gaussians import Gaussians, rgb_to_harmonics
from fourreal.reconstruction.config import VGGTConfig
from fourreal.reconstruction.dense_heads import DenseHead, Store

OFFSET_SHIFT = 6.0  # Splatt3R's
# Splatt3R has no limits. At high learning rates Gaussians then jump in front of the cameras or
# inflate; a hard clamp would leave them without gradient, so these limits are smooth.
OFFSET_LIMIT = 4.5  # a mean moves by a fifth of its depth at most
LOG_SCALE_LIMIT = 3.0  # 20 pixels

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
    """Raw Gaussian parameters per pixel; `decode_gaussians` or, with AnySplat's head,
    `decode_anysplat` turns them into Gaussians."""

    def __init__(self, config: VGGTConfig):
        if config.gaussian_head == "anysplat":
            super().__init__(config, config.gaussian_channels, config.dpt_features // 2, True)
        else:
            super().__init__(config, 14, image_shortcut=config.image_shortcut)

    @torch.no_grad()
    def init_weights(self) -> None:
        super().init_weights()
        weight, bias = (
            self.scratch.get_parameter(f"output_conv2.2.{name}") for name in ("weight", "bias")
        )
        if len(bias) != 14:
            return
        for start, end, gain, value in GROUPS.values():
            nn.init.xavier_uniform_(weight[start:end], gain=gain)
            bias[start:end] = value
        bias[7] = 1.0  # w

    def forward(
        self,
        tokens: list[Tensor],
        images: Tensor,
        chunk: int | None = None,
        store: Store = None,
    ) -> Tensor:
        """Raw parameters [B, S, channels, H, W]; for the arguments see `DenseHead.raw_maps`.

        With `store` they are float16, in which a long grid takes half the memory: in float32 they
        are as large as the Gaussians. What is lost is far below what is seen, because no channel
        holds depth.
        """
        dtype = torch.float32 if store is None else torch.float16
        return self.raw_maps(tokens, images, chunk, store, dtype)


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
    held = OFFSET_LIMIT * torch.tanh(norm / OFFSET_LIMIT)
    offset = offset * (held.expm1() / norm) * torch.e**-OFFSET_SHIFT
    offset = offset * depth[..., None]
    rotation = extrinsics[:, None, :, :3]  # camera to world is its transpose, rows times it
    means = unproject(depth, extrinsics, intrinsics) + offset @ rotation
    footprint = depth / intrinsics[:, 0, 0, None, None]
    scales = (LOG_SCALE_LIMIT - F.softplus(LOG_SCALE_LIMIT - scale)).exp() * footprint[..., None]
    quaternions = _camera_to_world(extrinsics, F.normalize(quaternion, dim=-1))
    harmonics = rgb_to_harmonics(images.movedim(1, -1)) + color[..., None, :]
    return Gaussians(
        means.reshape(-1, 3),
        quaternions.reshape(-1, 4),
        scales.reshape(-1, 3),
        opacity.sigmoid().reshape(-1),
        harmonics.reshape(-1, 1, 3),
    )


# AnySplat (arXiv 2505.23716): absolute scales in the scene's unit, at most MAX; harmonics of each
# degree are damped.
ANYSPLAT_SCALE, ANYSPLAT_MAX_SCALE = 0.001, 0.3
ANYSPLAT_DAMPING = (0.1, 0.25)  # 0.1 * 0.25^degree above degree 0


def decode_anysplat(
    raw: Tensor, depth: Tensor, extrinsics: Tensor, intrinsics: Tensor, unit: Tensor | float = 1.0
) -> Gaussians:
    """AnySplat's head output of S views as S*H*W Gaussians, in pixel order.

    raw [S, 9 + 3 (degree + 1)^2, H, W]: opacity, 3 scales, quaternion x y z w, harmonics colour by
    colour, voxel confidence (not used here). `unit` (number or [S, H, W]) is the factor by which
    depth was multiplied since the head ran; the scales follow it.
    """
    raw = raw.movedim(1, -1)
    coefficients = (raw.shape[-1] - 9) // 3
    opacity, scale, quaternion, harmonics, _ = raw.split([1, 3, 4, 3 * coefficients, 1], dim=-1)
    scales = (ANYSPLAT_SCALE * F.softplus(scale)).clamp_max(ANYSPLAT_MAX_SCALE)
    if isinstance(unit, Tensor):
        unit = unit[..., None]
    degrees = torch.arange(coefficients, device=raw.device).add(0.5).sqrt().long()
    damping = torch.where(degrees == 0, 1.0, ANYSPLAT_DAMPING[0] * ANYSPLAT_DAMPING[1] ** degrees)
    harmonics = harmonics.unflatten(-1, (3, coefficients)).transpose(-1, -2)
    return Gaussians(
        unproject(depth, extrinsics, intrinsics).reshape(-1, 3),
        F.normalize(quaternion, dim=-1)[..., [3, 0, 1, 2]].reshape(-1, 4),
        (scales * unit).reshape(-1, 3),
        opacity.sigmoid().reshape(-1),
        (harmonics * damping[:, None]).reshape(-1, coefficients, 3),
    )


def keep_harmonics(raw: Tensor, degree: int) -> Tensor:
    """AnySplat's raw maps [N, V, C, h, w] with harmonics up to a degree only, to save memory."""
    coefficients = (raw.shape[2] - 9) // 3
    kept = min((degree + 1) ** 2, coefficients)
    harmonics = raw[:, :, 8:-1].unflatten(2, (3, coefficients))[:, :, :, :kept]
    return torch.cat([raw[:, :, :8], harmonics.flatten(2, 3), raw[:, :, -1:]], dim=2)


FOOTPRINT = 0.5  # standard deviation in pixels: neighbours close up, detail stays
FULL_OPACITY = 0.95


def gaussians_from_depth(
    images: Tensor, depth: Tensor, confidence: Tensor, extrinsics: Tensor, intrinsics: Tensor
) -> Gaussians:
    """S*H*W Gaussians without any head: round, as large as their pixel, opaque where sure.

    images [S, 3, H, W], depth and confidence [S, H, W], extrinsics [S, 3, 4], intrinsics
    [S, 3, 3]. Opacity falls with the root of confidence below its median.
    """
    scales = FOOTPRINT * depth / intrinsics[:, 0, 0, None, None]
    sure = (confidence / confidence.median().clamp_min(1e-8)).clamp(0, 1).sqrt()
    quaternions = depth.new_zeros(depth.numel(), 4)
    quaternions[:, 0] = 1
    return Gaussians(
        unproject(depth, extrinsics, intrinsics).reshape(-1, 3),
        quaternions,
        scales[..., None].expand(*scales.shape, 3).reshape(-1, 3),
        (FULL_OPACITY * sure).reshape(-1),
        rgb_to_harmonics(images.movedim(1, -1).reshape(-1, 3)),
    )
