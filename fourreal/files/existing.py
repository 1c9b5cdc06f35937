"""Files to read: one sentence when they are missing."""

import os
from pathlib import Path


def existing_file(path: str | os.PathLike) -> Path:
    """The path. Raises ValueError when there is no file at it."""
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        if path.exists() and not path.is_dir():  # a FIFO would wait, a device never end
            found = "is a pipe or a device"
        raise ValueError(f"{path} {found}; give the path of a file.")
    return path


def existing_folder(path: str | os.PathLike) -> Path:
    """The path. Raises ValueError when there is no folder at it."""
    path = Path(path)
    if not path.is_dir():
        found = "is a file" if path.is_file() else "does not exist"
        raise ValueError(f"{path} {found}; give the path of a folder.")
    return path
