"""Known pixels put back into a generated grid, whose colours and sharpness match theirs first.

A video inpainting model does not keep what it was given: kept pixels come back through the video
autoencoder, soft, and their colours drift (the complaint of VACE's users). So after decoding the
colours of each view are brought to those of its known pixels, these are pasted back, softly toward
what was generated, and that is sharpened as far as the given frames are sharp.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.metrics.pixels import gradient_energy
from fourreal.neighborhoods import grown, within_reach
from fourreal.warp import WarpedGrid

NOISE = 0.01  # of colours in [0, 1]: colours that vary less say nothing of a gain
STEPS = 2  # of sharpening, at most: more would draw stairs


@torch.no_grad()
def paste_known(
    generated: Tensor,
    warped: WarpedGrid,
    *,
    feather: int = 15,
    match_colors: bool = True,
    match_sharpness: bool = True,
) -> Tensor:
    """The known pixels of a warped grid in place of those of generated frames [V, T, 3, H, W].

    Frames are in [0, 1]. A known pixel is pasted as it is where nothing is missing within
    `feather` pixels (0 for a hard edge); from there to the border of the known area it fades into
    the generated frame, which is all there is beyond it.

    match_colors: first move the colours of each generated view, by one map for all its times, so
    that they have the mean and the covariance that its known pixels have in the warped grid.

    match_sharpness: sharpen what is generated of a view until the view, known pixels pasted, has
    the gradient energy of the frames that are known whole (the video or photos that the grid was
    made of), see matched_sharpness. Without such frames nothing is sharpened.

    Returns frames [V, T, 3, H, W]. Raises ValueError in one sentence for frames of another shape
    than the warped ones and for a negative feather.
    """
    if generated.shape != warped.frames.shape or warped.missing[:, :, 0].shape != (
        *generated.shape[:2],
        *generated.shape[-2:],
    ):
        raise ValueError(
            f"the generated frames have the shape {tuple(generated.shape)}, the warped ones "
            f"{tuple(warped.frames.shape)} and their mask {tuple(warped.missing.shape)}, but all "
            "must be of one grid: [V, T, 3, H, W], and [V, T, 1, H, W] of the mask."
        )
    if feather < 0:
        raise ValueError(f"feather is {feather} pixels, but must be 0 or more, such as 15.")
    whole = warped.missing.flatten(2).amax(dim=2) <= 0  # cells [V, T]
    aim = gradient_energy(warped.frames[whole]) if match_sharpness and whole.any() else 0.0
    views = []
    for own, frames, missing in zip(generated, warped.frames.to(generated), warped.missing):
        holes = missing.to(own.device) > 0
        known = ~holes[:, 0]
        if match_colors and known.any():
            own = matched_colors(own, own.movedim(1, -1)[known], frames.movedim(1, -1)[known])
        views.append(matched_sharpness(own, frames, feathered(holes, feather), aim))
    return torch.stack(views)


def feathered(holes: Tensor, feather: int) -> Tensor:
    """The weight [N, 1, H, W] of known pixels: 0 in holes [N, 1, H, W], 1 where none is within
    `feather` pixels, and on a straight border a ramp between."""
    reach = max(feather - 1, 0) // 2
    wide = grown(holes[:, 0], reach)[:, None].float()
    return 1 - F.avg_pool2d(wide, 2 * reach + 1, 1, reach, count_include_pad=False)


def matched_colors(frames: Tensor, now: Tensor, wanted: Tensor) -> Tensor:
    """Frames [N, 3, H, W] recoloured by the map that takes colours `now` [P, 3] to the mean and the
    covariance of `wanted` [P, 3], and changes colours least of all maps that do.

    Monge-Kantorovitch: Pitie and Kokaram 2007, "The linear Monge-Kantorovitch linear colour mapping
    for example-based colour transfer", A = C^-1/2 (C^1/2 W C^1/2)^1/2 C^-1/2 for the covariances C
    of now and W of wanted. Both get the covariance of a little noise more: where colours do not
    vary, they are moved and not stretched.
    """
    means = now.double().mean(dim=0), wanted.double().mean(dim=0)
    noise = NOISE**2 * torch.eye(3, dtype=torch.float64, device=now.device)
    first, second = (torch.cov(colors.double().T, correction=0) + noise for colors in (now, wanted))
    root = symmetric_power(first, 0.5)
    inverse = symmetric_power(first, -0.5)
    turn = (inverse @ symmetric_power(root @ second @ root, 0.5) @ inverse).to(frames)
    before, after = (mean.to(frames) for mean in means)
    colors = (frames.movedim(1, -1) - before) @ turn.T + after
    return colors.clamp(0, 1).movedim(-1, 1)


def symmetric_power(matrix: Tensor, power: float) -> Tensor:
    """A power of a symmetric positive matrix [3, 3]."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ (values**power)[:, None].mul(vectors.T)


def matched_sharpness(frames: Tensor, pasted: Tensor, weight: Tensor, aim: float) -> Tensor:
    """Frames [N, 3, H, W] with others pasted over them by weight [N, 1, H, W]; the first are
    sharpened until the result has the gradient energy `aim`, or for STEPS steps; never softened."""
    result = torch.lerp(frames, pasted, weight)
    for _ in range(STEPS):
        if (now := gradient_energy(result)) >= aim:
            break
        sharper = sharpened(frames)
        change = torch.lerp(sharper, pasted, weight) - result
        found, moved = gradient_energy(result + change), gradient_energy(change)
        # Of the frames between, at a share s: now + 2 s slope + s^2 moved, which shall be the aim.
        slope = (found - now - moved) / 2
        root = max(slope**2 + moved * (aim - now), 0) ** 0.5
        share = min(max((root - slope) / max(moved, 1e-12), 0), 1)
        frames, result = torch.lerp(frames, sharper, share), result + share * change
    return result


def sharpened(frames: Tensor) -> Tensor:
    """Frames [N, 3, H, W] in which every channel of a pixel has the least or the greatest value of
    the 3 x 3 pixels around it, whichever is nearer: edges become steep and get no halos.

    Kramer and Bruckner 1975, "Iterations of a non-linear transformation for enhancement of digital
    images".
    """
    planes = frames.flatten(0, 1)
    least, most = within_reach(planes, 1)
    return torch.where(planes - least < most - planes, least, most).view_as(frames)
