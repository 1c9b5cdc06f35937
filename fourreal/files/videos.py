"""Videos as tensors, and tensors as H.264 that every browser shows in our colours."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from torch import Tensor

from fourreal.files.atomic import atomic_path
from fourreal.files.images import to_uint8
from fourreal.files.notices import warn_once
from fourreal.files.video_reader import STILL_RATE, VideoReader, open_video

WRITTEN_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".ts", ".mts", ".m2ts", ".3gp", ".flv")
BT709 = 1  # FFmpeg's number of BT.709's primaries, transfer and matrix alike
UNEVEN = 0.5  # steps between frames this much longer or shorter than usual: a variable rate


def write_video(path: str | os.PathLike, frames: Tensor, fps: float) -> None:
    """Write frames [T, 3, H, W] in [0, 1] as H.264 (yuv420p, crf 16); the suffix is the container.

    The colours are BT.709 at limited range and tagged so, at every size. Odd sizes grow by one
    pixel, a copy of the last row or column: H.264 needs even ones. The file appears when it is
    complete. Raises ValueError for wrong shapes, rates or suffixes.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or not frames.numel() or not fps > 0:
        raise ValueError(
            f"a video needs frames [T, 3, H, W] and a positive fps, got {tuple(frames.shape)} and "
            f"{fps}."
        )
    if Path(path).suffix.lower() not in WRITTEN_SUFFIXES:
        raise ValueError(
            f"{path} is no video that can be written; give a name that ends in one of "
            f"{', '.join(WRITTEN_SUFFIXES)}."
        )
    height, width = frames.shape[-2:]
    # With "file:", a colon in the name is not taken for a protocol.
    with (
        atomic_path(path) as temporary,
        av.open(f"file:{temporary.absolute()}", "w") as container,
    ):
        stream = container.add_stream("h264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "16", "preset": "medium"}
        coder = stream.codec_context
        coder.color_primaries = coder.color_trc = coder.colorspace = BT709
        coder.color_range = ColorRange.MPEG
        converter = VideoReformatter()
        for frame in frames:
            image = np.pad(to_uint8(frame), ((0, height % 2), (0, width % 2), (0, 0)), "edge")
            converted = converter.reformat(
                av.VideoFrame.from_ndarray(image, format="rgb24"),
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
                threads=1,
            )
            container.mux(stream.encode(converted))
        container.mux(stream.encode(None))


def is_one_rate(first: float, second: float, num_frames: int) -> bool:
    """Whether two rates (frames per second) are one: their nominal values are, as 29.97 and 30 are,
    and the last of num_frames frames is still the same moment, up to half a frame."""
    drift = (num_frames - 1) * abs(first / second - 1)
    return abs(first / second - 1) <= 0.01 and drift <= 0.5


@dataclass
class Recording:
    """Frames [H, W, 3] of bytes, in time by `rate` frames per second."""

    frames: list[np.ndarray]
    rate: float

    def fill(self, tensor: Tensor) -> None:
        """Write the frames into [T, 3, H, W], in [0, 1]; they are given up one by one."""
        for number in range(len(self.frames) - 1, -1, -1):
            tensor[number] = torch.from_numpy(self.frames.pop()).permute(2, 0, 1)
        tensor.div_(255)


def at_rate(
    frames: Iterable[tuple[float, av.VideoFrame]], fps: float, begin: float = 0.0
) -> Iterator[tuple[float, av.VideoFrame]]:
    """(time, the frame nearest to it) for each time begin + k / fps seconds, to the end."""
    count, step = 0, 1 / fps
    held: tuple[float, av.VideoFrame] | None = None
    for time, frame in frames:
        if held is not None:
            step = time - held[0]
            while (wanted := begin + count / fps) < (held[0] + time) / 2:
                yield wanted, held[1]
                count += 1
        held = time, frame
    while held is not None and (wanted := begin + count / fps) < held[0] + step / 2:
        yield wanted, held[1]
        count += 1


def _rate_of(reader: VideoReader, times: list[float]) -> float:
    """Frames per second of frames at these times. The file's own figure is exact, but wrong where
    frames are hidden; the times are rounded, but right."""
    if len(times) < 2 or times[-1] <= times[0]:
        return reader.rate or STILL_RATE
    measured = (len(times) - 1) / (times[-1] - times[0])
    if reader.rate and abs(reader.rate / measured - 1) < 0.01:
        return reader.rate
    return measured


def _is_uneven(times: list[float]) -> bool:
    """Whether the steps between times differ by more than UNEVEN of the usual one."""
    steps = np.diff(times)
    return len(steps) > 1 and bool((abs(steps / max(np.median(steps), 1e-9) - 1) > UNEVEN).any())


def record(
    path: str | os.PathLike,
    max_frames: int | None = None,
    start: int = 0,
    *,
    begin: float = 0.0,
    fit: tuple[int, int] | None = None,
    fps: float | None = None,
) -> Recording:
    """At most max_frames (or all) frames of a video: from frame `start` on, or from `begin` seconds
    on; of its own rate, or of `fps` by taking the nearest frames. No more frames are decoded.

    fit: (height, width) to resize and crop each frame to as it comes. A variable rate is made
    constant, the average, with a warning. Raises ValueError as open_video does, and when there is
    no such frame.
    """
    images: list[np.ndarray] = []
    times: list[float] = []
    with open_video(path) as reader:
        frames = reader.decode() if fps is None else at_rate(reader.decode(), fps, begin)
        early = 0.5 / (reader.rate or STILL_RATE)
        for number, (time, frame) in enumerate(frames):
            if number < start or (fps is None and time < begin - early):
                continue
            if max_frames is not None and len(images) >= max_frames:
                break
            images.append(reader.pixels(frame, fit))
            times.append(time)
            if max_frames is not None and len(images) >= max_frames:
                break  # before one more is decoded
        rate = fps or _rate_of(reader, times)
    if not images:
        wanted = f"frame {start}" if start else f"{begin:g} s"
        reason = f"it ends before {wanted}" if start or begin else "it has no frames"
        raise ValueError(f"{path} cannot be decoded as video: {reason}.")
    if fps is None and _is_uneven(times):
        steps = np.diff(times)
        warn_once(
            f"{path} has a variable frame rate (steps of {steps.min():.3g} to {steps.max():.3g} s);"
            f" it is read at {rate:.4g} frames per second, the nearest frame for each time."
        )
        wanted_times = times[0] + np.arange(len(times)) / rate
        nearest = abs(np.array(times)[None] - wanted_times[:, None]).argmin(1)
        images = [images[i] for i in nearest]
    return Recording(images, rate)


def read_video(
    path: str | os.PathLike,
    max_frames: int | None = None,
    start: int = 0,
    *,
    fit: tuple[int, int] | None = None,
    fps: float | None = None,
) -> tuple[Tensor, float]:
    """At most max_frames (or all) frames [T, 3, H, W] in [0, 1] of a video, upright, from frame
    `start` on (one that it has), and its frames per second.

    fit: (height, width) in pixels to resize and crop to, as fit_frames does; then a frame takes no
    more memory than that. fps: a rate to resample to; otherwise a variable rate is made constant,
    with a warning. Frames of high dynamic range are tone-mapped. Raises ValueError when there is no
    such file, it is not a video, changes its size on the way or cannot be decoded.
    """
    recording = record(path, max_frames, start, fit=fit, fps=fps)
    tensor = torch.empty(len(recording.frames), 3, *recording.frames[0].shape[:2])
    recording.fill(tensor)
    return tensor, recording.rate


@dataclass(frozen=True)
class VideoMeasures:
    """What read_video would return: frames, their size in pixels, and frames per second."""

    num_frames: int
    height: int
    width: int
    rate: float


def measure_video(path: str | os.PathLike) -> VideoMeasures:
    """The measures of a video as read_video returns it. Every frame is decoded: files
    hold packets that never become frames (edit lists, frames that are only referred to).

    Raises ValueError as read_video does.
    """
    times: list[float] = []
    height = width = 0
    with open_video(path) as reader:
        for time, frame in reader.decode():
            if not times:
                height, width = reader.size(frame)
            times.append(time)
    if not times:
        raise ValueError(f"{path} cannot be decoded as video: it has no frames.")
    return VideoMeasures(len(times), height, width, _rate_of(reader, times))
