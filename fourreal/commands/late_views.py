"""Whether one's own videos began together: told before they are reconstructed."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from fourreal.commands.results import progress_bar
from fourreal.reconstruction import Reconstructor, grid_of_points
from fourreal.reconstruction.synchrony import frame_offsets
from fourreal.reconstruction.tracking import num_sequences

TIMES, ROWS = 32, 24  # of each view that are looked at, and of points that are followed
FEWEST = 8  # times that offsets can be told from

logger = logging.getLogger(__name__)


def seconds_late(reconstructor: Reconstructor, frames: Tensor, rate: float) -> list[float]:
    """By how many seconds each view of frames [V, T, 3, H, W] at `rate` frames per second seems to
    show the same moments later than the first, to about a 32nd of their length; 0 where the
    reconstructor cannot tell."""
    step = math.ceil(frames.shape[1] / TIMES)
    some = frames[:, ::step]
    num_views, num_times = some.shape[:2]
    head, fit = reconstructor.track_head, reconstructor.fit(frames)
    able = head is not None and min(fit.height, fit.width) >= head.smallest_side
    if not able or num_views == 1 or num_times < FEWEST:
        return [0.0] * num_views
    points = grid_of_points(ROWS, *frames.shape[-2:])
    with progress_bar("comparing clocks", num_sequences(num_views * num_times)) as progress:
        tracks = reconstructor.track(some, points, time=num_times // 2, progress=progress)
    offsets = frame_offsets(tracks, min(frames.shape[-2:]))
    return [(offset or 0) * step / rate for offset in offsets]


def tell_late_views(
    reconstructor: Reconstructor,
    frames: Tensor,
    rate: float,
    files: Sequence[Path],
    offsets: Sequence[float] | None,
) -> None:
    """Warn in one sentence of views that do not show the same moments, with the offsets to read the
    files with; `offsets` are those that they were read with."""
    late = seconds_late(reconstructor, frames, rate)
    others = [
        f"{file} {abs(by):.2f} s {'later' if by > 0 else 'earlier'}"
        for file, by in zip(files, late)
        if by
    ]
    if others:
        better = [had + by for had, by in zip(offsets or [0.0] * len(late), late)]
        logger.warning(
            "the cameras seem not to have started together: what %s shows comes in %s; if that is "
            "so, stop and run again with --offsets %s.",
            files[0],
            ", in ".join(others),
            " ".join(f"{seconds:.3g}" for seconds in better),
        )
