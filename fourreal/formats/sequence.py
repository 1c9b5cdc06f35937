"""A dynamic scene as a folder of numbered PLY files, the animation that splat editors import."""

import os
import re
from pathlib import Path

from ..gaussians import Gaussians, GaussianScene
from .atomic import atomic_frames, frame_names
from .ply import load_ply, save_ply


def natural_order(path: Path) -> list:
    """A sort key by which frame_2 comes before frame_10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in parts]


def save_ply_sequence(scene: GaussianScene, folder: str | os.PathLike) -> list[Path]:
    """Write frame_0001.ply.. , one complete PLY per time, and return their paths.

    The files appear together once all are written; frames that an earlier, longer sequence left in
    the folder are removed, other files stay.
    """
    folder = Path(folder)
    names = frame_names(scene.num_frames, ".ply")
    with atomic_frames(folder, names) as temporary:
        for time, name in enumerate(names):
            save_ply(scene.at(time), temporary / name)
    return [folder / name for name in names]


def load_ply_sequence(folder: str | os.PathLike) -> list[Gaussians]:
    """The Gaussians of every .ply file of a folder, in natural order of their names.

    Raises ValueError when the folder has none, or one of them is damaged.
    """
    paths = sorted(Path(folder).glob("*.ply"), key=natural_order)
    if not paths:
        raise ValueError(f"{folder} has no .ply files; give the folder of a PLY sequence.")
    return [load_ply(path) for path in paths]
