"""A dynamic scene as a folder of numbered PLY files, the animation that splat editors import."""

import os
from pathlib import Path

from fourreal.files.atomic import atomic_frames, frame_names
from fourreal.files.existing import existing_folder
from fourreal.files.media import natural_order
from fourreal.formats.ply import load_ply, save_ply
from fourreal.gaussians import Gaussians, GaussianScene


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

    Raises ValueError when there is no such folder, it has none, or one of them is damaged.
    """
    paths = sorted(existing_folder(folder).glob("*.ply"), key=natural_order)
    if not paths:
        raise ValueError(f"{folder} has no .ply files; give the folder of a PLY sequence.")
    return [load_ply(path) for path in paths]
