"""Read the frames a scene was reconstructed from, for the viewer to fade over its input cameras."""

import os
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from fourreal.files.media import VIDEO_SUFFIXES, media_files, read_video
from fourreal.grid import tile_views


def read_frames(path: str | os.PathLike[str], num_views: int, num_frames: int) -> Tensor:
    """Input frames [V, T, 3, H, W] in [0, 1] of a scene with V views and T times.

    path: a folder with one video per view, in natural order of their names, or one video that
    shows all views as tiles, such as the grid.mp4 that `fourreal generate` writes.
    Raises ValueError when the folder does not have V videos, when these differ in size or length,
    and when there are not T frames.
    """
    path = Path(path)
    if path.is_dir():
        views = read_folder(path, num_views, num_frames)
    else:
        views = read_tiles(path, num_views, num_frames)
    if views.shape[1] != num_frames:
        raise ValueError(
            f"{path} has {views.shape[1]} frames, but the scene has {num_frames} times."
        )
    return views


def read_folder(folder: Path, num_views: int, num_frames: int) -> Tensor:
    """At most T frames of each video of a folder, [V, <= T, 3, H, W]."""
    paths = media_files(folder, VIDEO_SUFFIXES)
    if len(paths) != num_views:
        raise ValueError(
            f"{folder} has {len(paths)} videos, but the scene has {num_views} input views; give "
            "a folder with one video of each."
        )
    videos = [read_video(p, num_frames)[0] for p in paths]
    for p, video in zip(paths, videos):
        if video.shape != videos[0].shape:
            raise ValueError(f"{p} has another length or size than {paths[0]}.")
    return torch.stack(videos)


def read_tiles(path: Path, num_views: int, num_frames: int) -> Tensor:
    """At most T frames of each tile of a video that `fourreal.grid.tile_views` laid out."""
    tiles, _ = read_video(path, num_frames)
    rows, columns = tile_views(torch.zeros(num_views, 1, 1, 1, 1)).shape[-2:]  # of 1 x 1 pixels
    height, width = tiles.shape[-2] // rows, tiles.shape[-1] // columns
    # H.264 wants even sizes, so the video may have a row or column of pixels more than the tiles.
    tiles = tiles[:, :, : rows * height, : columns * width]
    views = rearrange(tiles, "t c (r h) (k w) -> (r k) t c h w", r=rows, k=columns)
    return views[:num_views]  # the last row may have empty tiles
