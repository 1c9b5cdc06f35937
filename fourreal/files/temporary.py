"""Temporary folders that no killed process leaves for good, and the switch of two folders at once.

A temporary folder is locked (flock) by the process that made it for as long as that works on it;
the lock goes with the process, however that ends. So the next one that writes to the same place can
tell what is left of a dead process from what another one is working on, and removes it. Where there
are no such locks (Windows, some network disks), leftovers stay.
"""

import ctypes
import errno
import os
import re
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

BEFORE = ".before"  # ends the name of a folder that was put aside to make room for another
TOKEN = "[0-9a-f]{8}"
PATIENCE = 10.0  # seconds that a lock is waited for
_own: set[Path] = set()  # temporary folders of this process
AT_WORKING_FOLDER, EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


def _beside(path: Path) -> Path:
    """A free hidden name beside `path`, with its suffix. Missing parent folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: what it makes is for its owner only, and the mode survives the rename.
    return path.parent / f".{path.stem}.{secrets.token_hex(4)}{path.suffix}"


def _lock(folder: Path) -> int | None:
    """A descriptor that holds the lock of a folder until it is closed; None where there are no
    locks. Raises BlockingIOError when another one has it."""
    if fcntl is None:
        return None
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return handle


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A context that one process at a time is in, of those that name the same folder. After
    PATIENCE seconds it goes on without the lock: no step that is done under it takes so long."""
    handle, end = None, time.monotonic() + PATIENCE
    # A temporary folder of our own is locked already, and no other process looks into it.
    while folder not in _own and time.monotonic() < end:
        try:
            handle = _lock(folder)
            break
        except BlockingIOError:
            time.sleep(0.005)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, removed at the end whatever happens. What dead processes
    left for the same path is removed first."""
    temporary = _beside(path)
    with locked(path.parent):
        remove_leftovers(path)
        temporary.mkdir()
        handle = _lock(temporary)
    _own.add(temporary)
    try:
        yield temporary
    finally:
        _own.discard(temporary)
        shutil.rmtree(temporary, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary folders of dead processes beside `path`; what one of them put aside
    comes back when nothing took its place."""
    pattern = re.compile(
        rf"\.{re.escape(path.stem)}\.{TOKEN}{re.escape(path.suffix)}({re.escape(BEFORE)})?"
    )
    with os.scandir(path.parent) as entries:
        found = [entry.name for entry in entries if pattern.fullmatch(entry.name)]
    for name in found:
        left = path.parent / name
        try:
            handle = _lock(left) if left.is_dir() else None
        except BlockingIOError:
            continue  # another process works on it
        if handle is None:
            continue
        if name.endswith(BEFORE) and not path.exists():
            left.rename(path)
        else:
            shutil.rmtree(left, ignore_errors=True)
        os.close(handle)


@contextmanager
def signals_held() -> Iterator[None]:
    """A context that Ctrl-C and SIGTERM wait for: they are handled when it ends."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are handled in the main thread
        return
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if came:
            signal.raise_signal(came[0])


def put_in_place(new: Path, folder: Path) -> None:
    """Give the folder `new` the name of `folder`, whose content is then gone. There is always a
    whole folder of that name on Linux; elsewhere it is missing between two renames.

    Raises OSError; then `folder` is as it was.
    """
    if not folder.exists():
        new.rename(folder)
        return
    os.chmod(new, folder.stat().st_mode)
    if _exchange(new, folder):
        shutil.rmtree(new, ignore_errors=True)  # which is the old one now
        return
    aside = new.with_name(new.name + BEFORE)
    folder.rename(aside)
    try:
        new.rename(folder)
    except BaseException:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; False where the system cannot do that."""
    if fcntl is None or not hasattr(library := ctypes.CDLL(None, use_errno=True), "renameat2"):
        return False
    names = AT_WORKING_FOLDER, os.fsencode(one), AT_WORKING_FOLDER, os.fsencode(other)
    if library.renameat2(*names, EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM):
        return False
    raise OSError(code, os.strerror(code), str(other))
