"""How still a reconstruction stands: jitter of its cameras, flicker of what does not move."""

import torch
from torch import Tensor

from fourreal.cameras import camera_centers
from fourreal.reconstruction import Reconstructor
from fourreal.reconstruction.alignment import scale_between
from fourreal.reconstruction.emission import decode
from fourreal.reconstruction.image_fit import ImageFit
from fourreal.rendering import render

STILL = 1.5 / 255  # pixels that change less from one time to the next stand still


def camera_jitter(extrinsics: Tensor) -> float:
    """Standard deviation over time of camera centres, in percent of the rig's size.

    extrinsics [T, V, 3, 4] of views that stand still, in one unit of length. The rig's size is the
    mean distance of the views from the first one; 0 for cameras that never move.
    """
    centers = camera_centers(extrinsics.double())
    size = (centers[:, 1:] - centers[:, :1]).norm(dim=-1).mean().clamp_min(1e-12)
    deviation = (centers - centers[:1]).var(dim=0, correction=0).sum(-1).sqrt().mean()
    return float(100 * deviation / size)


def flicker(frames: Tensor, still: Tensor) -> float:
    """Mean absolute change from one time to the next of pixels that stand still, in 1/255.

    frames [V, T, 3, H, W] in [0, 1]; still [V, T - 1, H, W] bool, between times t and t + 1.
    """
    change = (frames[:, 1:] - frames[:, :-1]).abs().mean(2)
    return float(255 * change[still].mean())


@torch.no_grad()
def score_stability(reconstructor: Reconstructor, frames: Tensor, exact: Tensor) -> dict:
    """Jitter and flicker with camera token replacement and, as `..._without`, with the cameras
    that each time has on its own.

    frames [V, T, 3, H, W] of still cameras are reconstructed, all pixels of every time; exact, of
    the same shape, says which pixels stand still (the frames themselves where they are all there
    is). Everything is rendered from the cameras of the first time.
    """
    model = reconstructor.model
    height, width = frames.shape[-2:]
    fit = ImageFit.to(height, width, model.config.img_size, model.config.patch_size)
    images = fit.images(frames).transpose(0, 1)  # [T, V, 3, h, w]
    num_times = len(images)
    exact = fit.images(exact)
    still = (exact[:, 1:] - exact[:, :-1]).abs().amax(2) < STILL
    found = reconstructor.predict(images.to(reconstructor.device))
    depth, confidence = found.depth.cpu(), found.confidence.cpu()
    own = found.pose_encodings.cpu().float()
    scores = {}
    for name, replaced in (("", True), ("_without", False)):
        encodings = own[:1].expand_as(own) if replaced else own
        extrinsics, intrinsics = reconstructor.cameras(encodings, fit)
        scales = torch.ones(num_times)
        if not model.aggregator.temporal_is_trained():
            for time in range(1, num_times):
                change = (images[time] - images[0]).abs().amax(1)
                sure = confidence[0], confidence[time]
                scales[time] = scale_between(depth[0], depth[time], sure, change)
        # With replacement the cameras are the first time's; its unit is that of all.
        units = torch.ones_like(scales) if replaced else scales
        moved = extrinsics[..., 3:] * units[:, None, None, None]
        extrinsics = torch.cat([extrinsics[..., :3], moved], -1)
        shown = []
        for time in range(num_times):
            raw = None if found.raw is None else found.raw[time].cpu()
            scale = scales[time].expand_as(depth[time])
            gaussians = decode(
                model.config.gaussian_head,
                raw,
                images[time],
                depth[time] * scales[time],
                confidence[time],
                scale,
                (extrinsics[time], intrinsics[time]),
            )
            color = render(gaussians, extrinsics[0], intrinsics[0], fit.width, fit.height).color
            shown.append(color.movedim(-1, 1).clamp(0, 1))
        scores[f"camera_jitter{name}"] = camera_jitter(extrinsics)
        scores[f"flicker{name}"] = flicker(torch.stack(shown, 1), still)
    return scores
