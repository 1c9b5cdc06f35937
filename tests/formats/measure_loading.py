"""Load files one after another in a process of their own, and measure what each one costs.

Reads paths from standard input, prints a line of JSON for each: the error (class and text), or the
number of Gaussians and whether all their values are finite; seconds; and `grown`, by how many bytes
the peak of resident memory rose above where it was before. What takes more than a MB is loaded
again, and the smaller rise counts: code that is read in for the first time counts as memory too.
`grown` is null where the system does not tell (only Linux does). The child processes that read USD
are forks of this one, where there are forks: importing OpenUSD takes each half a second.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch

from fourreal.formats import (
    load_gaussians,
    load_scene,
    load_usd,
    open_scene,
    usd,
    usd_reader,
)
from fourreal.formats.keyframes import load_keyframes
from fourreal.gaussians import Gaussians


def answer_of_a_fork(command: list[str], **_) -> subprocess.CompletedProcess:
    """What subprocess.run would say of usd_reader's command."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.dup2(writing, sys.stdout.fileno())
            sys.argv = command[1:]
            usd_reader.answer()
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading, "rb") as pipe:
        printed = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return subprocess.CompletedProcess(command, code, printed)


def fork_for_usd() -> None:
    """Import OpenUSD, and let it be read in forks from now on."""
    import pxr.Usd
    import pxr.UsdGeom
    import pxr.UsdVol  # noqa: F401 - for the forks

    usd.subprocess = SimpleNamespace(
        run=answer_of_a_fork,
        DEVNULL=subprocess.DEVNULL,
        TimeoutExpired=subprocess.TimeoutExpired,
    )


def resident(field: str) -> int:
    """VmRSS or VmHWM (its peak) in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", status)[1])


def measured(path: str) -> dict:
    first = measured_once(path)
    if (first["grown"] or 0) <= 2**20:
        return first
    return min(first, measured_once(path), key=lambda result: result["grown"])


def loaded(path: str) -> list[Gaussians]:
    """The Gaussians of a file, chosen by its suffix; none of keyframes, which are read too."""
    suffix = Path(path).suffix
    if suffix == ".json":
        load_keyframes(path, torch.eye(3, 4)[None], 2)
        return []
    if suffix == ".safetensors":
        scene = load_scene(path)
        return [scene.static, *scene.dynamic]
    if suffix in (".zip", ".4dgs"):
        scene = open_scene(path)
        return [scene.static, *scene.dynamic]
    return load_usd(path) if suffix.startswith(".usd") else [load_gaussians(path)]


def measured_once(path: str) -> dict:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = resident("VmRSS")
    except OSError:
        before = None
    begin = time.perf_counter()
    result = {}
    try:
        parts = loaded(path)
    except Exception as error:
        result = {"error": type(error).__name__, "text": str(error)}
    result["seconds"] = time.perf_counter() - begin
    result["grown"] = None if before is None else resident("VmHWM") - before
    if "error" not in result:
        result["count"] = sum(map(len, parts))
        result["float32"] = all(x.dtype == torch.float32 for p in parts for x in vars(p).values())
        result["finite"] = all(bool(x.isfinite().all()) for p in parts for x in vars(p).values())
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        if ".usd" in line and hasattr(os, "fork") and usd.subprocess is subprocess:
            fork_for_usd()
        print(json.dumps(measured(line.rstrip("\n"))), flush=True)
