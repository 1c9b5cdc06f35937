"""Files of Gaussians and scenes: PLY, PLY sequences, SPZ, .splat, OpenUSD and the scene file."""

import os
from pathlib import Path

from fourreal.files.atomic import atomic_path
from fourreal.formats.ply import load_ply, save_ply
from fourreal.formats.scene_file import load_scene, save_scene
from fourreal.formats.sequence import load_ply_sequence, save_ply_sequence
from fourreal.formats.splat import load_splat, save_splat
from fourreal.formats.spz import load_spz, save_spz
from fourreal.formats.usd import load_usd, save_usd
from fourreal.gaussians import Gaussians

__all__ = [
    "atomic_path",
    "load_gaussians",
    "load_ply",
    "load_ply_sequence",
    "load_scene",
    "load_splat",
    "load_spz",
    "load_usd",
    "save_gaussians",
    "save_ply",
    "save_ply_sequence",
    "save_scene",
    "save_splat",
    "save_spz",
    "save_usd",
]

LOADERS = {".ply": load_ply, ".spz": load_spz, ".splat": load_splat}
SAVERS = {".ply": save_ply, ".spz": save_spz, ".splat": save_splat}


def load_gaussians(path: str | os.PathLike) -> Gaussians:
    """Read a .ply, .spz or .splat file, chosen by its suffix. Raises ValueError as they do."""
    return by_suffix(LOADERS, path)(path)


def save_gaussians(gaussians: Gaussians, path: str | os.PathLike) -> None:
    """Write a .ply, .spz or .splat file, chosen by its suffix."""
    by_suffix(SAVERS, path)(gaussians, path)


def by_suffix(functions: dict, path: str | os.PathLike):
    suffix = Path(path).suffix.lower()
    if suffix not in functions:
        raise ValueError(
            f"{path} has the suffix {suffix!r}, but Gaussians are stored as {', '.join(functions)}."
        )
    return functions[suffix]
