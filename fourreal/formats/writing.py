"""How files of Gaussians are written: whole or not at all, and with errors that name the file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fourreal.files.atomic import atomic_path


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """atomic_path whose OSErrors name `path`; NumPy's of a full disk name no file, for example."""
    try:
        with atomic_path(path) as temporary:
            yield temporary
    except OSError as error:
        if error.filename is None and str(path) not in str(error):
            raise OSError(f"cannot write {path}: {error.strerror or error}") from error
        raise
