"""The formats of Gaussians by their files' suffixes. A new one is a module, with a line here."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fourreal.formats.glb import load_glb, save_glb
from fourreal.formats.ply import load_ply, save_ply
from fourreal.formats.splat import load_splat, save_splat
from fourreal.formats.spz import load_spz, save_spz
from fourreal.gaussians import Gaussians


class GaussiansFormat(NamedTuple):
    """How files of one suffix are read and written."""

    load: Callable[[str | os.PathLike], Gaussians]
    save: Callable[[Gaussians, str | os.PathLike], None]


FORMATS = {
    ".ply": GaussiansFormat(load_ply, save_ply),
    ".spz": GaussiansFormat(load_spz, save_spz),
    ".splat": GaussiansFormat(load_splat, save_splat),
    ".glb": GaussiansFormat(load_glb, save_glb),
}


def load_gaussians(path: str | os.PathLike) -> Gaussians:
    """Read a .ply, .spz, .splat or .glb file, chosen by its suffix (of any case).

    Raises ValueError for another suffix, and as the formats' own readers do.
    """
    return _format_of(path).load(path)


def save_gaussians(gaussians: Gaussians, path: str | os.PathLike, spz_version: int = 3) -> None:
    """Write a .ply, .spz (version 3 or 4), .splat or .glb file, chosen by its suffix (of any case).

    Raises ValueError for another suffix, and as the formats' own writers do.
    """
    chosen = _format_of(path)
    if chosen.save is save_spz:
        save_spz(gaussians, path, spz_version)
    else:
        chosen.save(gaussians, path)


def _format_of(path: str | os.PathLike) -> GaussiansFormat:
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(
            f"{path} has the suffix {suffix!r}, but Gaussians are stored as {', '.join(FORMATS)}."
        )
    return FORMATS[suffix]
