"""Longer videos than a model was made for: windows over time, each begun by the last one's end.

A window is generated like any grid. Its first columns are references: the last frames of the window
before it, encoded anew, which works because the autoencoder's first latent frame is one pixel frame
whatever came before. Memory is that of one window.
"""

import torch
from torch import Tensor

from fourreal.embedded.edges import jumps

FADE = (0.8, 0.6, 0.4, 0.2)  # of a jump that the first frames of a window take


def time_windows(num_frames: int, window: int, overlap: int) -> list[tuple[int, int]]:
    """Windows (start, stop) of about equal length that cover num_frames latent frames.

    None is longer than `window`; each begins `overlap` latent frames before the end of the last.
    Pixel frames of a window are 4 start to 4 (stop - 1), both included.
    """
    if num_frames <= window:
        return [(0, num_frames)]
    new = num_frames - overlap
    count = -(-new // (window - overlap))
    stops = [overlap + new * (i + 1) // count for i in range(count)]
    return [(stop - overlap, end) for stop, end in zip([overlap, *stops], stops)]


def fade_joint(frames: Tensor, joint: int) -> Tensor:
    """The first frames [V, 4, 3, H, W] of a window that begins at frame `joint` (2 to T - 4) of
    frames [V, T, 3, H, W] in [0, 1], with the jump there spread over them."""
    values = frames[:, joint - 2 : joint + len(FADE)].transpose(0, 1)
    jump = jumps(values, torch.tensor([2], device=frames.device))
    shares = frames.new_tensor(FADE).view(-1, 1, 1, 1, 1)
    return (values[2:] - shares * jump).clamp(0, 1).transpose(0, 1)
