"""How references enter the model, what VACE is shown, how strongly text guides, and Wan's
conventions: pure torch.

Paper, section 3; VACE as in diffusers and ComfyUI. The diffusers pipeline, ComfyUI's sampler and
training all use these formulas.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate

from fourreal.grid import num_latent_frames

CONDITIONINGS = ("add", "replace", "mask")
GREY = 0.5  # of what VACE is not shown: 0 for the autoencoder
GUIDANCE_BOTH = 1.0  # paper, supplement: guidance matters little with both references
STEPS_BOTH = 4  # of the embedded model: more score less, as little is left to decide
ROW_GUIDANCE = 2.0  # times the guidance above 1: motions are small without


@dataclass(frozen=True)
class WanConventions:
    """What holds for a public Wan family: how it takes references (one of CONDITIONINGS), the
    longest video it was trained on in latent frames (T_max), and its timestep shift."""

    conditioning: str
    max_frames: int
    shift: float


# By the number of latent channels: Wan 2.1 T2V, and Wan 2.2 TI2V.
WAN_CONVENTIONS = {
    16: WanConventions("add", max_frames=21, shift=3.0),
    48: WanConventions("replace", max_frames=31, shift=5.0),
}


def stage_guidance(
    guidance_scale: float, stages: list[tuple[int, int]], has_first_cell: bool
) -> list[float]:
    """Guidance scale of each of a grid's stages (see sampling_stages).

    guidance_scale for a single stage, and for a column without references; of a column with a known
    first cell half of what is above 1, because strong guidance pulls objects away from that; of a
    row ROW_GUIDANCE times that; 1 for the last stage, which has both references.
    """
    if len(stages) == 1:
        return [guidance_scale]
    above = guidance_scale - 1
    column = 1 + (above / 2 if has_first_cell else above)
    row = 1 + ROW_GUIDANCE * above
    return [*(column if frames == 1 else row for _, frames in stages[:-1]), GUIDANCE_BOTH]


def stage_steps(num_steps: int, num_stages: int) -> list[int]:
    """Sampling steps of each of a grid's stages: num_steps, and at most STEPS_BOTH of the last of
    several, which has both references."""
    if num_stages == 1:
        return [num_steps]
    return [*[num_steps] * (num_stages - 1), min(num_steps, STEPS_BOTH)]


def model_inputs(
    noised: Tensor,
    references: Tensor,
    known: Tensor,
    timestep: Tensor,
    conditioning: str,
    rows: int,
    columns: int,
) -> tuple[Tensor, Tensor]:
    """What the transformer gets: latents [B, C, N, h, w], and timesteps [B] or, one for each token,
    [B, N*rows*columns].

    noised and references are [B, C, N, h, w], known is boolean [B, N] (frames that have a
    reference; on the host in a loop, which then need not wait for the device), timestep is [B], a
    frame has rows x columns tokens. With `add` (paper) the
    references are added to the noised latents; the patch embedding is linear, so this adds their
    patch embeddings. With `replace` (Wan 2.2) known frames are the references and have timestep 0.
    With `mask` (VACE) all frames are noised alike: what is known reaches the network through its
    control.
    """
    if conditioning == "mask":
        return noised, timestep
    any_known = bool(known.any())
    known = known.to(noised.device)
    frames = known[:, None, :, None, None]
    if conditioning == "add":
        return noised + frames * references, timestep
    inputs = torch.where(frames, references, noised)
    if not any_known:
        return inputs, timestep
    per_frame = timestep[:, None] * ~known
    return inputs, per_frame.repeat_interleave(rows * columns, dim=1)


def known_and_missing(video: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The pixels of video [V, T, 3, H, W] in [0, 1] that VACE keeps, and those that it generates
    (mask [V, T, 1, H, W] above 0.5), each with grey in the place of the other."""
    missing = mask > 0.5
    return torch.where(missing, GREY, video), torch.where(missing, video, GREY)


def mask_channels(mask: Tensor, stride: int) -> Tensor:
    """A mask [V, T, 1, H, W] as VACE reads it, [V, s*s, F, H/s, W/s]: each cell's s x s pixels.

    In time a latent frame has the mask of the nearest pixel frame when both are spread evenly (the
    first one that of frame 1).
    """
    pixels = rearrange(mask, "v t 1 (h p) (w q) -> v (p q) t h w", p=stride, q=stride)
    size = (num_latent_frames(mask.shape[1]), *pixels.shape[-2:])
    return interpolate(pixels, size, mode="nearest-exact")


def letterbox(image: Tensor, height: int, width: int) -> Tensor:
    """An image [3, h, w] in [0, 1], as large as fits, in the middle of white [3, height, width]."""
    scale = min(height / image.shape[1], width / image.shape[2])
    size = int(image.shape[1] * scale), int(image.shape[2] * scale)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    white = image.new_ones(3, height, width)
    white[:, top : top + size[0], left : left + size[1]] = interpolate(
        image[None], size, mode="bilinear", align_corners=False
    )[0]
    return white
