"""Depth maps on disk: one .npz of floats, or a folder of 16-bit PNG files."""

import os
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from fourreal.files.atomic import atomic_frames, atomic_path, frame_names
from fourreal.files.existing import existing_file
from fourreal.files.images import open_image
from fourreal.files.listing import media_files

DEPTH_STEP = "depth_step"  # the PNG text that says how much depth one grey level is


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
    for file in media_files(path, (".png",)):
        with open_image(file) as image:
            if DEPTH_STEP not in image.info:
                raise ValueError(f"{file} is not a depth map: it has no {DEPTH_STEP!r} text.")
            maps.append(np.asarray(image, np.float64) * float(image.info[DEPTH_STEP]))
    if not maps:
        raise ValueError(f"{path} has no depth maps (*.png).")
    return torch.from_numpy(np.stack(maps)).float()
