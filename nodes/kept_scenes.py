"""The files of the scenes that Preview 4D shows, in a bounded folder that outlives a restart.

Each scene is a folder in the output folder, named after its content: what is shown twice is written
once. ComfyUI empties its temporary folder when it starts, so that is no place for them.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import folder_paths

from .progress import progress_reporter

PLACE = Path("4real", "previews")  # in the output folder
MOST_SCENES, MOST_BYTES = 16, 4 * 2**30
DIGITS = 32  # of a scene's name
UNFINISHED = "."  # how the name of a folder begins that is being written

# Names of the scenes that this server has shown, and how many of them have gone since.
shown: set[str] = set()
gone = 0


def scenes_folder() -> Path:
    return Path(folder_paths.get_output_directory()) / PLACE


def is_kept(name: str) -> bool:
    """Whether a scene's files are still there. It then counts as the one last used."""
    folder = scenes_folder() / name
    if set(name) - set("0123456789abcdef") or not (folder / "scene.json").is_file():
        return False
    os.utime(folder)
    shown.add(name)
    return True


def count_gone() -> int:
    """How many of the scenes that this server has shown are no more. While it stays the same, what
    ComfyUI remembers of Preview 4D still leads to files."""
    global gone
    lost = {name for name in tuple(shown) if not (scenes_folder() / name).is_dir()}
    shown.difference_update(lost)
    gone += len(lost)
    return gone


def keep_scene(parts: Mapping[str, Callable[[], bytes]]) -> str:
    """Write a scene's files, given as functions that make them, and give the scene's name. Scenes
    that were not used for longest make room. Nothing is left when it is cancelled."""
    scenes_folder().mkdir(parents=True, exist_ok=True)
    progress = progress_reporter(len(parts))
    folder = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=scenes_folder()))
    try:
        digest = hashlib.sha256()
        for done, (name, content) in enumerate(parts.items()):
            progress(done, len(parts))
            data = content()
            digest.update(f"{name} {len(data)} ".encode())
            digest.update(data)
            (folder / name).write_bytes(data)
        name = digest.hexdigest()[:DIGITS]
        if not is_kept(name):
            folder.chmod(0o755)  # mkdtemp's folders are for their owner alone
            folder.rename(scenes_folder() / name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # none is left where it was renamed
    shown.add(name)
    make_room()
    return name


def last_used(folder: Path) -> float:
    return folder.stat().st_mtime


def make_room() -> None:
    """Remove the scenes that are over the bounds, but for the newest."""
    folders = [f for f in scenes_folder().iterdir() if f.is_dir()]  # not what a file manager adds
    used = 0
    for number, folder in enumerate(sorted(folders, key=last_used, reverse=True)):
        used += sum(f.stat().st_size for f in folder.iterdir())
        if number and (number >= MOST_SCENES or used > MOST_BYTES):
            shutil.rmtree(folder, ignore_errors=True)
