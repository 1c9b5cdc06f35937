"""Media files of a folder: which count as inputs, and in what order."""

import os
import re
from pathlib import Path

from fourreal.files.existing import existing_folder


def natural_order(path: Path) -> list[tuple[int, str]]:
    """A sort key by which frame_2 comes before frame_10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in parts]


def is_hidden(path: Path, root: Path) -> bool:
    """Whether a path below `root` is hidden: .DS_Store, macOS's ._photo.jpg, or in __MACOSX."""
    return any(p.startswith(".") or p == "__MACOSX" for p in path.relative_to(root).parts)


def subfolders(folder: Path, pattern: str = "*") -> list[Path]:
    """The folders in a folder that match a glob pattern, in natural order, but for hidden ones and
    for links to a folder that they are in, which have no end."""
    found = [p for p in folder.glob(pattern) if p.is_dir() and not is_hidden(p, folder)]
    return sorted((p for p in found if not _leads_back(p)), key=natural_order)


def _leads_back(path: Path) -> bool:
    """Whether a path is a link to a folder that it is in."""
    if not path.is_symlink():
        return False
    target = path.resolve()
    return any(parent.resolve() == target for parent in path.absolute().parents)


def media_files(
    folder: str | os.PathLike, suffixes: tuple[str, ...], pattern: str = "*"
) -> list[Path]:
    """The files of a folder that match a glob pattern and end in one of the suffixes (whatever
    their case), in natural order of their names; hidden ones are left out.

    Raises ValueError when there is no such folder.
    """
    folder = existing_folder(folder)
    found = [
        path
        for path in folder.glob(pattern)
        if path.suffix.lower() in suffixes and path.is_file() and not is_hidden(path, folder)
    ]
    return sorted(found, key=lambda path: (natural_order(path), path))
