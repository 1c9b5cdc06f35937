"""Files and folders that appear whole or not at all: written beside their place, then renamed."""

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

REPORT = "report.json"  # the last file of a results folder to come
FRAME = re.compile(r"frame_\d+(\.\w+)")


def _beside(path: Path) -> Path:
    """A free hidden name beside `path`, with its suffix. Missing parent folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: what it makes is for its owner only, and the mode survives the rename.
    return path.parent / f".{path.stem}.{secrets.token_hex(4)}{path.suffix}"


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path with the same suffix beside `path`, which replaces it on success.

    Missing parent folders are created. On any exception, KeyboardInterrupt included, the
    temporary file is removed and what was at `path` stays.
    """
    path = Path(path)
    temporary = _beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _folder_beside(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, removed at the end whatever happens."""
    temporary = _beside(folder)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_in(temporary: Path, folder: Path, names: Iterable[str]) -> None:
    """Move these entries of `temporary` into `folder`, in turn, over what has their names."""
    folder.mkdir(exist_ok=True)
    for name in names:
        target = folder / name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(temporary / name, target)


def frame_names(count: int, suffix: str) -> list[str]:
    """frame_0001.png.., with as many digits as the count needs, at least four."""
    digits = max(4, len(str(count)))
    return [f"frame_{i + 1:0{digits}d}{suffix}" for i in range(count)]


@contextmanager
def atomic_frames(folder: str | os.PathLike, names: list[str]) -> Iterator[Path]:
    """A temporary folder to write the files `names` (of frame_names) into.

    On success they appear in `folder` together, and frames with the same suffix that an earlier,
    longer sequence left there are removed; other files stay. On any exception nothing changes.
    """
    folder = Path(folder)
    with _folder_beside(folder) as temporary:
        yield temporary
        suffix = Path(names[0]).suffix
        for old in folder.iterdir() if folder.is_dir() else ():
            match = FRAME.fullmatch(old.name)
            if match and match[1] == suffix and old.name not in names:
                old.unlink()
        _move_in(temporary, folder, names)


@contextmanager
def results_folder(out: str | os.PathLike) -> Iterator[Path]:
    """A temporary folder to write results into.

    On success its entries replace those of `out`, the report last: where it is, the results are
    whole. On any exception nothing changes. Raises ValueError when `out` cannot be written to.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder for the results.")
    if out.exists() and not os.access(out, os.W_OK):
        raise ValueError(f"cannot write to {out}: permission denied; choose another folder.")
    with ExitStack() as stack:
        try:
            temporary = stack.enter_context(_folder_beside(out))
        except OSError as error:
            raise ValueError(
                f"cannot write to {out}: {error.strerror}; choose another folder."
            ) from error
        yield temporary
        (out / REPORT).unlink(missing_ok=True)
        names = (entry.name for entry in temporary.iterdir())
        _move_in(temporary, out, sorted(names, key=lambda name: name == REPORT))
