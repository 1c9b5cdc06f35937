"""Files of Gaussians and scenes: PLY, PLY sequences, SPZ, .splat, OpenUSD and the scene file.

A new format of Gaussians is a module here, with a line in FORMATS.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fourreal.formats.ply import load_ply, save_ply
from fourreal.formats.scene_file import load_scene, save_scene
from fourreal.formats.sequence import load_ply_sequence, save_ply_sequence
from fourreal.formats.splat import load_splat, save_splat
from fourreal.formats.spz import load_spz, save_spz
from fourreal.formats.usd import load_usd, save_usd
from fourreal.gaussians import Gaussians

__all__ = [
    "FORMATS",
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


class GaussiansFormat(NamedTuple):
    """How files of one suffix are read and written."""

    load: Callable[[str | os.PathLike], Gaussians]
    save: Callable[[Gaussians, str | os.PathLike], None]


FORMATS = {
    ".ply": GaussiansFormat(load_ply, save_ply),
    ".spz": GaussiansFormat(load_spz, save_spz),
    ".splat": GaussiansFormat(load_splat, save_splat),
}


def load_gaussians(path: str | os.PathLike) -> Gaussians:
    """Read a .ply, .spz or .splat file, chosen by its suffix (of any case).

    Raises ValueError for another suffix, and as the formats' own readers do.
    """
    return _format_of(path).load(path)


def save_gaussians(gaussians: Gaussians, path: str | os.PathLike) -> None:
    """Write a .ply, .spz or .splat file, chosen by its suffix (of any case).

    Raises ValueError for another suffix, and as the formats' own writers do.
    """
    _format_of(path).save(gaussians, path)


def _format_of(path: str | os.PathLike) -> GaussiansFormat:
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(
            f"{path} has the suffix {suffix!r}, but Gaussians are stored as {', '.join(FORMATS)}."
        )
    return FORMATS[suffix]
