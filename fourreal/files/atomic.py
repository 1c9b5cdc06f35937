"""Files and folders that appear whole or not at all: written beside their place, then renamed."""

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fourreal.files.temporary import folder_beside, locked, put_in_place, signals_held

REPORT = "report.json"  # the last file of a results folder to come
FRAME = re.compile(r"frame_\d+(\.\w+)")


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path with the same name in a hidden folder beside `path`, which replaces it on
    success.

    Missing parent folders are created. On any exception, KeyboardInterrupt included, the
    temporary file is removed and what was at `path` stays.
    """
    path = Path(path)
    with folder_beside(path) as folder:
        temporary = folder / path.name
        yield temporary
        os.replace(temporary, path)


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
    with folder_beside(folder) as temporary:
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

    On success it takes the place of `out` in one step, with what else was in `out`; of two
    processes with one `out` the later one's results stay, whole. A folder that cannot be renamed (a
    mounted one, or one that the process stands in) gets the entries in turn, the report last: where
    that is, the results are whole. On any exception nothing changes; Ctrl-C and SIGTERM wait for
    the switch. Raises ValueError when `out` cannot be written to.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder for the results.")
    if out.exists() and not os.access(out, os.W_OK):
        raise ValueError(f"cannot write to {out}: permission denied; choose another folder.")
    folder = Path(os.path.realpath(out))
    fixed = _cannot_be_renamed(folder)
    with ExitStack() as stack:
        try:
            temporary = stack.enter_context(
                folder_beside(folder / folder.name if fixed else folder)
            )
        except OSError as error:
            raise ValueError(
                f"cannot write to {out}: {error.strerror}; choose another folder."
            ) from error
        yield temporary
        with signals_held(), locked(folder if fixed else folder.parent):
            if fixed:
                _exchange_entries(temporary, folder)
                return
            for entry in folder.iterdir() if folder.exists() else ():
                if not (temporary / entry.name).exists():
                    _carry_over(entry, temporary / entry.name)
            put_in_place(temporary, folder)


def _cannot_be_renamed(folder: Path) -> bool:
    """Whether a folder has to keep its place: it is mounted, a process of ours stands in it, or the
    one above is not to be written to."""
    stands = folder == Path.cwd() or folder in Path.cwd().parents
    above = folder.parent
    return stands or os.path.ismount(folder) or (above.exists() and not os.access(above, os.W_OK))


def _carry_over(source: Path, target: Path) -> None:
    """A second name for a file, and for the files of a folder; a copy where that cannot be."""

    def link(source: str | Path, target: str | Path) -> None:
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError:
            shutil.copy2(source, target, follow_symlinks=False)

    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, copy_function=link)
    else:
        link(source, target)


def _exchange_entries(temporary: Path, folder: Path) -> None:
    """Move the entries of `temporary` into `folder`, the report last and the old one away first;
    on an error all goes back."""
    names = sorted((p.name for p in temporary.iterdir()), key=lambda name: name == REPORT)
    before = temporary / secrets.token_hex(4)
    before.mkdir()
    done: list[tuple[Path, Path]] = []

    def move(source: Path, target: Path) -> None:
        os.rename(source, target)
        done.append((source, target))

    try:
        for name in [REPORT, *names[: -1 if REPORT in names else None]]:
            if os.path.lexists(folder / name):
                move(folder / name, before / name)
        for name in names:
            move(temporary / name, folder / name)
    except BaseException:
        for source, target in reversed(done):
            os.rename(target, source)
        raise
