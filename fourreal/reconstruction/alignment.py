"""One scale for all times, and one camera per view.

Every run of VGGT chooses its own unit of length. Where no trained temporal layers agree on one, the
depth of each time is multiplied by one robust factor that matches it to the first time. Given
cameras have a unit of their own: it is found by their baselines, then by the views' colours.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.cameras import camera_centers, scale_intrinsics, warp
from fourreal.reconstruction.image_fit import Images
from fourreal.reconstruction.maps import Maps

CONFIDENT = 0.3  # pixels below this quantile of confidence do not vote
STILL = 0.2  # of the voters, this share whose colour changes least


def scale_between(
    reference: Tensor, depth: Tensor, confidences: tuple[Tensor, Tensor], change: Tensor
) -> float:
    """The factor that brings `depth` to the scale of `reference`.

    All are maps of the same pixels, any shape: two depths (> 0), their confidences, and the
    absolute change of colour between the two times. The median of the log ratio over confident
    pixels that stand still, which neither moving objects nor outliers shift.
    """
    # Each confidence keeps at least 70% of the pixels, so at least 40% are left to vote.
    votes = torch.ones_like(depth, dtype=torch.bool)
    for confidence in confidences:
        votes &= confidence >= quantile(confidence, CONFIDENT)
    votes &= change <= quantile(change[votes], STILL)
    return (reference[votes].log() - depth[votes].log()).median().exp().item()


def scales_over_time(maps: Maps, images: Images, device: torch.device | None = None) -> Tensor:
    """The factor [T] that brings the depth of each time to the scale of the first.

    maps of T times; images [T, V, 3, h, w], what the network saw. Computed on `device` (by default
    where the maps are), one time after the other.
    """
    device = device or maps.depth.device

    def at(time: int) -> tuple[Tensor, Tensor, Tensor]:
        parts = images[time], maps.depth[time], maps.depth_confidence[time]
        return parts[0].to(device), parts[1].to(device), parts[2].to(device)

    first_image, first_depth, first_sure = at(0)
    scales = [1.0]
    for time in range(1, len(maps)):
        image, depth, sure = at(time)
        change = (image - first_image).abs().amax(dim=1)
        scales.append(scale_between(first_depth, depth, (first_sure, sure), change))
    return torch.tensor(scales, device=maps.depth.device)


def quantile(values: Tensor, q: float) -> Tensor:
    """The q-quantile of any number of values (torch.quantile refuses more than 16 million)."""
    flat = values.flatten()
    return flat.kthvalue(1 + round(q * (flat.numel() - 1))).values


def combine_pose_encodings(encodings: Tensor, how: Literal["mean", "median"]) -> Tensor:
    """One pose encoding per view [V, 9]: the mean or median over time of [T, V, 9] in one unit of
    length."""
    sign = (encodings[..., 3:7] * encodings[:1, :, 3:7]).sum(-1, keepdim=True).sign()
    encodings = torch.cat([encodings[..., :3], encodings[..., 3:7] * sign, encodings[..., 7:]], -1)
    return encodings.mean(0) if how == "mean" else encodings.median(0).values


def baseline_scale(given: Tensor, predicted: Tensor) -> float:
    """The unit of given cameras [V, 3, 4] in the unit of predicted ones: median of the distances
    to the first camera. 1 for a single view or cameras in one place."""
    distance, own = (
        (camera_centers(e)[1:] - camera_centers(e)[:1]).norm(dim=-1) for e in (given, predicted)
    )
    ratios = distance[own > 1e-6] / own[own > 1e-6]
    ratios = ratios[ratios > 0]
    return ratios.median().item() if len(ratios) else 1.0


def unit_of_cameras(
    images: Tensor, depth: Tensor, own: Tensor, given: tuple[Tensor, Tensor]
) -> Tensor:
    """The factor (a number) that brings depth [V, h, w] of one time to the unit of given cameras.

    images [V, 3, h, w]; own: extrinsics [V, 3, 4] that the network predicted; given: extrinsics and
    intrinsics [V, 3, 3] in the images' pixels.
    """
    by_baselines = baseline_scale(given[0], own)
    by_colors = photometric_scale(images, depth * by_baselines, *given)
    return torch.tensor(by_baselines * by_colors)


SEARCHED = 0.3  # of log scale, to both sides
SEARCH_SIZE = 128  # pixels along the longer side of views that are compared, at most
DIFFERENT = 0.2  # of colour: what differs more is another thing, and counts like this
CLEARLY, ROUNDING = 0.98, 1e-4  # of the error without a factor; of colour


def shrunk_views(
    images: Tensor, depth: Tensor, intrinsics: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Images [V, 3, h, w], depth [V, h, w] and intrinsics [V, 3, 3] with at most SEARCH_SIZE pixels
    along the longer side: themselves where they have no more."""
    height, width = images.shape[-2:]
    if max(height, width) <= SEARCH_SIZE:
        return images, depth, intrinsics
    factor = SEARCH_SIZE / max(height, width)
    size = [max(round(n * factor), 1) for n in (height, width)]
    images = F.interpolate(images, size, mode="area")
    depth = F.interpolate(depth[None], size, mode="nearest")[0]
    return images, depth, scale_intrinsics(intrinsics, size[1] / width, size[0] / height)


def photometric_scale(
    images: Tensor, depth: Tensor, extrinsics: Tensor, intrinsics: Tensor
) -> float:
    """The factor for depth [V, h, w] with which neighbouring views show the same colours when one
    is warped into the other.

    images [V, 3, h, w] in [0, 1]; extrinsics [V, 3, 4]; intrinsics [V, 3, 3] in their pixels. 1
    where no factor makes the views agree clearly better. The baselines of predicted cameras alone
    are too short by several percent, because the network shrinks what it is unsure about.
    """
    if len(images) < 2:
        return 1.0
    images, depth, intrinsics = shrunk_views(images, depth, intrinsics)
    order = torch.arange(len(images), device=images.device)
    here, there = torch.cat([order[:-1], order[1:]]), torch.cat([order[1:], order[:-1]])
    cameras = [(extrinsics[side], intrinsics[side]) for side in (here, there)]

    def error(log_scale: float) -> float:
        scaled = depth[here] * math.exp(log_scale)
        warped, inside, _ = warp(images[there], scaled, *cameras)
        change = (warped - images[here]).abs().mean(1).clamp_max(DIFFERENT)
        return float((change * inside).sum() / inside.sum().clamp_min(1))

    before = error(0.0)
    step = SEARCHED / 10
    best = min((step * k for k in range(-10, 11)), key=error)
    best = min((best + step * k / 5 for k in range(-5, 6)), key=error)
    return math.exp(best) if error(best) + ROUNDING < CLEARLY * before else 1.0
