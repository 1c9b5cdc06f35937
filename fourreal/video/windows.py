"""Longer videos than a model was made for: overlapping windows over time.

Each window is generated like any grid and starts with the last frames of the previous one. These
are references, its first columns, and are encoded anew; that works because the autoencoder's first
latent frame is one pixel frame whatever came before. Memory is that of one window.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fourreal.embedded.edges import jumps
from fourreal.grid import TEMPORAL_STRIDE, num_latent_frames, reference_mask, sampling_stages
from fourreal.video.conditioning import stage_steps
from fourreal.video.request import GridRequest

FADE = (0.8, 0.6, 0.4, 0.2)  # of a jump that the first frames of a window take


def time_windows(num_frames: int, window: int, overlap: int) -> list[tuple[int, int]]:
    """Windows (start, stop) of about equal length that cover num_frames latent frames.

    None is longer than `window`; each begins `overlap` latent frames before the end of the last.
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


@dataclass(frozen=True)
class Window:
    """Latent frames start to stop (exclusive) of a grid.

    known [V, F]: the cells that references show. stages: sizes (views, frames) of the grids that
    are sampled one after the other, the last of which is the window itself.
    """

    start: int
    stop: int
    known: Tensor
    stages: list[tuple[int, int]]

    @property
    def first_frame(self) -> int:
        """Its first pixel frame."""
        return TEMPORAL_STRIDE * self.start

    @property
    def end_frame(self) -> int:
        """The pixel frame after its last one."""
        return TEMPORAL_STRIDE * (self.stop - 1) + 1

    def num_steps(self, asked: int, conditioning: str) -> int:
        """Denoising steps over all its stages (see stage_steps; a VACE takes as many in each)."""
        vace = conditioning == "mask"
        return asked * len(self.stages) if vace else sum(stage_steps(asked, len(self.stages)))


def whole_cells(mask: Tensor) -> Tensor:
    """Boolean [V, F]: the latent frames of which a mask [V, T, 1, H, W], above 0.5 where to
    generate, has no pixel."""
    known = ~(mask > 0.5).flatten(2).any(dim=2)
    first, rest = known[:, :1], known[:, 1:].unflatten(1, (-1, TEMPORAL_STRIDE)).all(dim=2)
    return torch.cat([first, rest], dim=1)


def plan_windows(request: GridRequest, max_frames: int, staged: bool) -> list[Window]:
    """The windows of a request that check has passed, for a model of max_frames latent frames.

    Staged windows sample the references that are missing first (sampling_stages).
    """
    overlap = num_latent_frames(request.window_overlap)
    cuts = time_windows(
        num_latent_frames(request.num_frames), request.window_length(max_frames), overlap
    )
    windows = []
    for start, stop in cuts:
        shown = overlap if start else int(request.freeze_time is not None)
        known = reference_mask(
            request.num_views, stop - start, request.fixed_view is not None, shown
        )
        if start == 0 and request.image is not None:
            known[0, 0] = True
        if request.mask is not None:
            known |= whole_cells(request.mask)[:, start:stop]
        stages = sampling_stages(known) if staged else [(request.num_views, stop - start)]
        windows.append(Window(start, stop, known, stages))
    return windows


class JoinedFrames:
    """The frames of a grid, filled window by window: joints fade, and the references stay as they
    were given.

    frames [V, T, 3, H, W] in [0, 1] on the CPU, of which the first `done` times are filled.
    """

    def __init__(self, request: GridRequest):
        self.request = request
        self.frames = torch.empty(
            request.num_views, request.num_frames, 3, request.height, request.width
        )
        self.done = 0

    def next_columns(self) -> Tensor | None:
        """The first columns [V, n, 3, H, W] of the next window: the freeze-time reference, if
        there is one, and after that the end of the window before."""
        if self.done:
            return self.frames[:, self.done - self.request.window_overlap : self.done]
        freeze_time = self.request.freeze_time
        return None if freeze_time is None else freeze_time[:, None]

    def add(self, window: Window, views: Iterable[Tensor]) -> None:
        """Append what is new of the window's decoded views, each [T, 3, H, W] in [0, 1]."""
        request, frames, joint, end = self.request, self.frames, self.done, window.end_frame
        for view, decoded in enumerate(views):
            frames[view, joint:end] = decoded[joint - window.first_frame :]
        if joint:
            frames[:, joint : joint + len(FADE)] = fade_joint(frames, joint)
        elif request.freeze_time is not None:
            frames[:, 0] = request.freeze_time.to(frames)
        elif request.image is not None:
            frames[0, 0] = request.image.to(frames)
        if request.fixed_view is not None:
            frames[0, :end] = request.fixed_view[:end].to(frames)
        self.done = end
