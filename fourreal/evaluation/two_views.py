"""Reconstructions from two views of each time, the hardest case that cameras are predicted for:
here camera token replacement and temporal attention have most to give (paper, section 5.3)."""

import torch
from torch import Tensor

from fourreal.cameras import aligned_cameras
from fourreal.evaluation.evaluate_reconstruction import drawn_views
from fourreal.metrics.pixels import mean_psnr, moving_region, ssim
from fourreal.metrics.stability import flicker, still_pixels
from fourreal.reconstruction import Reconstructor
from fourreal.reconstruction.alignment import scales_over_time
from fourreal.reconstruction.pixels_to_gaussians import pixels_to_gaussians

Cameras = tuple[Tensor, Tensor]  # extrinsics and intrinsics


@torch.no_grad()
def score_pairs(
    reconstructor: Reconstructor, frames: Tensor, pairs: list[tuple[int, int]], replaced: bool
) -> dict[str, float]:
    """Reconstruct frames [V, T, 3, H, W] from the views pairs[t] of each time, all times together,
    and render the views between each pair.

    replaced: with camera token replacement, which needs one pair for all times; else each time has
    its own cameras. The cameras of the views between come from a prediction of all views of the
    first time, brought into the world that the pair's own cameras span: of the first time, or where
    pairs differ of each time. flicker: only where all pairs are one.
    """
    between = [list(range(first + 1, second)) for first, second in pairs]
    still = len(set(pairs)) == 1
    wanted = torch.stack([frames[own, time] for time, own in enumerate(between)], 1)
    moving = moving_region(frames)
    views = draw_between(reconstructor, frames, pairs, between, replaced)
    region = torch.stack([moving[own, time] for time, own in enumerate(between)], 1)
    scores = {
        "held_out_psnr": mean_psnr(views, wanted),
        "held_out_psnr_moving": mean_psnr(views, wanted, region),
        "held_out_ssim": ssim(views, wanted),
    }
    return scores | ({"flicker": flicker(views, still_pixels(wanted))} if still else {})


def draw_between(
    reconstructor: Reconstructor,
    frames: Tensor,
    pairs: list[tuple[int, int]],
    between: list[list[int]],
    replaced: bool,
) -> Tensor:
    """The views between[t] of every time [N, T, 3, H, W], as score_pairs describes it."""
    still, device = len(set(pairs)) == 1, reconstructor.device
    fit = reconstructor.fit(frames)
    seen = torch.stack([frames[list(pair), time] for time, pair in enumerate(pairs)])
    images = fit.images(seen)  # [T, 2, 3, h, w]
    maps = reconstructor.predict(images, camera_replacement=replaced)
    if still and not reconstructor.model.aggregator.temporal_is_trained():
        maps = maps.scaled(scales_over_time(maps, images, device))
    encodings = maps.pose_encodings
    if not replaced:  # replaced cameras are in the unit of the first time
        moved = encodings[..., :3] * maps.scales[:, None, None]
        encodings = torch.cat([moved, encodings[..., 3:]], -1)
    extrinsics, intrinsics = reconstructor.cameras(encodings, fit)
    joint, lenses = (part[0] for part in reconstructor.predict_cameras(frames[:, :1]))
    head, views = reconstructor.model.config.gaussian_head, []
    for time, (pair, own) in enumerate(zip(pairs, between)):
        cameras = extrinsics[time].to(device), intrinsics[time].to(device)
        gaussians = pixels_to_gaussians(
            head, images[time].to(device), maps[time : time + 1], cameras
        )
        anchor = extrinsics[0 if still else time]
        target = aligned_cameras(joint[own], joint[list(pair)], anchor)
        views.append(drawn_views(gaussians, (target, lenses[own]), frames, 1))
    return torch.stack(views, 1)
