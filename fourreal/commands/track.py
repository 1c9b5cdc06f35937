"""`fourreal track`: points of one frame, followed through synchronised videos."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro

from fourreal.commands.reconstruct import read_reconstructor
from fourreal.commands.results import enlarge, progress_bar
from fourreal.devices import choose_device
from fourreal.files.atomic import results_folder
from fourreal.files.json_files import read_json
from fourreal.files.media import read_synchronised, view_files, write_image, write_video
from fourreal.grid import contact_sheet, tile_views
from fourreal.reconstruction import grid_of_points
from fourreal.reconstruction.track_drawing import draw_tracks
from fourreal.reconstruction.tracking import num_sequences, points_of_json


@dataclass
class TrackConfig:
    """Follow points of one frame through synchronised videos, one per view."""

    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Videos, or one folder that holds them; one video alone is followed along time."""
    reconstructor: Annotated[Path, tyro.conf.arg(aliases=["--weights"])]
    """A reconstructor file with a track head: VGGT-1B."""
    out: Path = Path("out/track")
    """Folder for tracks.npz, a video and a picture; what an earlier run left there is replaced."""
    points: Path | None = None
    """A JSON list of {"x": .., "y": ..} in pixels (default: points spread evenly)."""
    rows: int = 16
    """Rows of points that are spread evenly; there are as many columns as fit."""
    view: int = 0
    """The view that the points are given in, from 0."""
    time: int = 0
    """The frame that the points are given in, from 0."""
    max_frames: int | None = None
    """Use only so many frames of each video."""
    trim: bool = False
    """Cut all videos to the shortest."""
    resolution: int | None = None
    """Longer side of what the network sees, in pixels (default: the size it was trained on)."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of the network's matrix products (default: bfloat16 on CUDA, float32 elsewhere; the others
    are tens of times slower on a CPU without instructions for them)."""
    device: str | None = None
    """Where the network runs: cpu, cuda or cuda:N (default: CUDA where there is one)."""


def track(config: TrackConfig) -> Path:
    """Follow the points, write what was found, and return the folder.

    tracks.npz holds positions [V, T, N, 2], visibility and confidence [V, T, N] as of
    `Reconstructor.track`, and the view and time of the points. Raises ValueError for wrong input.
    """
    device = choose_device(config.device)
    given = points_of_json(read_json(config.points)) if config.points else None
    frames, rate = read_synchronised(
        view_files(config.inputs), max_frames=config.max_frames, trim=config.trim
    )
    points = grid_of_points(config.rows, *frames.shape[-2:]) if given is None else given
    dtype = config.dtype and getattr(torch, config.dtype)
    reconstructor = read_reconstructor(config.reconstructor, device, dtype)
    where = config.view, config.time
    with results_folder(config.out) as folder:
        with progress_bar("tracking", num_sequences(len(frames) * frames.shape[1])) as progress:
            tracks = reconstructor.track(
                frames, points, *where, resolution=config.resolution, progress=progress
            )
        numbers = {name: values.numpy() for name, values in tracks._asdict().items()}
        np.savez_compressed(folder / "tracks.npz", **numbers, view=where[0], time=where[1])
        drawn = draw_tracks(frames, tracks, *where)
        write_video(folder / "tracks.mp4", enlarge(tile_views(drawn)), rate)
        write_image(folder / "tracks.png", contact_sheet(enlarge(drawn)))
    print(f"tracks: {config.out}")
    return config.out


COMMAND = (TrackConfig, track)
