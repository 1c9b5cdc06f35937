"""From maps to Gaussians: which pixels become Gaussians, and at which times."""

from dataclasses import replace

import torch
from torch import Tensor

from fourreal.devices import give_back_memory
from fourreal.gaussians import Gaussians
from fourreal.parallel import on_each
from fourreal.reconstruction.filters import Filters, keep_pixels, merge_voxels, shown_by_others
from fourreal.reconstruction.gaussian_head import (
    decode_anysplat,
    decode_gaussians,
    gaussians_from_depth,
)
from fourreal.reconstruction.image_fit import Images
from fourreal.reconstruction.maps import Maps
from fourreal.reconstruction.matting import unmixed_grid
from fourreal.reconstruction.split import SplitMasks, StaticSplit, split_view

Cameras = tuple[Tensor, Tensor]  # extrinsics [V, 3, 4], intrinsics [V, 3, 3]


def pixels_to_gaussians(head: str, images: Tensor, maps: Maps, cameras: Cameras) -> Gaussians:
    """Gaussians of all pixels of V views at one time, in pixel order.

    head: "paper", "anysplat" or "none"; images [V, 3, h, w]; maps of that time alone (N = 1), whose
    scales may be one per pixel [1, V, h, w]; cameras of the views in the unit of depth.
    """
    depth = maps.depth[0]
    if maps.raw_gaussians is None:
        return gaussians_from_depth(images, depth, maps.depth_confidence[0], *cameras)
    if head == "anysplat":
        return decode_anysplat(maps.raw_gaussians[0].float(), depth, *cameras, maps.scales[0])
    return decode_gaussians(maps.raw_gaussians[0].float(), images, depth, *cameras)


def emit_gaussians(
    head: str,
    images: Images,
    maps: Maps,
    cameras: Cameras,
    filters: Filters,
    split: StaticSplit | None,
    device: torch.device | None = None,
    filled: Tensor | None = None,
    raw: list[Tensor] | None = None,
) -> tuple[Gaussians, list[Gaussians], list[Tensor]]:
    """The static Gaussians, and those of each time, where the maps are; and how certain the depth
    of each of them is, of the static ones first.

    images [T, V, 3, h, w]; maps of all T times, with depth in the unit of the cameras; `filters`
    choose the pixels, of those in filled [T, V, h, w] only such as no other pixel shows; without
    `split` nothing is static; raw: of a network with a Gaussian head, raw_gaussians [V, C, h, w] of
    each time, which the maps then lack. The list is empty afterwards: they are as large as the
    Gaussians, and leave as these come. Computed on `device` (by default where the maps are) in the
    memory of one time, or of one view where what stands still is found.
    """
    times, home = range(len(maps)), maps.depth.device
    device = device or home
    cameras = cameras[0].to(device), cameras[1].to(device)
    if filters.unmix:
        images, depth = unmixed_grid(images, maps.depth, filters.unmix, device)
        maps = replace(maps, depth=depth)

    def kept(time: int) -> Tensor:
        depth, sure = maps.depth[time].to(device), maps.depth_confidence[time].to(device)
        keep = keep_pixels(images[time].to(device).float(), depth, sure, *cameras, filters)
        if filled is not None:
            keep &= ~shown_by_others(depth, filled[time].to(device), *cameras)
        return keep.to(home)

    keep = torch.stack(on_each(kept, times, device))  # [T, V, h, w]
    voxel = filters.voxel_size
    if voxel:
        voxel *= (maps.depth.median() / cameras[1][:, 0, 0].median()).item()

    sure: list[Tensor] = []

    def finished(images: Tensor, now: Maps, mask: Tensor) -> Gaussians:
        """The Gaussians of one time's pixels in a mask [V, h, w]."""
        now = now.to(device)
        gaussians = pixels_to_gaussians(head, images.to(device).float(), now, cameras)
        chosen = mask.to(device).flatten() & (gaussians.opacities >= filters.min_opacity)
        gaussians, certain = gaussians[chosen], now.depth_confidence.flatten()[chosen]
        if voxel:
            gaussians, certain = merge_voxels(gaussians, voxel, certain)
        sure.append(certain.to(home))
        return gaussians.to(home)

    def at(time: int) -> Maps:
        give_back_memory()
        now = maps[time : time + 1]
        return now if raw is None else replace(now, raw_gaussians=raw.pop(0)[None])

    if split is None:
        dynamic = [finished(images[t], at(t), keep[t]) for t in times]
        nothing = Gaussians.empty(dynamic[0].harmonics.shape[1])
        return nothing, dynamic, [nothing.opacities, *sure]
    color, still, mask, emit = static_layer(images, maps, keep, split, device, raw)
    static = finished(color, still, mask)
    del color, still
    return static, [finished(images[t], at(t), emit[t]) for t in times], sure


def no_gaussians(num_times: int) -> tuple[Gaussians, list[Gaussians], list[Tensor]]:
    """What emit_gaussians gives, of a scene without any."""
    nothing = Gaussians.empty(1)
    return nothing, [nothing] * num_times, [nothing.opacities] * (1 + num_times)


def static_layer(
    images: Images,
    maps: Maps,
    keep: Tensor,
    split: StaticSplit,
    device: torch.device,
    raw: list[Tensor] | None = None,
) -> tuple[Tensor, Maps, Tensor, Tensor]:
    """What stands still in images [T, V, 3, h, w], as if it were one time.

    keep [T, V, h, w]: usable pixels; raw: as of emit_gaussians, kept whole. Each view is split on
    `device`. Returns the still colours
    [V, 3, h, w] and maps (N = 1), where they are (mask [V, h, w]), and the pixels left to each time
    (mask [T, V, h, w]).
    """
    views, home = range(maps.depth.shape[1]), maps.depth.device

    def of_view(view: int) -> SplitMasks:
        frames, depth = images[:, view].to(device).float(), maps.depth[:, view].to(device)
        return split_view(frames, depth, keep[:, view].to(device), split).to(home)

    masks = [of_view(view) for view in views]
    time = torch.stack([m.time for m in masks])  # [V, h, w]

    best = None
    if raw is not None:  # at each pixel's time
        best = torch.zeros_like(raw[0])
        for t, own in enumerate(raw):
            best = torch.where((time == t)[:, None], own, best)

    # The layer's medians are steadier than any one time; where no layer exists the pixel is
    # masked out, whatever its value.
    still = Maps(
        maps.pose_iterations[:1],
        maps.camera_tokens[:1],
        torch.stack([m.depth for m in masks]).nan_to_num(1)[None],
        maps.depth_confidence.gather(0, time[None]),
        maps.scales[time][None],
        None if best is None else best[None],
    )
    color = torch.stack([m.color for m in masks]).nan_to_num(0)
    emit = torch.stack([m.dynamic for m in masks], dim=1)
    return color, still, torch.stack([m.static for m in masks]), emit
