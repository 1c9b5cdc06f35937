"""Runs of `fourreal generate` that are stopped at random moments by SIGINT, SIGTERM and SIGKILL.

    python -m tests.commands.stopped_runs --count 60 --seed 1

prints how they ended. What must hold: exit codes of 130 and 143, the old results whole or the new
ones whole, no traceback, and nothing beside them (after SIGKILL: after the next run).
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from ..comfyui import write_random_weights
from .small_job import SMALL

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}


class StoppedRuns:
    """Runs with one --out in a folder; `faults` says what was wrong, `ends` how they ended."""

    def __init__(self, folder: Path, seed: int):
        self.random, self.place = random.Random(seed), folder / "place"
        self.out = self.place / "out"
        (folder / "weights").mkdir()
        write_random_weights(folder / "weights")
        self.environment = {**os.environ, "FOURREAL_WEIGHTS": str(folder / "weights")}
        self.faults: list[str] = []
        self.ends: Counter = Counter()
        start = time.monotonic()
        assert self.start(0).wait() == 0
        self.seconds = time.monotonic() - start

    def start(self, seed: int) -> subprocess.Popen:
        line = [sys.executable, "-m", "fourreal.cli", "generate", "a ball", *SMALL]
        line += ["--out", str(self.out), "--seed", str(seed)]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        return subprocess.Popen(line, env=self.environment, text=True, **pipes)

    def results(self) -> dict[str, bytes]:
        """Every file of the results, but for the grid that a killed run has kept."""
        files = (p.relative_to(self.out) for p in self.out.rglob("*") if p.is_file())
        return {str(p): (self.out / p).read_bytes() for p in files if p.parts[0] != "views"}

    def beside(self) -> set[str]:
        """What lies beside the results, and the grid that a killed run has kept."""
        return ({*os.listdir(self.place)} - {"out"}) | ({*os.listdir(self.out)} & {"views"})

    def stop_one(self, seed: int, number: signal.Signals) -> None:
        """Start a run, stop it at a random moment, and note what is wrong."""
        before, delay = self.results(), self.random.uniform(0.2, self.seconds)
        there = self.beside()  # of a run that was killed, until one comes so far as to remove it
        process = self.start(seed)
        time.sleep(delay)
        process.send_signal(number)
        _, printed = process.communicate()
        self.ends[number.name, process.returncode] += 1
        after = self.results()
        finished = json.loads(after["report.json"])["settings"]["seed"] == seed
        left = self.beside() - there
        faults = {
            "exit code": process.returncode not in (SIGNALS[number], 0),
            "results": not finished and after != before,
            "left": number != signal.SIGKILL and bool(left),
            "traceback": "Traceback" in printed,
        }
        wrong = [name for name, is_wrong in faults.items() if is_wrong]
        if wrong:
            code = process.returncode
            self.faults.append(
                f"{number.name} after {delay:.2f} s: {wrong}, {code}, {left}, {printed}"
            )

    def finish(self, seed: int) -> None:
        """An undisturbed run, after which nothing is beside the results."""
        if self.start(seed).wait() or os.listdir(self.place) != ["out"]:
            self.faults.append(f"at the end there is {os.listdir(self.place)}")
        if (self.out / "views").exists():
            self.faults.append("at the end there are views")


def stop_runs(folder: Path, count: int, seed: int) -> StoppedRuns:
    """Stop `count` runs, by the three signals in turn."""
    runs = StoppedRuns(folder, seed)
    for i in range(count):
        runs.stop_one(i + 1, list(SIGNALS)[i % len(SIGNALS)])
    runs.finish(count + 1)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = stop_runs(Path(folder), given.count, given.seed)
    print(*runs.faults, dict(runs.ends), f"{len(runs.faults)} faults", sep="\n")
    sys.exit(bool(runs.faults))


if __name__ == "__main__":
    main()
