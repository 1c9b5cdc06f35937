"""Video and image files as tensors: H.264 through PyAV, images through Pillow."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..formats.atomic import atomic_path
from ..formats.sequence import natural_order

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def to_uint8(image: Tensor) -> np.ndarray:
    """[3, H, W] in [0, 1] (clamped) to [H, W, 3] bytes."""
    image = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return image.permute(1, 2, 0).contiguous().cpu().numpy()


def write_video(path: str | os.PathLike, frames: Tensor, fps: float) -> None:
    """Write frames [T, 3, H, W] in [0, 1] as H.264 (yuv420p, crf 16); the suffix is the container.

    Odd sizes grow by one pixel, a copy of the last row or column: H.264 needs even ones. The file
    appears when it is complete. Raises ValueError for wrong shapes or rates.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or not frames.numel() or not fps > 0:
        raise ValueError(
            f"a video needs frames [T, 3, H, W] and a positive fps, got {tuple(frames.shape)} and "
            f"{fps}."
        )
    height, width = frames.shape[-2:]
    with atomic_path(path) as temporary, av.open(str(temporary), "w") as container:
        stream = container.add_stream("h264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "16", "preset": "medium"}
        for frame in frames:
            image = np.pad(to_uint8(frame), ((0, height % 2), (0, width % 2), (0, 0)), "edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def to_rgb(frame: av.VideoFrame) -> np.ndarray:
    """[H, W, 3] bytes. The direct way from yuv420p rounds down, by more than a level on average."""
    if frame.format.name == "yuv420p":
        frame = frame.reformat(format="yuv444p")
    return frame.to_ndarray(format="rgb24")


def read_video(path: str | os.PathLike, max_frames: int | None = None) -> tuple[Tensor, float]:
    """The first max_frames (or all) frames [T, 3, H, W] in [0, 1] of a video, and its fps.

    Raises ValueError when the file is not a video or cannot be decoded.
    """
    frames = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path} has no video in it.")
            rate = container.streams.video[0].average_rate
            for frame in container.decode(video=0):
                frames.append(torch.from_numpy(to_rgb(frame)))
                if max_frames is not None and len(frames) >= max_frames:
                    break
    except FileNotFoundError:
        raise
    except av.FFmpegError as error:
        raise ValueError(f"{path} cannot be decoded as video: {error.strerror}.") from error
    if not frames or not rate:
        raise ValueError(f"{path} cannot be decoded as video: it has no frames.")
    return torch.stack(frames).permute(0, 3, 1, 2).float().div_(255), float(rate)


def write_image(path: str | os.PathLike, image: Tensor) -> None:
    """Write one image [3, H, W] in [0, 1]; the suffix is the format."""
    with atomic_path(path) as temporary:
        Image.fromarray(to_uint8(image)).save(temporary)


def read_image(path: str | os.PathLike) -> Tensor:
    """An image [3, H, W] in [0, 1], upright. Raises ValueError when it cannot be decoded."""
    try:
        with Image.open(path) as image:
            pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be decoded as an image: {error}.") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def read_images(folder: str | os.PathLike) -> Tensor:
    """All images of a folder [N, 3, H, W] in [0, 1], in natural order of their names.

    Raises ValueError when there are none, one cannot be decoded, or their sizes differ.
    """
    paths = [p for p in Path(folder).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
    paths.sort(key=natural_order)
    if not paths:
        raise ValueError(f"{folder} has no images ({', '.join(IMAGE_SUFFIXES)}).")
    images = []
    for path in paths:
        image = read_image(path)
        if images and image.shape != images[0].shape:
            raise ValueError(
                f"{path} is {image.shape[2]} x {image.shape[1]} pixels, but {paths[0].name} is "
                f"{images[0].shape[2]} x {images[0].shape[1]}; all images of a folder must have "
                "one size."
            )
        images.append(image)
    return torch.stack(images)
