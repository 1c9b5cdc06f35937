"""From maps to Gaussians: which pixels become Gaussians, and at which times."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fourreal.gaussians import Gaussians
from fourreal.reconstruction.filters import Filters, keep_pixels, merge_voxels
from fourreal.reconstruction.gaussian_head import (
    decode_anysplat,
    decode_gaussians,
    gaussians_from_depth,
)
from fourreal.reconstruction.split import StaticSplit, split_view


@dataclass
class Maps:
    """Network outputs of N times: pose_encodings [N, V, 9], depth and confidence [N, V, h, w],
    raw Gaussian parameters [N, V, C, h, w] or None."""

    pose_encodings: Tensor
    depth: Tensor
    confidence: Tensor
    raw: Tensor | None


def decode(
    head: str,
    raw: Tensor | None,
    images: Tensor,
    depth: Tensor,
    confidence: Tensor,
    scale: Tensor,
    cameras: tuple[Tensor, Tensor],
) -> Gaussians:
    """Gaussians of all pixels of V views, by the kind of head ("paper", "anysplat" or "none").

    raw [V, C, h, w] or None, images [V, 3, h, w], depth, confidence and scale (what depth was
    multiplied by since the heads ran) [V, h, w], cameras (extrinsics [V, 3, 4], intrinsics
    [V, 3, 3]).
    """
    if head == "none":
        return gaussians_from_depth(images, depth, confidence, *cameras)
    if head == "anysplat":
        return decode_anysplat(raw, depth, *cameras, scale)
    return decode_gaussians(raw, images, depth, *cameras)


def emit_gaussians(
    head: str,
    images: Tensor,
    maps: Maps,
    scales: Tensor,
    cameras: tuple[Tensor, Tensor],
    filters: Filters,
    split: StaticSplit | None,
) -> tuple[Gaussians, list[Gaussians]]:
    """The static Gaussians, and those of each time.

    images [T, V, 3, h, w]; maps of all T times with depth in one unit; scales [T], see `decode`.
    """
    depth, (num_times, num_views) = maps.depth, maps.depth.shape[:2]
    keep = torch.stack(
        [keep_pixels(depth[t], maps.confidence[t], *cameras, filters) for t in range(num_times)]
    )
    voxel = filters.voxel_size * (depth.median() / cameras[1][:, 0, 0].median()).item()

    def finished(gaussians, mask, confidence):
        mask = mask.flatten() & (gaussians.opacities >= filters.min_opacity)
        gaussians = gaussians[mask]
        if voxel:
            gaussians = merge_voxels(gaussians, voxel, confidence.flatten()[mask])
        return gaussians

    static, emit = None, keep
    if split is not None:
        masks = [split_view(images[:, v], depth[:, v], keep[:, v], split) for v in range(num_views)]
        emit = torch.stack([m.dynamic for m in masks], dim=1)
        time = torch.stack([m.time for m in masks])  # [V, h, w]

        def at_time(values):  # [T, V, ..., h, w] at each pixel's time
            index = time.view(1, num_views, *[1] * (values.ndim - 4), *time.shape[1:])
            return values.gather(0, index.expand(1, *values.shape[1:]))[0]

        # The layer's medians are steadier than any one time; where no layer exists the pixel is
        # masked out below, whatever its value.
        color = torch.stack([m.color for m in masks]).nan_to_num(0)
        surface = torch.stack([m.depth for m in masks]).nan_to_num(1)
        raw = None if maps.raw is None else at_time(maps.raw)
        confidence = at_time(maps.confidence)
        every = decode(head, raw, color, surface, confidence, scales[time], cameras)
        static = finished(every, torch.stack([m.static for m in masks]), confidence)

    dynamic = []
    for t in range(num_times):
        raw = None if maps.raw is None else maps.raw[t]
        scale = scales[t].expand_as(depth[t])
        every = decode(head, raw, images[t], depth[t], maps.confidence[t], scale, cameras)
        dynamic.append(finished(every, emit[t], maps.confidence[t]))
    if static is None:
        static = Gaussians.empty(dynamic[0].harmonics.shape[1])
    return static, dynamic
