"""Damage files of every kind that is read, and see that each ends in a result or one sentence.

    python -m tests.fuzz --count 3000 --seed 7 --kinds binary.ply s.usda

runs so many mutations of each kind and prints what broke the promise: exceptions other than
ValueError and OSError, messages of several lines or without the name, results that are not
finite, more than SECONDS or MEMORY, and dead processes. --keep FOLDER keeps those files.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.formats.damage import KINDS, Kind, damaged

SECONDS = 10.0
MEMORY = 64 * 2**20  # for small files; what they may unfold to is stated at the readers
ALLOWED = ("ValueError", "OSError", "FileNotFoundError")


def fault(kind: str, name: str, result: dict) -> str | None:
    """How a result of measure_loading.py breaks the promise, or None."""
    if "error" in result:
        if result["error"] not in ALLOWED:
            return f"{result['error']}: {result['text'][:200]}"
        if "\n" in result["text"] or name not in result["text"]:
            return f"no sentence about the file: {result['text'][:200]!r}"
    elif not result["finite"] and kind != "s.safetensors":  # which is mapped, and not read
        return "a result that is not finite"
    if result["seconds"] > SECONDS:
        return f"{result['seconds']:.0f} s"
    if (result["grown"] or 0) > MEMORY:
        return f"{result['grown'] / 2**20:.0f} MB"
    return None


def measure(paths: list[Path]) -> list[dict | None]:
    """What measure_loading.py says of each file; None for one that ended its process."""
    results: list[dict | None] = []
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    environment["PXR_WORK_THREAD_LIMIT"] = "1"  # threads do not live on in forks
    while len(results) < len(paths):
        answer = subprocess.run(
            [sys.executable, "-m", "tests.formats.measure_loading"],
            input="".join(f"{path}\n" for path in paths[len(results) :]),
            env=environment,
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        found = [json.loads(line) for line in answer.stdout.splitlines()]
        results += found
        if len(results) < len(paths):
            results.append(None)
    return results


def run_kind(kind: Kind, count: int, seed: int, folder: Path) -> tuple[Counter, dict[Path, str]]:
    """(how many were read and refused, the faults by file) of so many mutations of a kind."""
    whole = folder / f"whole_{kind.name}"
    kind.write(whole, 6, 1)
    content = whole.read_bytes()
    paths = [whole]
    for i in range(count):
        paths.append(folder / f"{i}_{kind.name}")
        paths[-1].write_bytes(damaged(kind, content, f"{seed} {i}"))
    ends, faults = Counter(), {}
    for path, result in zip(paths, measure(paths), strict=True):
        ends["dead" if result is None else "refused" if "error" in result else "read"] += 1
        broken = "the process ended" if result is None else fault(kind.name, path.name, result)
        if path == whole:  # which is slower and larger, for it brings the code in
            assert result is not None and "error" not in result, result
        elif broken:
            faults[path] = broken
    return ends, faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="mutations of each kind")
    parser.add_argument("--seed", type=int, help="of the mutations (default: another each time)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--keep", type=Path, help="folder for the files that broke the promise")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    broken = 0
    for name in options.kinds:
        with tempfile.TemporaryDirectory() as folder:
            ends, faults = run_kind(KINDS[name], options.count, seed, Path(folder))
            told = ", ".join(f"{number} {end}" for end, number in sorted(ends.items()))
            print(f"{name}, seed {seed}: {told}, {len(faults)} faults", flush=True)
            for path, text in faults.items():
                print(f"  {path.name}: {text}", flush=True)
                if options.keep:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    (options.keep / path.name).write_bytes(path.read_bytes())
            broken += len(faults)
    sys.exit(broken > 0)


if __name__ == "__main__":
    main()
