"""Image files as tensors, through Pillow.

Only a fixed list of formats is opened, whatever a file is called: Pillow would hand PostScript to
Ghostscript, which runs it. HEIC (iPhones) needs the package pillow-heif, AVIF Pillow 11.3.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError, features
from torch import Tensor

from fourreal.files.atomic import atomic_frames, atomic_path, frame_names
from fourreal.files.existing import existing_file
from fourreal.files.extras import install_extra
from fourreal.files.listing import media_files
from fourreal.files.notices import warn_once

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff"),
    *(".heic", ".heif", ".hif", ".avif"),
)
# Pictures of other formats are named where a folder of photos holds them: without them the views
# would silently move up.
OTHER_PICTURES = (
    *(".gif", ".svg", ".eps", ".ps", ".psd", ".tga", ".exr", ".hdr", ".jp2", ".jxl", ".ppm"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),
)
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # and AVIF and HEIF where they can
BEGINNINGS = {
    **{b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP"},
    **{b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF"},
}
OF_SEVERAL = ("PNG", "WEBP", "GIF", "AVIF", "TIFF")  # formats of animations and pages
MAX_PIXELS = 2**27  # 134 million: 0.4 GB as bytes, 1.6 GB as floats
BACKGROUND = 255  # of transparent images: white, as for renders of objects (NeRF, Objaverse)
# How EXIF's orientations become upright: rows and columns exchanged, then steps of both
ORIENTATIONS = {
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}
# Row, column, step of rows and step of columns of the 7 passes of an interlaced PNG
ADAM7 = (
    *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)),
    (1, 0, 2, 1),
)


def to_uint8(image: Tensor) -> np.ndarray:
    """[3, H, W] in [0, 1] (clamped) to [H, W, 3] bytes."""
    image = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return image.permute(1, 2, 0).contiguous().cpu().numpy()


def over_background(image: np.ndarray) -> np.ndarray:
    """[H, W, 4] bytes with alpha (not premultiplied) composited on BACKGROUND, [H, W, 3]."""
    alpha = image[..., 3:].astype(np.uint16)
    mixed = image[..., :3] * alpha + BACKGROUND * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


@cache
def readable_formats() -> list[str]:
    """Pillow's names of the formats that can be opened here."""
    formats = list(FORMATS)
    if features.check("avif"):
        formats.append("AVIF")
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return formats
    register_heif_opener()
    return [*formats, "HEIF"]


def _what_it_is(path: Path) -> str:
    """Why a file is in none of the readable formats, by its first bytes: a part of a sentence."""
    with path.open("rb") as file:
        head = file.read(64)
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if brand in (b"avif", b"avis"):
        return "it is AVIF, which needs Pillow 11.3 or newer; install that, or convert it to PNG"
    if brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"):
        return f"it is HEIC, which needs pillow-heif; {install_extra('heif')}, or convert it"
    if head.startswith(b"%!PS"):
        return "it is PostScript, a program; convert it to PNG"
    for beginning, kind in BEGINNINGS.items():
        if head.startswith(beginning):
            return f"it is {kind}, but damaged or of an unusual kind; save it anew"
    return "it is none of PNG, JPEG, WebP, BMP, TIFF, AVIF and HEIC; convert it to PNG"


@contextmanager
def open_image(path: str | os.PathLike) -> Iterator[Image.Image]:
    """A Pillow image, decoded.

    Raises ValueError when there is no such file, it is in no format of the list, has more than
    MAX_PIXELS or cannot be decoded.
    """
    path = existing_file(path)
    try:
        image = Image.open(path, formats=readable_formats())
        if image.width * image.height > MAX_PIXELS:
            image.close()
            raise Image.DecompressionBombError
        count = getattr(image, "n_frames", 1) if image.format in OF_SEVERAL else 1
        image.load()
        image.getexif()
    except Image.DecompressionBombError:
        raise ValueError(
            f"{path} has more than the {MAX_PIXELS // 10**6} megapixels that are read; make it "
            "smaller."
        ) from None
    except UnidentifiedImageError:
        raise ValueError(f"{path} cannot be decoded as an image: {_what_it_is(path)}.") from None
    except Exception as error:  # only Pillow is at work here, whose decoders raise all kinds
        reason = " ".join(str(error).replace(str(path), "it").split()).rstrip(".")
        raise ValueError(f"{path} cannot be decoded as an image: {reason}.") from error
    if count > 1:
        warn_once(f"{path} has {count} pictures, of which the first is read.")
    with image:
        yield image


def _check_rows(path: Path) -> None:
    """Raises ValueError for a PNG whose data ends before its last row: Pillow leaves those black,
    without an error when the stream of data was closed."""
    with path.open("rb") as file:
        data = file.read()
    width, height, bits, kind, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    expected = 0
    for top, left, down, across in ADAM7 if interlaced else ((0, 0, 1, 1),):
        rows, columns = -(-(height - top) // down), -(-(width - left) // across)
        if rows > 0 and columns > 0:
            expected += rows * (1 + (columns * samples * bits + 7) // 8)
    at, got, unpack = 8, 0, zlib.decompressobj()
    while at + 8 <= len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        rest = data[at + 8 : at + 8 + length] if name == b"IDAT" else b""
        while rest and got < expected:  # in pieces: what unfolds further is not looked at
            got += len(unpack.decompress(rest, 2**20))
            rest = unpack.unconsumed_tail
        at += 12 + length
    if got < expected:
        raise ValueError(f"{path} cannot be decoded as an image: it is cut off.")


def _grey_levels(path: Path, image: Image.Image) -> np.ndarray:
    """[H, W] in [0, 1] of an image with one number of more than 8 bits per pixel."""
    values = np.asarray(image).astype(np.float32)
    if image.mode == "F":
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"{path} holds numbers from {low:g} to {high:g}, whose white is not known; scale "
                "them to [0, 1]."
            )
        return values
    tags = getattr(image, "tag_v2", {})  # of TIFF: 258 bits, 262 meaning of 0, 339 kind of number
    bits = tags.get(258, (16,))[0]
    if bits > 16 or tags.get(339, (1,))[0] != 1:
        raise ValueError(
            f"{path} holds {bits}-bit numbers that are not grey levels; save it with 8 or 16 bits."
        )
    values /= 2**bits - 1
    return 1 - values if tags.get(262) == 0 else values


def _pixels(path: Path, image: Image.Image) -> np.ndarray:
    """An opened image as [H, W, 3], bytes or floats in [0, 1], upright and opaque."""
    if image.mode == "F" or image.mode.startswith("I"):
        pixels = np.repeat(_grey_levels(path, image)[..., None], 3, axis=2)
    elif image.mode in ("LAB", "HSV"):
        raise ValueError(f"{path} is in the colours of {image.mode}; save it as RGB.")
    elif image.has_transparency_data:
        pixels = over_background(np.asarray(image.convert("RGBA")))
    else:
        pixels = np.array(image.convert("RGB"))
    transposed, flip_y, flip_x = ORIENTATIONS.get(image.getexif().get(0x0112, 1), (False, 1, 1))
    pixels = pixels.swapaxes(0, 1) if transposed else pixels
    return np.ascontiguousarray(pixels[::flip_y, ::flip_x])


def read_image(path: str | os.PathLike, fit: tuple[int, int] | None = None) -> Tensor:
    """An image [3, H, W] in [0, 1], upright, as its EXIF says; of several the first, with a
    warning.

    fit: (height, width) in pixels to resize and crop it to, as fit_frames does. 16-bit grey and
    floats are scaled to [0, 1] whole, transparent images are composited on white. Raises ValueError
    when there is no such file, it has more than MAX_PIXELS, is cut off or cannot be decoded.
    """
    path = existing_file(path)
    with open_image(path) as image:
        pixels = _pixels(path, image)
        if image.format == "PNG":
            _check_rows(path)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    values = tensor.float() if pixels.dtype == np.float32 else tensor.float().div_(255)
    return values if fit is None else fit_frames(values[None], 1, *fit)[0].clamp(0, 1)


def image_files(folder: str | os.PathLike, pattern: str = "*") -> list[Path]:
    """The images of a folder that match a glob pattern, in natural order of their names.

    Hidden files are left out, and raw files beside an image of the same name. Raises ValueError
    when there is no such folder, or when it holds a picture of a kind that is not read.
    """
    found = media_files(folder, IMAGE_SUFFIXES, pattern)
    names = {path.stem for path in found}
    for path in media_files(folder, OTHER_PICTURES, pattern):
        if path.stem not in names:
            raise ValueError(
                f"{path} is a picture of a kind that is not read here ({', '.join(IMAGE_SUFFIXES)} "
                "are); convert it, or move it to another folder."
            )
    return found


def read_images(
    folder: str | os.PathLike, max_images: int | None = None, *, fit: tuple[int, int] | None = None
) -> Tensor:
    """The first max_images (or all) images of a folder [N, 3, H, W] in [0, 1], in natural order of
    their names.

    fit: (height, width) in pixels to resize and crop each to. Raises ValueError when there is no
    such folder, it has no images or some that are not read, one cannot be decoded, or their sizes
    differ.
    """
    paths = image_files(folder)
    if not paths:
        raise ValueError(f"{folder} has no images ({', '.join(IMAGE_SUFFIXES)}).")
    images: list[Tensor] = []
    for path in paths[:max_images]:
        image = read_image(path, fit)
        if images and image.shape != images[0].shape:
            raise ValueError(
                f"{path} is {image.shape[2]} x {image.shape[1]} pixels, but {paths[0].name} is "
                f"{images[0].shape[2]} x {images[0].shape[1]}; all images of a folder must have "
                "one size."
            )
        images.append(image)
    return torch.stack(images)


def write_image(path: str | os.PathLike, image: Tensor) -> None:
    """Write one image [3, H, W] in [0, 1] (clamped); the suffix is the format."""
    with atomic_path(path) as temporary:
        Image.fromarray(to_uint8(image)).save(temporary)


def write_images(folder: str | os.PathLike, frames: Tensor) -> None:
    """Write frames [T, 3, H, W] in [0, 1] as frame_0001.png.. of a folder, all or none."""
    names = frame_names(len(frames), ".png")
    with atomic_frames(folder, names) as temporary:
        for name, frame in zip(names, frames):
            write_image(temporary / name, frame)


def fit_frames(frames: Tensor, count: int, height: int, width: int) -> Tensor:
    """The first `count` frames of [T, 3, H, W], as [count, 3, height, width] (fewer if T is less).

    They are resized to cover height x width (pixels) and cropped at the centre.
    """
    scale = max(height / frames.shape[-2], width / frames.shape[-1])
    size = [max(n, round(o * scale)) for n, o in zip((height, width), frames.shape[-2:])]
    frames = F.interpolate(frames[:count], size=size, mode="bilinear", antialias=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return frames[..., top : top + height, left : left + width]
