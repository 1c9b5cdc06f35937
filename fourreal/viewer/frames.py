"""The input frames of a scene, from the videos that lie beside it or that the user names."""

import os
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from fourreal.files.media import VIDEO_SUFFIXES, natural_order, read_video
from fourreal.grid import tile_views


def read_frames(path: str | os.PathLike, num_views: int, num_frames: int) -> Tensor:
    """Frames [V, T, 3, H, W] in [0, 1] of a folder with a video per view, in natural order of the
    names, or of one video of all views as tiles, such as grid.mp4.

    Raises ValueError when there are not V videos, or not T frames of one size in each.
    """
    path = Path(path)
    if not path.is_dir():
        tiles, _ = read_video(path, num_frames)
        # The layout of tile_views, seen on views of one pixel.
        rows, columns = tile_views(torch.zeros(num_views, 1, 1, 1, 1)).shape[-2:]
        height, width = tiles.shape[-2] // rows, tiles.shape[-1] // columns
        tiles = tiles[:, :, : rows * height, : columns * width]  # H.264 may have added a pixel
        views = rearrange(tiles, "t c (r h) (k w) -> (r k) t c h w", r=rows, k=columns)[:num_views]
    else:
        paths = sorted(
            (p for p in path.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES), key=natural_order
        )
        if len(paths) != num_views:
            raise ValueError(
                f"{path} has {len(paths)} videos, but the scene has {num_views} input views; give "
                "a folder with one video of each."
            )
        videos = [read_video(p, num_frames)[0] for p in paths]
        for p, video in zip(paths, videos):
            if video.shape != videos[0].shape:
                raise ValueError(f"{p} has another length or size than {paths[0]}.")
        views = torch.stack(videos)
    if views.shape[1] != num_frames:
        raise ValueError(
            f"{path} has {views.shape[1]} frames, but the scene has {num_frames} times."
        )
    return views
