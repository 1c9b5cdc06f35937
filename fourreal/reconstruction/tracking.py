"""Points of one frame in all frames of a grid: VGGT as a tracker (arXiv 2503.11651, section 3.3).

The frame that the points were given in is the first of the network's sequence, and the other frames
follow it in any order: the network matches what it sees and knows of no time. So frames of other
views are followed like frames of other times, and a long grid goes through in several sequences.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from fourreal.files.json_files import JsonValue
from fourreal.reconstruction.aggregator import Aggregator
from fourreal.reconstruction.image_fit import ImageFit
from fourreal.reconstruction.track_head import TrackHead

SEQUENCE = 32  # frames that go through the network together, beside that of the points
HALF_PIXEL = 0.5  # VGGT counts from the centre of the first pixel, this project from its corner


class Tracks(NamedTuple):
    """Where N points are in a grid, on the CPU.

    positions [V, T, N, 2]: (x, y) in pixels of the frames, the first pixel's centre being at
    (0.5, 0.5); they may lie outside. visibility [V, T, N]: the probability that nothing hides the
    point. confidence [V, T, N] in 0..1: whether the position is to be trusted.
    """

    positions: Tensor
    visibility: Tensor
    confidence: Tensor


def check_points(points: Tensor, frames: Tensor, view: int, time: int) -> None:
    """Raise ValueError unless points are [N, 2] inside frame (view, time) of frames
    [V, T, 3, H, W]."""
    num_views, num_times, _, height, width = frames.shape
    for name, value, count in (("view", view, num_views), ("time", time, num_times)):
        if not 0 <= value < count:
            raise ValueError(
                f"{name} is {value}, but the grid has {count} {name}s; give one from 0 to "
                f"{count - 1}."
            )
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(
            f"points have the shape {tuple(points.shape)}, but [N, 2] is needed: x and y of each."
        )
    inside = (points >= 0) & (points <= points.new_tensor([width, height]))  # False for NaN
    if not inside.all():
        outside = points[~inside.all(dim=1)][0].tolist()
        raise ValueError(
            f"the point ({outside[0]:g}, {outside[1]:g}) is not inside the frame of {width} x "
            f"{height} pixels; points are (x, y) in its pixels."
        )


def grid_of_points(rows: int, height: int, width: int) -> Tensor:
    """Points [rows * columns, 2] spread evenly over an image of height x width pixels, row by row;
    as many columns as make the spaces alike in both directions."""
    columns = max(1, round(rows * width / height))
    y = (torch.arange(rows) + 0.5) * height / rows
    x = (torch.arange(columns) + 0.5) * width / columns
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)


def points_of_json(value: JsonValue) -> Tensor:
    """Points [N, 2] of a JSON list of {"x": .., "y": ..}, as ComfyUI's point editors write it.

    Raises ValueError in one sentence for anything else.
    """
    points = [[entry.get(axis).number() for axis in ("x", "y")] for entry in value.entries()]
    if not points:
        value.wrong('a list of points {"x": .., "y": ..}')
    return torch.tensor(points)


def num_sequences(num_frames: int) -> int:
    """How many sequences a grid of so many frames goes through in."""
    return max(1, math.ceil((num_frames - 1) / SEQUENCE))


@contextmanager
def lent_to(head: TrackHead, device: torch.device) -> Iterator[None]:
    """A context in which the head is on the device; afterwards it is where it was."""
    home = head.tracker.query_ref_token.device
    head.to(device)
    try:
        yield
    finally:
        head.to(home)


def track_points(
    aggregator: Aggregator,
    head: TrackHead,
    frames: Tensor,
    points: Tensor,
    first: int,
    *,
    fit: ImageFit,
    precision: AbstractContextManager[object],
    chunk: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Positions [S, N, 2], visibility and confidence [S, N], on the CPU, of points [N, 2] of frame
    `first` in all frames [S, 3, H, W]; points and positions are in pixels of the frames.

    fit: how frames go into the network. precision: the autocast of the aggregator. chunk: frames
    that go through a dense head at once. progress(done, total) is called after every sequence.
    Raises ValueError when the network would see frames too small for the head.
    """
    if min(fit.height, fit.width) < head.smallest_side:
        raise ValueError(
            f"the network would see frames of {fit.width} x {fit.height} pixels, but tracking "
            f"needs {head.smallest_side} or more on the shorter side; raise the resolution."
        )
    device = aggregator.camera_token.device
    asked = fit.points(points.to(device).float())[None] - HALF_PIXEL
    others = [i for i in range(len(frames)) if i != first]
    positions = points.new_zeros(len(frames), len(points), 2, dtype=torch.float32, device="cpu")
    visibility, confidence = (positions.new_zeros(positions.shape[:2]) for _ in range(2))
    total = num_sequences(len(frames))
    with lent_to(head, device):
        for done in range(total):
            cells = [first, *others[done * SEQUENCE : (done + 1) * SEQUENCE]]
            images = fit.images(frames[cells].to(device))[None]
            with precision:
                tokens = aggregator(images, temporal=False)
            estimates, *judged = head(tokens, images, asked, chunk=chunk)
            positions[cells] = fit.points_back(estimates[-1][0] + HALF_PIXEL).cpu()
            visibility[cells], confidence[cells] = (values[0].cpu() for values in judged)
            if progress is not None:
                progress(done + 1, total)
    positions[first] = points.cpu()
    return positions, visibility, confidence
