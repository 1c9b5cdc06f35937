"""Videos of several cameras as one grid: the same moment in each column, or a sentence."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fourreal.files.images import IMAGE_SUFFIXES, image_files, read_image, to_uint8
from fourreal.files.listing import media_files
from fourreal.files.video_reader import STILL_RATE, VIDEO_SUFFIXES
from fourreal.files.videos import Recording, is_one_rate, record

logger = logging.getLogger(__name__)


def view_files(inputs: Sequence[str | os.PathLike]) -> list[Path]:
    """The files of the views: those given, or the videos (where there are none, the photos) of the
    one folder that is given, in natural order.

    Raises ValueError when there are none, or both.
    """
    paths = [Path(path) for path in inputs]
    if len(paths) != 1 or not paths[0].is_dir():
        if not paths:
            raise ValueError("give a video of each view, or one folder that holds them.")
        return paths
    videos = media_files(paths[0], VIDEO_SUFFIXES)
    files = videos or image_files(paths[0])
    if not files:
        raise ValueError(f"{paths[0]} holds no videos ({', '.join(VIDEO_SUFFIXES)}) or photos.")
    return files


def _same_moments(paths: Sequence[Path], recordings: Sequence[Recording]) -> None:
    """Raises ValueError when frame k of two recordings is not the same moment. What has one frame,
    as a photo, has no rate."""
    moving = [pair for pair in zip(paths, recordings) if len(pair[1].frames) > 1]
    for path, other in moving:
        name, first = moving[0]
        if not is_one_rate(first.rate, other.rate, len(other.frames)):
            raise ValueError(
                f"{path} has {other.rate:.5g} frames per second, but {name} has {first.rate:.5g}; "
                "cameras need one frame rate, or one to resample to (--fps)."
            )


def _same_shape(paths: Sequence[Path], recordings: Sequence[Recording], trim: bool) -> None:
    """Raises ValueError when recordings differ in size, or (unless trim) in length."""
    shapes = [(len(recording.frames), *recording.frames[0].shape[:2]) for recording in recordings]
    for path, shape in zip(paths, shapes):
        if shape[1:] != shapes[0][1:] or (shape[0] != shapes[0][0] and not trim):
            raise ValueError(
                f"{path} has {shape[0]} frames of {shape[1]} x {shape[2]}, but {paths[0]} has "
                f"{shapes[0][0]} of {shapes[0][1]} x {shapes[0][2]}; the views must be of equal "
                "length and size (--trim cuts them to the shortest)."
            )


def read_synchronised(
    paths: Sequence[str | os.PathLike],
    *,
    offsets: Sequence[float] | None = None,
    max_frames: int | None = None,
    fps: float | None = None,
    trim: bool = False,
    fit: tuple[int, int] | None = None,
) -> tuple[Tensor, float]:
    """Frames [V, T, 3, H, W] in [0, 1] of one video (or photo) per view, and their frames per
    second.

    offsets: per view the seconds of its video at which the common beginning is, for cameras that
    started at different moments (2 for one that started 2 s before the others); what is before is
    left out, and all are cut to the shortest. When one is negative, the beginning is that much
    later. fps: a rate to resample all views to. trim: cut to the shortest view. fit: (height,
    width) in pixels to resize and crop to. Raises ValueError that names the files when rates,
    sizes or lengths differ.
    """
    files = [Path(path) for path in paths]
    if not files:
        raise ValueError("there are no views to read; give a video of each.")
    if offsets is not None and len(offsets) != len(files):
        raise ValueError(f"{len(offsets)} offsets are given for {len(files)} views; give as many.")
    if offsets is not None and not all(abs(offset) < float("inf") for offset in offsets):
        raise ValueError(f"offsets are seconds, but {list(offsets)} are given.")
    begins = list(offsets) if offsets is not None else [0.0] * len(files)
    later = max(0.0, -min(begins))
    recordings = []
    for file, begin in zip(files, begins):
        if file.suffix.lower() in IMAGE_SUFFIXES:
            recordings.append(Recording([to_uint8(read_image(file, fit))], fps or STILL_RATE))
        else:
            recordings.append(record(file, max_frames, begin=begin + later, fit=fit, fps=fps))
    _same_moments(files, recordings)
    trim = trim or offsets is not None
    _same_shape(files, recordings, trim)
    shortest = min(len(recording.frames) for recording in recordings)
    if trim and any(len(recording.frames) > shortest for recording in recordings):
        logger.info("all views are cut to the %d frames of the shortest.", shortest)
    moving = (recording for recording in recordings if len(recording.frames) > 1)
    rate = next(moving, recordings[0]).rate
    for recording in recordings:
        del recording.frames[shortest:]
    height, width = recordings[0].frames[0].shape[:2]
    grid = torch.empty(len(recordings), shortest, 3, height, width)
    for view, recording in zip(grid, recordings):
        recording.fill(view)
    return grid, rate
