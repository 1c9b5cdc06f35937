"""The one reader of videos: decoded frame by frame, upright, with their times, through PyAV.

A file is read as the plain file that it is: only the containers of a list are opened, so a playlist
under a video's name reaches no other file and no network, and a name such as `concat:a.mp4` or
12:30.mp4 is only a name. Frames stay as the decoder made them until their pixels are asked for.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from fourreal.files.existing import existing_file
from fourreal.files.hdr import TRANSFERS, tone_map
from fourreal.files.images import over_background
from fourreal.files.notices import warn_once

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mts", ".m2ts", ".ts", ".3gp", ".3g2"),
    *(".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".gif"),
)
# FFmpeg's demuxers that open nothing but the file itself.
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,asf,flv,ogg,gif,h264,hevc,m4v,ivf,yuv4mpegpipe"
# FFmpeg's own decoders leave out the transparency of WebM, which lies beside the colours.
DECODERS_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
MAX_FRAME_PIXELS = 2**26  # twice 8K
STILL_RATE = 25.0  # frames per second of what has one frame, as FFmpeg has it
# FFmpeg's numbers of YCbCr matrices (AVColorSpace) as swscale's.
MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}


class PlainFile(io.FileIO):
    """A file opened for FFmpeg. A damaged file that asks for a place before its beginning is told
    no; an exception would be printed, not raised."""

    def seek(self, position: int, whence: int = 0, /) -> int:
        try:
            return super().seek(position, whence)
        except (OSError, OverflowError):
            return -1


def _refuse(url: str, flags: int, options: dict[str, str]) -> Any:
    raise OSError(f"{url} is another file")


def _other_kind(path: Path) -> str | None:
    """What a file is by its first bytes, when that is no video: a part of a sentence."""
    with path.open("rb") as file:
        head = file.read(1024).lstrip().lower()
    if head.startswith((b"#extm3u", b"ffconcat", b"[playlist]", b"v=0\no=", b"v=0\r\n")):
        return "it is a list of other files; give these"
    if head.startswith((b"<?xml", b"<mpd", b"<!doctype", b"<html")):
        return "it is a text; give the video itself"
    if not head.strip(b"\0"):
        return "it is empty"
    return None


@contextmanager
def open_video(path: str | os.PathLike) -> Iterator["VideoReader"]:
    """A reader of the video at a path.

    Raises ValueError, here or while frames are read within the block, when there is no such file,
    it is no video of the containers of the list, or it cannot be decoded.
    """
    path = existing_file(path)
    try:
        with (
            PlainFile(path) as file,
            av.open(
                file,
                metadata_errors="ignore",
                container_options={"format_whitelist": CONTAINERS, "protocol_whitelist": "none"},
                buffer_size=2**16,
                io_open=_refuse,
            ) as container,
        ):
            stream = container.streams.best("video")
            if stream is None or stream.disposition & Disposition.attached_pic:  # a cover
                raise ValueError(f"{path} has no video in it.")
            if stream.codec_context is None:
                raise ValueError(f"{path} has video of a codec that is not known; convert it.")
            yield VideoReader(path, container, stream)
    except (av.FFmpegError, OSError) as error:
        reason = _other_kind(path) or error.strerror or error
        if isinstance(error, av.ArgumentError):  # what FFmpeg says of containers beside the list
            reason = (
                f"it is damaged, or no video of a kind that is read ({', '.join(VIDEO_SUFFIXES)})"
            )
        raise ValueError(f"{path} cannot be decoded as video: {reason}.") from error


class VideoReader:
    """Frames of an open video. rate: frames per second by the file, None where it names none."""

    def __init__(self, path: Path, container: Any, stream: Any):
        self.path = path
        self._container, self._stream = container, stream
        stream.thread_type = "AUTO"
        width, height = stream.width, stream.height
        if width * height > MAX_FRAME_PIXELS:
            raise ValueError(
                f"{path} has frames of {width} x {height} pixels; at most {MAX_FRAME_PIXELS} are "
                "read."
            )
        rate = stream.average_rate or stream.guessed_rate
        self.rate = float(rate) if rate else None
        ratio = stream.sample_aspect_ratio
        # Pixels that are not square, as of DV, HDV and DVDs; roundings of encoders are left alone.
        self._aspect = float(ratio) if ratio and abs(ratio - 1) > 0.02 else 1.0
        # One of each, for they keep their tables from frame to frame.
        self._resize, self._convert = VideoReformatter(), VideoReformatter()
        self._turn: tuple[bool, bool, bool] | None = None
        self._decoder = stream.codec_context
        if stream.metadata.get("alpha_mode") == "1" and self._decoder.name in DECODERS_WITH_ALPHA:
            name = DECODERS_WITH_ALPHA[self._decoder.name]
            try:
                self._decoder = av.CodecContext.create(name, "r")
            except av.codec.codec.UnknownCodecError:
                warn_once(f"{path} is read without its transparency: this FFmpeg lacks {name}.")

    def decode(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """(seconds since the first frame, frame) of each frame that a player shows.

        Raises ValueError when the size changes on the way.
        """
        begin, first = 0.0, None
        packets = self._container.demux(self._stream)
        frames = (frame for packet in packets for frame in self._decoder.decode(packet))
        for number, frame in enumerate(frames):
            time = frame.time
            if time is None:
                time = number / (self.rate or STILL_RATE)
            if first is None:
                begin, first = time, frame
                if frame.interlaced_frame:
                    warn_once(
                        f"{self.path} is interlaced: what moves is combed; deinterlace it first "
                        "(ffmpeg -vf bwdif)."
                    )
            if (frame.width, frame.height) != (first.width, first.height):
                raise ValueError(
                    f"{self.path} changes its size from {first.width} x {first.height} to "
                    f"{frame.width} x {frame.height} at frame {number}; cut it there."
                )
            yield time - begin, frame

    def size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """(height, width) of a frame's pixels."""
        height, width = self._square(frame)
        return (width, height) if self._turned(frame)[0] else (height, width)

    def _turned(self, frame: av.VideoFrame) -> tuple[bool, bool, bool]:
        """The quarter_turn of the video, asked of its first frame only: PyAV's side data and their
        frame refer to each other, so a frame that was asked keeps its memory for a while."""
        if self._turn is None:
            self._turn = quarter_turn(frame)
        return self._turn

    def _square(self, frame: av.VideoFrame) -> tuple[int, int]:
        """(height, width) with square pixels, as the frame lies in the file."""
        return frame.height, max(1, round(frame.width * self._aspect))

    def pixels(self, frame: av.VideoFrame, fit: tuple[int, int] | None = None) -> np.ndarray:
        """[H, W, 3] bytes of a frame, upright, with square pixels, in BT.709's colours.

        fit: (height, width) to resize to so that it is covered, and to crop to at the centre.
        Transparent frames are composited as transparent images are.
        """
        height, width = self._square(frame)
        turned, flip_x, flip_y = self._turned(frame)
        if fit is not None:
            target = fit[::-1] if turned else fit
            scale = max(target[0] / height, target[1] / width)
            height, width = (max(t, round(o * scale)) for t, o in zip(target, (height, width)))
        image = self._rgb(frame, height, width)
        if turned:
            image = image.swapaxes(0, 1)
        image = image[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
        if fit is not None:
            top, left = (image.shape[0] - fit[0]) // 2, (image.shape[1] - fit[1]) // 2
            image = image[top : top + fit[0], left : left + fit[1]]
        return np.ascontiguousarray(image)

    def _rgb(self, frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
        size = {"width": width, "height": height, "threads": 1}  # starting threads costs more
        if any(component.is_alpha for component in frame.format.components):
            return over_background(self._resize.reformat(frame, **size, format="rgba").to_ndarray())
        if frame.format.is_rgb or frame.format.name == "pal8":
            return self._resize.reformat(frame, **size, format="rgb24").to_ndarray()
        # Without a tag, players take the matrix by the size.
        large = frame.width >= 1280 or frame.height > 576
        matrix = MATRICES.get(frame.colorspace, Colorspace.ITU709 if large else Colorspace.ITU601)
        full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
        levels = ColorRange.JPEG if full else ColorRange.MPEG
        high = frame.color_trc in TRANSFERS
        # In two steps: from 4:2:0 to RGB at once rounds down, by more than a level on average.
        frame = self._resize.reformat(
            frame,
            **size,
            format="yuv444p16le" if high else "yuv444p",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=levels,
            dst_color_range=levels,
        )
        image = self._convert.reformat(
            frame,
            format="rgb48le" if high else "rgb24",
            threads=1,
            src_colorspace=matrix,
            src_color_range=levels,
            dst_color_range=ColorRange.JPEG,
        ).to_ndarray()
        return tone_map(image, frame.color_trc, frame.color_primaries) if high else image


def quarter_turn(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How a frame is to be shown by its display matrix, to the nearest quarter of a turn:
    (rows and columns are exchanged, then left and right are, then top and bottom are)."""
    side_data: Any = frame.side_data
    for data in side_data:
        if data.type.name == "DISPLAYMATRIX":
            # x' = a x + c y, y' = b x + d y, with y downwards
            a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
            if abs(b) > abs(a):
                return True, c < 0, b < 0
            return False, a < 0, d < 0
    return False, False, False
