"""How references enter the model, how strongly text guides, and Wan's conventions: pure torch.

Paper, section 3; used alike by the diffusers pipeline and by ComfyUI's sampler.
"""

import torch
from torch import Tensor

# Of Wan 2.1 (16 latent channels) and Wan 2.2 TI2V (48): the longest video it was trained on in
# latent frames, how it takes references, and its timestep shift.
WAN_DEFAULTS = {
    16: {"max_frames": 21, "conditioning": "add", "shift": 3.0},
    48: {"max_frames": 31, "conditioning": "replace", "shift": 5.0},
}
CONDITIONINGS = ("add", "replace")
GUIDANCE_BOTH = 1.0  # paper, supplement: guidance matters little with both references


def stage_guidance(guidance_scale: float, num_stages: int, has_first_cell: bool) -> list[float]:
    """Guidance scale of each of the sampling_stages of a grid: as given for a stage alone and for
    one without any reference, GUIDANCE_BOTH for the last, which has both, and halfway between for
    those with a first cell: text that leads away from it changes shapes and colours over time.
    """
    if num_stages == 1:
        return [guidance_scale]
    halfway = (guidance_scale + GUIDANCE_BOTH) / 2
    first = halfway if has_first_cell else guidance_scale
    return [first, *[halfway] * (num_stages - 2), GUIDANCE_BOTH]


def model_inputs(
    noised: Tensor,
    references: Tensor,
    known: Tensor,
    timestep: Tensor,
    conditioning: str,
    rows: int,
    columns: int | None = None,
) -> tuple[Tensor, Tensor]:
    """What the transformer gets: latents [B, C, N, h, w], timesteps [B] or [B, N*rows*columns].

    noised and references are [B, C, N, h, w], known is [B, N] (cells that have a reference),
    timestep is [B], rows x columns are the tokens of a frame. add (paper): references are added to
    the noised latents, which adds their patch embeddings, the embedding being linear. replace (Wan
    2.2): known cells are the references and have timestep 0.
    """
    cells = known[:, None, :, None, None]
    if conditioning == "add":
        return noised + cells * references, timestep
    inputs = torch.where(cells, references, noised)
    if not known.any():
        return inputs, timestep
    per_frame = timestep[:, None] * ~known
    return inputs, per_frame.repeat_interleave(rows * (columns or rows), dim=1)
