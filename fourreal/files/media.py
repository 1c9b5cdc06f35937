"""Video, image and depth files as tensors: H.264 through PyAV, images through Pillow."""

import os
import re
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from fourreal.files.atomic import atomic_frames, atomic_path, frame_names
from fourreal.files.existing import existing_file, existing_folder

DEPTH_STEP = "depth_step"  # the PNG text that says how much depth one grey level is
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
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


def read_video(
    path: str | os.PathLike, max_frames: int | None = None, start: int = 0
) -> tuple[Tensor, float]:
    """At most max_frames (or all) frames [T, 3, H, W] in [0, 1] of a video, from frame `start` on
    (one that it has), and its fps.

    Raises ValueError when there is no such file, it is not a video or it cannot be decoded.
    """
    frames: list[Tensor] = []
    try:
        with av.open(str(existing_file(path))) as container:
            if not container.streams.video:
                raise ValueError(f"{path} has no video in it.")
            container.streams.video[0].thread_type = "AUTO"
            rate = container.streams.video[0].average_rate
            for number, frame in enumerate(container.decode(video=0)):
                if number >= start:
                    frames.append(torch.from_numpy(to_rgb(frame)))
                if max_frames is not None and len(frames) >= max_frames:
                    break
    except av.FFmpegError as error:
        raise ValueError(f"{path} cannot be decoded as video: {error.strerror}.") from error
    if not frames or not rate:
        reason = f"it ends before frame {start}" if start else "it has no frames"
        raise ValueError(f"{path} cannot be decoded as video: {reason}.")
    return torch.stack(frames).permute(0, 3, 1, 2).float().div_(255), float(rate)


def write_image(path: str | os.PathLike, image: Tensor) -> None:
    """Write one image [3, H, W] in [0, 1] (clamped); the suffix is the format."""
    with atomic_path(path) as temporary:
        Image.fromarray(to_uint8(image)).save(temporary)


def read_image(path: str | os.PathLike) -> Tensor:
    """An image [3, H, W] in [0, 1], upright.

    Raises ValueError when there is no such file or it cannot be decoded.
    """
    path = existing_file(path)
    try:
        with Image.open(path) as image:
            pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be decoded as an image: {error}.") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def read_images(folder: str | os.PathLike) -> Tensor:
    """All images of a folder [N, 3, H, W] in [0, 1], in natural order of their names.

    Raises ValueError when there is no such folder, it has no images, one cannot be decoded, or
    their sizes differ.
    """
    paths = [p for p in existing_folder(folder).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
    paths.sort(key=natural_order)
    if not paths:
        raise ValueError(f"{folder} has no images ({', '.join(IMAGE_SUFFIXES)}).")
    images: list[Tensor] = []
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


def write_images(folder: str | os.PathLike, frames: Tensor) -> None:
    """Write frames [T, 3, H, W] in [0, 1] as frame_0001.png.. of a folder, all or none."""
    names = frame_names(len(frames), ".png")
    with atomic_frames(folder, names) as temporary:
        for name, frame in zip(names, frames):
            write_image(temporary / name, frame)


def write_depth(path: str | os.PathLike, depth: Tensor) -> None:
    """Write z-depth maps [T, H, W] (world units, 0 = nothing there).

    path: *.npz, which keeps float32 exactly under the name "depth"; anything else is a folder of
    16-bit frame_0001.png.., where depth = grey level * step, one step for all of them so that the
    farthest is 65535; the step stands in each file's text chunk "depth_step". Raises ValueError for
    other shapes, and for depths that are negative or not finite.
    """
    values = depth.detach().float().cpu().numpy()
    if values.ndim != 3 or not values.size or not np.isfinite(values).all() or values.min() < 0:
        raise ValueError(
            f"depth must be [T, H, W] of finite numbers from 0, got {tuple(depth.shape)}."
        )
    if is_archive(path):
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, depth=values)
        return
    step = max(float(values.max()), 1e-30) / 65535
    text = PngImagePlugin.PngInfo()
    text.add_text(DEPTH_STEP, repr(step))
    names = frame_names(len(values), ".png")
    with atomic_frames(path, names) as temporary:
        for name, image in zip(names, values):
            grey = (image.astype(np.float64) / step).round().astype(np.uint16)
            Image.fromarray(grey).save(temporary / name, pnginfo=text)


def is_archive(path: str | os.PathLike) -> bool:
    """Whether depth at this path is one .npz file, not a folder of images."""
    return Path(path).suffix.lower() == ".npz"


def read_depth(path: str | os.PathLike) -> Tensor:
    """Depth [T, H, W] (world units, 0 = nothing there) of what write_depth wrote.

    Raises ValueError when it is missing or something else.
    """
    if is_archive(path):
        path = existing_file(path)
        try:
            with np.load(path, allow_pickle=False) as data:
                return torch.from_numpy(data["depth"])
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} holds no depth: {error}.") from error
    maps = []
    for file in sorted(existing_folder(path).glob("*.png"), key=natural_order):
        with Image.open(file) as image:
            if DEPTH_STEP not in image.info:
                raise ValueError(f"{file} is not a depth map: it has no {DEPTH_STEP!r} text.")
            maps.append(np.asarray(image, np.float64) * float(image.info[DEPTH_STEP]))
    if not maps:
        raise ValueError(f"{path} has no depth maps (*.png).")
    return torch.from_numpy(np.stack(maps)).float()


def natural_order(path: Path) -> list[tuple[int, str]]:
    """A sort key by which frame_2 comes before frame_10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in parts]


def fit_frames(frames: Tensor, count: int, height: int, width: int) -> Tensor:
    """The first `count` frames of [T, 3, H, W], as [count, 3, height, width] (fewer if T is less).

    They are resized to cover height x width (pixels) and cropped at the centre.
    """
    scale = max(height / frames.shape[-2], width / frames.shape[-1])
    size = [max(n, round(o * scale)) for n, o in zip((height, width), frames.shape[-2:])]
    frames = F.interpolate(frames[:count], size=size, mode="bilinear", antialias=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return frames[..., top : top + height, left : left + width]
