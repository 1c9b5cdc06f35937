"""Metrics of images and grids of frames, on values in [0, 1]."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.cameras import warp
from fourreal.scenes.describe import COLORS

SEEN_WITHIN = 0.03  # a point is seen where its depth is that of the surface up to this share
SATURATED, BRIGHT = 0.55, 0.18  # least saturation and value of a pixel of a named colour
HUE_WITHIN = 14.0  # degrees
MOVED = 0.06  # a pixel has moved when a channel differs by more than this from time 0


def psnr(a: Tensor, b: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB of images [..., 3, H, W].

    mask [..., H, W] limits it to some pixels; nan when the mask is empty.
    """
    error = (a - b).square()
    if mask is not None:
        error = error.movedim(-3, -1)[mask]
    return float(-10 * torch.log10(error.mean()))


def ssim(a: Tensor, b: Tensor) -> float:
    """Mean structural similarity of images [..., 3, H, W], at least 11 x 11 (torchmetrics)."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = a.flatten(0, -4), b.flatten(0, -4)
    found = structural_similarity_index_measure(a, b, data_range=1.0)
    assert isinstance(found, Tensor)  # and no tuple, which full_image would give
    return float(found)


def moving_region(frames: Tensor) -> Tensor:
    """Mask [V, T, H, W] of the pixels of a grid [V, T, 3, H, W] that differ from their view's time
    0, dilated by 2 pixels."""
    moved = (frames - frames[:, :1]).abs().amax(2) > MOVED
    return F.max_pool2d(moved.float().flatten(0, 1)[:, None], 5, 1, 2)[:, 0].bool().view_as(moved)


def smoothness(frames: Tensor, dim: int) -> float:
    """100 (1 - mean absolute change from frame to frame) of a grid [V, T, 3, H, W], along time
    (dim 1) or views (dim 0): VBench's temporal flickering (arXiv 2311.17982), without its choice of
    still videos. Compare it with that of exact frames."""
    return float(100 * (1 - frames.diff(dim=dim).abs().mean()))


def view_consistency(
    frames: Tensor, depth: Tensor, extrinsics: Tensor, intrinsics: Tensor
) -> float:
    """PSNR in dB between each view and the next one, warped into it by exact geometry.

    frames [V, T, 3, H, W]; depth [V, T, H, W]; extrinsics [V, 3, 4] and intrinsics [V, 3, 3] of
    still cameras. Pixels count whose surface the next view sees too. Exact frames score less than
    infinity, because pixels are interpolated; compare with theirs.
    """
    error, count = 0.0, 0
    for view in range(len(frames) - 1):
        cameras = [(extrinsics[v], intrinsics[v]) for v in (view, view + 1)]
        other = torch.cat([frames[view + 1], depth[view + 1][:, None]], 1)
        warped, inside, distance = warp(other, depth[view], *cameras)
        seen = inside & ((warped[:, 3] / distance - 1).abs() < SEEN_WITHIN)
        error += float(((warped[:, :3] - frames[view]).square().mean(1) * seen).sum())
        count += int(seen.sum())
    return float(-10 * torch.log10(torch.tensor(error / max(count, 1))))


def hue(colors: Tensor, dim: int = -1) -> tuple[Tensor, Tensor, Tensor]:
    """Hue in degrees, saturation and value of colours with their channels in `dim`."""
    most, least = colors.amax(dim), colors.amin(dim)
    red, green, blue = colors.unbind(dim)
    angle = torch.atan2(3**0.5 * (green - blue), 2 * red - green - blue).rad2deg()
    return angle % 360, (most - least) / most.clamp_min(1e-6), most


def color_shares(images: Tensor) -> dict[str, Tensor]:
    """The share of the pixels of images [..., 3, H, W] in each colour that captions name.

    By hue alone, which light and shadow leave as it is; so white, which has none, is left out.
    """
    angle, saturation, value = hue(images, -3)
    vivid = (saturation > SATURATED) & (value > BRIGHT)
    shares = {}
    for name, color in COLORS.items():
        wanted, strength, _ = hue(torch.tensor(color))
        if strength > SATURATED:
            distance = ((angle - wanted + 180) % 360 - 180).abs()
            shares[name] = ((distance < HUE_WITHIN) & vivid).float().mean((-1, -2))
    return shares
