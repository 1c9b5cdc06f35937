"""How still a reconstruction stands: jitter of its cameras, flicker of what does not move."""

from torch import Tensor

from fourreal.cameras import camera_centers

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


def still_pixels(frames: Tensor) -> Tensor:
    """Pixels [V, T - 1, H, W] of frames [V, T, 3, H, W] that stand still between times t and
    t + 1."""
    return (frames[:, 1:] - frames[:, :-1]).abs().amax(2) < STILL


def flicker(frames: Tensor, still: Tensor) -> float:
    """Mean absolute change from one time to the next of pixels that stand still, in 1/255.

    frames [V, T, 3, H, W] in [0, 1]; still [V, T - 1, H, W], see `still_pixels`.
    """
    change = (frames[:, 1:] - frames[:, :-1]).abs().mean(2)
    return float(255 * change[still].mean())
