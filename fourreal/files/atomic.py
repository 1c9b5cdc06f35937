"""Files that appear whole or not at all: written beside their place, then renamed."""

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPORT = "report.json"  # the last file of a results folder to come
FRAME = re.compile(r"frame_\d+(\.\w+)")


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path with the same suffix beside `path`, which replaces it on success.

    Missing parent folders are created. On any exception, KeyboardInterrupt included, the
    temporary file is removed and what was at `path` stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are readable by their owner only, and the mode survives the rename.
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        yield temporary
        folder.mkdir(exist_ok=True)
        suffix = Path(names[0]).suffix
        for old in folder.iterdir():
            match = FRAME.fullmatch(old.name)
            if match and match[1] == suffix and old.name not in names:
                old.unlink()
        for name in names:
            os.replace(temporary / name, folder / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def results_folder(out: Path):
    """A folder to write into; its entries replace those of `out` when all is done, and are
    removed when anything goes wrong."""
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder for the results.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise ValueError(
            f"cannot write to {out}: {error.strerror}; choose another folder with --out."
        ) from error
    try:
        if out.exists() and not os.access(out, os.W_OK):
            raise ValueError(f"cannot write to {out}: permission denied; choose another --out.")
        yield temporary
        out.mkdir(exist_ok=True)
        # The report is the last to come: where it is, the results are whole.
        (out / REPORT).unlink(missing_ok=True)
        for entry in sorted(temporary.iterdir(), key=lambda entry: entry.name == REPORT):
            target = out / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(entry, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
