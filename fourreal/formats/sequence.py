"""A dynamic scene as a folder of numbered files, the animation that splat editors import."""

import logging
import os
import re
from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path

from fourreal.files.atomic import atomic_frames, frame_names
from fourreal.files.existing import existing_folder
from fourreal.files.media import natural_order
from fourreal.formats.suffixes import FORMATS, load_gaussians, save_gaussians
from fourreal.gaussians import Gaussians, GaussianScene

logger = logging.getLogger(__name__)

NUMBER = re.compile(r"(.*?)(\d{1,18})(\D*)")


def save_sequence(
    scene: GaussianScene, folder: str | os.PathLike, suffix: str = ".ply", spz_version: int = 3
) -> list[Path]:
    """Write frame_0001.ply.. (or .spz, .splat, .glb), one complete file per time, and return them.

    The files appear together once all are written; frames of this suffix that an earlier, longer
    sequence left in the folder are removed, other files stay.
    """
    folder = Path(folder)
    names = frame_names(scene.num_frames, suffix)
    with atomic_frames(folder, names) as temporary:
        for time, name in enumerate(names):
            save_gaussians(scene.at(time), temporary / name, spz_version)
    return [folder / name for name in names]


def save_ply_sequence(scene: GaussianScene, folder: str | os.PathLike) -> list[Path]:
    """Write one complete PLY per time, as save_sequence does."""
    return save_sequence(scene, folder)


def load_ply_sequence(folder: str | os.PathLike) -> list[Gaussians]:
    """The Gaussians of every .ply file of a folder, as load_sequence reads them."""
    return load_sequence(folder, (".ply",))


def load_sequence(
    folder: str | os.PathLike, suffixes: Sequence[str] = tuple(FORMATS)
) -> list[Gaussians]:
    """The Gaussians of every file of a folder, one per time, in natural order of their names.

    Hidden files are no part of it, such as macOS's ._ files. Lower harmonic degrees are padded to
    the highest. Numbers that are missing among the names are told in one warning. Raises
    ValueError when there is no such folder, it has no files of these suffixes or of two of them,
    or one of them is damaged.
    """
    paths = [
        path
        for path in existing_folder(folder).iterdir()
        if path.suffix.lower() in suffixes and not path.name.startswith(".")
    ]
    if not paths:
        raise ValueError(
            f"{folder} has no {' or '.join(suffixes)} files; give the folder of a sequence."
        )
    kinds = sorted({path.suffix.lower() for path in paths})
    if len(kinds) > 1:
        raise ValueError(f"{folder} has files of {' and '.join(kinds)}; keep those of one kind.")
    paths.sort(key=natural_order)
    missing = missing_numbers([path.stem for path in paths])
    if missing:
        logger.warning(
            "%s lacks the numbers %s between %s and %s: the times follow each other without them.",
            *(folder, ", ".join(map(str, missing[:10])), paths[0].name, paths[-1].name),
        )
    times = [load_gaussians(path) for path in paths]
    highest = Gaussians.empty(max(g.harmonics.shape[1] for g in times))
    return [
        g
        if g.harmonics.shape[1] == highest.harmonics.shape[1]
        else Gaussians.concatenate([g, highest])
        for g in times
    ]


def missing_numbers(names: Sequence[str]) -> list[int]:
    """The numbers that a numbered sequence of names leaves out, at most 1000 of them.

    Names that do not differ in their last number alone are not numbered. Steps of one length
    (0, 2, 4) leave nothing out.
    """
    matches = [NUMBER.fullmatch(name) for name in names]
    found = [(m[1], m[3], int(m[2])) for m in matches if m]
    if len(found) < len(names) or len({(before, after) for before, after, _ in found}) > 1:
        return []
    numbers = sorted({number for *_, number in found})
    steps = {b - a for a, b in pairwise(numbers)}
    if not steps or len(steps) == 1:
        return []
    return list(islice((n for a, b in pairwise(numbers) for n in range(a + 1, b)), 1000))
