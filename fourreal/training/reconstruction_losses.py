"""What the reconstructor is trained for: exact geometry, and views that it did not see.

Geometry is VGGT's (arXiv 2503.11651, section 3.4), views are those of 4Real-Video-V2 (paper,
section 4): the Gaussians of some views, rendered from others.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourreal.data.posed import Sample, visible_from
from fourreal.metrics.lpips import Lpips
from fourreal.metrics.pixels import import_torchmetrics
from fourreal.reconstruction import Maps
from fourreal.reconstruction.alignment import baseline_scale
from fourreal.reconstruction.camera_head import cameras_to_pose_encoding, pose_encoding_to_cameras
from fourreal.reconstruction.gaussian_head import decode_gaussians
from fourreal.rendering import render

CAMERA_DELTA = 0.005  # of pose encodings: half a degree
LPIPS_WEIGHT, SSIM_WEIGHT = 0.5, 0.02  # as large as the squared error that is left by then


def geometry_loss(maps: Maps, sample: Sample) -> dict[str, Tensor]:
    """VGGT's depth and camera losses on exact geometry: the "loss", and the mean errors.

    maps of B * T times of a sample whose depth is known. Depth: relative error weighted by
    confidence, and the error of its gradients; cameras: Huber on the pose encodings of all
    iterations, later ones counting more. Errors count as they are, not squared, down to
    CAMERA_DELTA: the squares of a few degrees hardly pull.
    """
    assert sample.depth is not None
    height, width = sample.depth.shape[-2:]
    exact = sample.depth.flatten(0, 1)
    relative = torch.log(maps.depth.clamp_min(1e-4)) - torch.log(exact)
    error, confidence = relative.abs(), maps.depth_confidence
    slope = (relative.diff(dim=-1).abs().mean() + relative.diff(dim=-2).abs().mean()) / 2
    depth = (confidence * error - 0.05 * torch.log(confidence)).mean() + slope
    poses = cameras_to_pose_encoding(sample.extrinsics, sample.intrinsics, height, width)
    poses = poses.repeat_interleave(sample.depth.shape[1], 0)
    camera = torch.zeros((), device=poses.device)
    for found in maps.pose_iterations.unbind(2):
        camera = 0.6 * camera + F.huber_loss(found, poses, delta=CAMERA_DELTA) / CAMERA_DELTA
    return {
        "loss": depth + 5 * camera,
        "depth_error": error.detach().mean(),
        "camera_error": (maps.pose_encodings - poses).detach().abs().mean(),
    }


def fitted_unit(maps: Maps, sample: Sample, inputs: list[int]) -> Tensor:
    """The network's unit of length in the sample's, per scene [B].

    From depth of the input views where it is known, else from the distances between their cameras.
    """
    times = sample.frames.shape[1]
    if sample.depth is not None:
        ratio = sample.depth[:, :, inputs] / maps.depth.unflatten(0, (-1, times))
        return ratio.flatten(1).median(dim=1).values.detach()
    height, width = sample.frames.shape[-2:]
    first = maps.pose_encodings.unflatten(0, (-1, times))[:, 0]
    own, _ = pose_encoding_to_cameras(first, height, width)
    scales = [baseline_scale(e[inputs], o) for e, o in zip(sample.extrinsics, own.detach().float())]
    return torch.tensor(scales, device=sample.frames.device)


def render_targets(
    maps: Maps, sample: Sample, seen: Sample, inputs: list[int]
) -> tuple[Tensor, Tensor]:
    """Every view rendered from the Gaussians of the input views, and what it should show.

    Both [B * T * V, 3, H, W], as large as the sample's frames, which may be larger than those of
    `seen`, the same sample at the size of the maps. The exact cameras are used for unprojecting and
    for rendering, in the unit of the predicted depth (see `fitted_unit`).
    """
    assert maps.raw_gaussians is not None  # of the paper's head, see start_model
    times, (height, width) = sample.frames.shape[1], sample.frames.shape[-2:]
    unit = fitted_unit(maps, seen, inputs)
    rendered = []
    for i in range(len(maps)):
        scene, time = divmod(i, times)
        extrinsics, intrinsics = sample.extrinsics[scene], sample.intrinsics[scene]
        extrinsics = torch.cat([extrinsics[..., :3], extrinsics[..., 3:] / unit[scene]], -1)
        gaussians = decode_gaussians(
            maps.raw_gaussians[i].float(),
            seen.frames[scene, time, inputs],
            maps.depth[i].float(),
            extrinsics[inputs],
            seen.intrinsics[scene, inputs],
        )
        view = render(gaussians, extrinsics, intrinsics, width, height)
        rendered.append(view.color.movedim(-1, 1))
    return torch.cat(rendered), sample.frames.flatten(0, 2)


def image_loss(
    rendered: Tensor, wanted: Tensor, visible: Tensor, perceptual: float, lpips: Lpips | None
) -> dict[str, Tensor]:
    """MSE over visible pixels [N, H, W] of images [N, 3, H, W], plus `perceptual` (0 to 1) times
    0.5 LPIPS, or 0.02 (1 - SSIM) where LPIPS' weights are not there (paper, section 4)."""
    # What no input saw is not to be guessed: there the target stands in for the rendering.
    shown = torch.where(visible[:, None], rendered, wanted)
    mse = (shown - wanted).square().sum() / (3 * visible.sum()).clamp_min(1)
    loss = mse
    if perceptual and lpips is not None:
        loss = loss + perceptual * LPIPS_WEIGHT * lpips(shown, wanted)
    elif perceptual:
        ssim = import_torchmetrics().structural_similarity_index_measure
        likeness = cast(Tensor, ssim(shown, wanted, data_range=1.0))
        loss = loss + perceptual * SSIM_WEIGHT * (1 - likeness)
    return {"loss": loss, "psnr": -10 * torch.log10(mse.detach())}


def novel_view_loss(
    model: nn.Module,
    sample: Sample,
    inputs: list[int],
    *,
    size: int | None = None,
    perceptual: float = 1.0,
    lpips: Lpips | None = None,
    geometry: float = 0.0,
    temporal: bool = True,
    joined: int | None = None,
) -> dict[str, Tensor]:
    """`image_loss` of every view of the sample from Gaussians of the input views only, over the
    pixels that some input view saw, plus `geometry` times `geometry_loss` of the input views where
    depth is known. The model sees the frames at `size` pixels (their own by default), with its
    temporal layers or without. joined: so many of the sample's scenes are the times of one scene,
    each with cameras of its own (see `Sample.by_time`)."""
    seen = sample.resized(size or sample.frames.shape[-1])
    images = seen.frames[:, :, inputs].flatten(0, 1)
    times = joined or sample.frames.shape[1]
    maps = model(images, times, points=False, temporal=temporal, camera_replacement=not joined)
    rendered, wanted = render_targets(maps, sample, seen, inputs)
    visible = visible_from(sample, inputs).flatten(0, 2)
    losses = image_loss(rendered, wanted, visible, perceptual, lpips)
    if geometry and seen.depth is not None:
        found = geometry_loss(maps, seen.of_views(inputs))
        losses["loss"] = losses["loss"] + geometry * found.pop("loss")
        losses |= found
    return losses
