"""Videos of several cameras as one grid: the same moment in each column, or a sentence."""

import logging
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fourreal.files.images import IMAGE_SUFFIXES, image_files, read_image, to_uint8
from fourreal.files.listing import is_hidden, media_files, natural_order
from fourreal.files.video_reader import STILL_RATE, VIDEO_SUFFIXES
from fourreal.files.videos import Recording, is_one_rate, record

logger = logging.getLogger(__name__)

NAMED = 5  # of the files that are left out, at most so many are named


def view_files(inputs: Sequence[str | os.PathLike]) -> list[Path]:
    """The files of the views: those given, or the videos (where there are none, the photos) of the
    one folder that is given, in natural order; what else is in that folder is told.

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
    _tell_left_out(paths[0], files)
    return files


def _tell_left_out(folder: Path, files: Sequence[Path]) -> None:
    """Say which files of a folder are none of those that are read."""
    others = (p for p in folder.iterdir() if p.is_file() and not is_hidden(p, folder))
    left_out = sorted(set(others) - set(files), key=natural_order)
    names = [path.name for path in left_out[:NAMED]]
    if len(left_out) > NAMED:
        names.append(f"{len(left_out) - NAMED} more")
    if names:
        logger.info("%s: %d views are read; left out: %s.", folder, len(files), ", ".join(names))


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


def _scaling(path: Path, size: tuple[int, int], wanted: tuple[int, int]) -> str:
    """A command that brings a file of a size (height, width) to another, without distortion."""
    scale = "scale={1}:{0}".format(*wanted)
    if size[0] * wanted[1] != size[1] * wanted[0]:
        scale += ":force_original_aspect_ratio=increase,crop={1}:{0}".format(*wanted)
    scaled = path.with_stem(f"{path.stem}_{wanted[1]}x{wanted[0]}")
    return f"ffmpeg -i {shlex.quote(str(path))} -vf {scale} {shlex.quote(str(scaled))}"


def _same_shape(paths: Sequence[Path], recordings: Sequence[Recording], trim: bool) -> None:
    """Raises ValueError when recordings differ in size, or (unless trim) in length; it says how to
    make them equal in what differs."""
    lengths = [len(recording.frames) for recording in recordings]
    sizes = [recording.frames[0].shape[:2] for recording in recordings]
    for path, length, size in zip(paths, lengths, sizes):
        differs, ways = [], []
        if length != lengths[0] and not trim:
            differs, ways = ["length"], ["--trim cuts them to the shortest"]
        if size != sizes[0]:
            differs.append("size")
            ways.append(f"scale them to one: {_scaling(path, size, sizes[0])}")
        if differs:
            raise ValueError(
                f"{path} has {length} frames of {size[0]} x {size[1]}, but {paths[0]} has "
                f"{lengths[0]} of {sizes[0][0]} x {sizes[0][1]}; the views must be of equal "
                f"{' and '.join(differs)} ({'; '.join(ways)})."
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
