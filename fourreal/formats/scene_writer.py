"""A scene written as any format, by the name of the target: the counterpart of open_scene."""

import os
from pathlib import Path

from fourreal.formats.four_dgs import save_4dgs
from fourreal.formats.scene_file import save_scene
from fourreal.formats.sequence import save_sequence
from fourreal.formats.suffixes import FORMATS, save_gaussians
from fourreal.formats.usd import SUFFIXES as USD_SUFFIXES
from fourreal.formats.usd import save_usd
from fourreal.formats.zip_sequence import save_zip
from fourreal.gaussians import GaussianScene

WHOLE = {".safetensors": save_scene, ".4dgs": save_4dgs, ".zip": save_zip} | dict.fromkeys(
    USD_SUFFIXES, save_usd
)


def write_scene(
    scene: GaussianScene,
    path: str | os.PathLike,
    *,
    time: int | None = None,
    sequence: str = ".ply",
    spz_version: int = 3,
) -> list[Path]:
    """Write a scene and return the files.

    *.safetensors, *.usd (.usda, .usdc), *.4dgs and *.zip hold all times; *.ply, *.spz, *.splat and
    *.glb hold one, `time` from 0, which may be left out where the scene has one; a name without
    suffix is a folder with a file of the suffix `sequence` for each time. Raises ValueError for
    another suffix, for a time that the scene does not have, where a time is needed or cannot be,
    and as the formats' own writers do.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if time is not None and not 0 <= time < scene.num_frames:
        raise ValueError(f"time is {time}, but the scene has times 0 to {scene.num_frames - 1}.")
    if time is not None and suffix not in FORMATS:
        raise ValueError(
            f"a time is chosen for {', '.join(FORMATS)}, but {path} holds all times; leave it out."
        )
    if suffix in WHOLE:
        WHOLE[suffix](scene, path)
        return [path]
    if suffix in FORMATS:
        if time is None and scene.num_frames > 1:
            raise ValueError(
                f"the scene has {scene.num_frames} times, but {path} holds one; choose a time "
                f"with --time (0 to {scene.num_frames - 1}), or give a folder (a name without "
                "ending) for one file per time."
            )
        save_gaussians(scene.at(time or 0), path, spz_version)
        return [path]
    if suffix and not path.is_dir():
        kinds = ", ".join([*WHOLE, *FORMATS])
        raise ValueError(
            f"{path} has the suffix {suffix!r}, but scenes are written as {kinds}, or to a folder."
        )
    return save_sequence(scene, path, sequence, spz_version)
