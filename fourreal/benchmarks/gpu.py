"""`python tasks.py gpu`: the CUDA tests and every benchmark on this machine's GPU, in 20 minutes.

Each part is a process of its own with its own limit of time, so that one failure does not take the
rest along. What was measured goes to gpu.json after every part, and at the end to a table.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fourreal.benchmarks.measuring import device_name
from fourreal.files.atomic import REPORT
from fourreal.files.json_files import write_json

ROOT = Path(__file__).resolve().parents[2]
TOTAL_SECONDS = 1200
HEADER = "| part | what | seconds | peak GB | of the matrix product's rate |"
NO_CUDA = "there is no CUDA GPU that PyTorch can use here, so nothing was measured."
GENERATED = "a red ball bouncing"
# At 288 x 512 pixels: tokens per frame, heads of 128 channels.
ATTENTIONS = {"1.3B": (576, 12), "5B": (144, 24)}

Row = dict[str, Any]  # what, seconds, peak_gb, matmul_fraction; None where it was not measured


@dataclass(frozen=True)
class Part:
    """A process to run: its arguments after `python -m`, in which OUT stands for the place of its
    result, how many seconds it may take, and how rows are read from the result."""

    name: str
    arguments: tuple[str, ...]
    limit: float
    rows: Callable[[Path], list[Row]]


OUT = "{out}"
Words = tuple[object, ...]  # options and their values


def row(
    what: str, seconds: float | None, peak_mb: float | None = None, share: float | None = None
) -> Row:
    """A line of the table."""
    peak = None if peak_mb is None else peak_mb / 1024
    return {"what": what, "seconds": seconds, "peak_gb": peak, "matmul_fraction": share}


def attention_rows(result: Path) -> list[Row]:
    """Of `fourreal benchmark attention`: forward, and forward with backward."""
    rows = []
    for name, found in json.loads(result.read_text("utf-8"))["rows"].items():
        peak, share = found["peak_mb"], found["matmul_fraction"]
        rows.append(row(f"{name}, forward", found["forward_ms"] / 1e3, peak, share))
        if found["both_ms"] is not None:
            rows.append(row(f"{name}, with backward", found["both_ms"] / 1e3, peak))
    return rows


def plain_rows(result: Path) -> list[Row]:
    """Of `fourreal benchmark denoising` and `renderer`: their own rows."""
    found = json.loads(result.read_text("utf-8"))["rows"]
    return [
        row(name, own.get("seconds"), own.get("peak_mb"), own.get("matmul_fraction"))
        for name, own in found.items()
    ]


def reconstruction_rows(result: Path) -> list[Row]:
    """Of `fourreal benchmark reconstruction`: each grid that fitted into memory."""
    cells = json.loads(result.read_text("utf-8"))["cells"]
    return [row(grid, own["seconds"], own["memory_gb"] * 1024) for grid, own in cells.items()]


def generate_rows(result: Path) -> list[Row]:
    """Of the report of `fourreal generate`: each stage."""
    stages = json.loads((result / REPORT).read_text("utf-8"))["stages"]
    return [
        row(name, own["seconds"], own.get("peak_gpu_memory_mb")) for name, own in stages.items()
    ]


def command(*words: object) -> tuple[str, ...]:
    """Arguments of a fourreal command with OUT."""
    return ("fourreal.cli", *(str(w) for w in words), "--out", OUT)


def gpu_parts(device: str, tiny: bool) -> list[Part]:
    """All parts on a device; tiny ones run on a CPU in seconds and measure nothing of interest."""
    on: Words = ("--device", device)
    own: Words
    sizes: Words
    tests = "tests/attention/test_attention.py" if tiny else "tests"
    pytest = ("pytest", "-m", "cuda", "-rs", "-p", "no:cacheprovider", tests)
    parts = [Part("tests marked cuda", pytest, 240, lambda _: [])]
    for model, (tokens, heads) in ATTENTIONS.items():
        for frames in (8, 16):
            sizes = ("--num-views", 8, "--num-frames", frames, "--tokens", tokens, "--heads", heads)
            sizes = (*sizes, "--head-dim", 128, "--dtype", "bfloat16")
            if tiny:
                sizes = ("--num-views", 2, "--num-frames", 2, "--tokens", 4, "--repeats", 1)
            arguments = command("benchmark", "attention", *sizes, *on)
            parts.append(Part(f"attention {model} 8x{frames}", arguments, 60, attention_rows))
    for model, backend, limit in (
        ("1.3B", "auto", 80),
        ("1.3B", "dense", 130),
        ("5B", "auto", 80),
        ("5B", "dense", 100),
    ):
        own = ("--network", model, "--backends", backend)
        if tiny:
            own = ("--network", "tiny", "--backends", backend, "--num-views", 2, "--num-frames", 5)
            own = (*own, "--height", 32, "--width", 32, "--steps", 1, 2, "--dtype", "float32")
        arguments = command("benchmark", "denoising", *own, *on)
        parts.append(Part(f"denoising {model} {backend}", arguments, limit, plain_rows))
    grid = ("--num-views", 2, "--num-frames", 1, 2, "--height", 28, "--width", 42)
    own = (*grid, "--embed-dim", 64, "--layers", 4) if tiny else ()
    arguments = command("benchmark", "reconstruction", *own, *on)
    parts.append(Part("reconstruction VGGT-1B", arguments, 120, reconstruction_rows))
    counts = ("500",) if tiny else ("100000", "1000000")
    arguments = command("benchmark", "renderer", "--gaussians", *counts, *on)
    parts.append(Part("renderers", arguments, 120, plain_rows))
    own = ("--num-views", 2, "--num-frames", 5, "--num-inference-steps", 1) if tiny else ()
    arguments = command("generate", GENERATED, *own, *on)
    parts.append(Part("generate, embedded models", arguments, 90, generate_rows))
    return parts


def run_part(part: Part, folder: Path) -> dict[str, Any]:
    """What a part gave: ok, wall_seconds, rows, and of a failure error, the end of what it said."""
    out, log = folder / "result", folder / "log"
    words = [sys.executable, "-m", *(str(out) if a == OUT else a for a in part.arguments)]
    found: dict[str, Any] = {"ok": False, "command": " ".join(["python", *words[1:]]), "rows": []}
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    start = time.monotonic()
    with log.open("wb") as said:
        try:
            code = subprocess.run(
                words, cwd=ROOT, env=environment, stdout=said, stderr=said, timeout=part.limit
            ).returncode
            error = f"ended with code {code}" if code else None
        except subprocess.TimeoutExpired:
            error = f"stopped after {part.limit:g} s"
    found["wall_seconds"] = round(time.monotonic() - start, 1)
    lines = log.read_text("utf-8", errors="replace").strip().splitlines()
    if error is None:
        try:
            return found | {"ok": True, "rows": part.rows(out), "said": lines[-1:]}
        except (OSError, ValueError, KeyError) as problem:
            error = f"its result cannot be read ({problem!r})"
    return found | {"error": error, "said": lines[-12:]}


def table(result: dict[str, Any]) -> str:
    """The Markdown table of a gpu.json, under the card's name."""

    def cell(value: float | None, form: str) -> str:
        return "" if value is None else form.format(value)

    lines = [f"{result['device']}, PyTorch {result['torch']}", "", HEADER, "|---" * 5 + "|"]
    for name, found in result["parts"].items():
        own = found["rows"] or [row("passed: " + " ".join(found["said"]), found["wall_seconds"])]
        if not found["ok"]:
            own = [row("FAILED: " + found["error"], found["wall_seconds"])]
        for line in own:
            cells = [
                cell(line["seconds"], "{:.3g}"),
                cell(line["peak_gb"], "{:.2f}"),
                cell(line["matmul_fraction"], "{:.0%}"),
            ]
            what = line["what"].replace("|", "/")
            if found["ok"] and line["seconds"] is None:
                what += ", out of memory"
            lines.append(f"| {name} | {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def measure(parts: list[Part], device: str, out: Path) -> dict[str, Any]:
    """Run the parts one after the other; out is written anew after each."""
    name = device_name(torch.device(device))
    result: dict[str, Any] = {"device": name, "torch": torch.__version__, "parts": {}}
    for part in parts:
        print(f"{part.name} (at most {part.limit:g} s)", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            found = result["parts"][part.name] = run_part(part, Path(folder))
        print("  ok" if found["ok"] else "  FAILED: " + found["error"], flush=True)
        if not found["ok"]:
            print(*(f"    {line}" for line in found["said"]), sep="\n", flush=True)
        write_json(out, result)
    return result


def measure_gpu(arguments: list[str] | None = None) -> int:
    """0 when all parts worked, 1 when one failed, 2 where there is no CUDA GPU."""
    parser = argparse.ArgumentParser(prog="python tasks.py gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="file for the numbers")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)  # for the tests
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print(NO_CUDA, file=sys.stderr)
        return 2
    result = measure(gpu_parts(options.device, options.tiny), options.device, options.out)
    print(table(result))
    return 0 if all(found["ok"] for found in result["parts"].values()) else 1


if __name__ == "__main__":
    sys.exit(measure_gpu())
