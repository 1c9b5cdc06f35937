"""Image metrics on values in [0, 1]."""

import torch
from torch import Tensor


def psnr(a: Tensor, b: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB of images [..., 3, H, W].

    mask [..., H, W] limits it to some pixels; nan when the mask is empty.
    """
    error = (a - b).square()
    if mask is not None:
        error = error.movedim(-3, -1)[mask]
    return float(-10 * torch.log10(error.mean()))
