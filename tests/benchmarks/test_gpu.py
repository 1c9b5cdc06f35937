"""`python tasks.py gpu`: its parts at tiny sizes on the CPU, and what becomes of failures."""

import json
import re

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fourreal.benchmarks.benchmark_denoising import (
    DenoisingBenchmark,
    denoising_pipeline,
    random_transformer,
    step_flop,
)
from fourreal.benchmarks.gpu import (
    NO_CUDA,
    OUT,
    TOTAL_SECONDS,
    Part,
    gpu_parts,
    measure,
    measure_gpu,
    run_part,
    table,
)
from fourreal.benchmarks.measuring import PRODUCT_SIZES
from fourreal.cli import main as fourreal

TINY = {part.name: part for part in gpu_parts("cpu", tiny=True)}
COMMANDS = [name for name, part in TINY.items() if part.arguments[0] == "fourreal.cli"]


def timeit(name: str, statement: str, limit: float = 60, rows=lambda _: []) -> Part:
    """A part that runs a statement of Python once."""
    return Part(name, ("timeit", "-n", "1", "-r", "1", statement), limit, rows)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_part_runs_and_its_figures_can_be_read(name, tmp_path):
    part, out = TINY[name], tmp_path / "result"
    assert fourreal([str(out) if a == OUT else a for a in part.arguments[1:]]) == 0
    rows = part.rows(out)
    assert rows and all(row["seconds"] > 0 for row in rows)
    if "attention" in name or "denoising" in name:
        assert any(row["matmul_fraction"] for row in rows)


def test_the_tests_marked_cuda_are_found_and_skipped_without_a_gpu(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    found = run_part(TINY["tests marked cuda"], tmp_path)
    assert found["ok"], found
    assert re.match(r"\d+ skipped, \d+ deselected in ", found["said"][0])


def test_both_lists_have_the_same_parts_within_twenty_minutes():
    parts = gpu_parts("cuda", tiny=False)
    assert [part.name for part in parts] == list(TINY)
    assert sum(part.limit for part in parts) <= TOTAL_SECONDS


def test_a_part_that_fails_or_hangs_does_not_take_the_rest_along(tmp_path, capsys):
    row = {"what": "x", "seconds": 0.5, "peak_gb": 2.0, "matmul_fraction": 0.25}
    full = {"what": "y", "seconds": None, "peak_gb": None, "matmul_fraction": None}

    def unreadable(_) -> list:
        raise KeyError("rows")

    parts = [
        timeit("fails", "raise ValueError('of that sort')"),
        timeit("hangs", "import time; time.sleep(60)", 1.5),
        timeit("gives nothing", "pass", rows=unreadable),
        timeit("works", "pass", rows=lambda _: [row, full]),
    ]
    result = measure(parts, "cpu", tmp_path / "gpu.json")
    assert json.loads((tmp_path / "gpu.json").read_text()) == result
    found = result["parts"]
    assert [own["ok"] for own in found.values()] == [False, False, False, True]
    assert "ValueError: of that sort" in " ".join(found["fails"]["said"])
    assert found["hangs"]["error"] == "stopped after 1.5 s"
    assert found["gives nothing"]["error"] == "its result cannot be read (KeyError('rows'))"
    assert "  FAILED: stopped after 1.5 s" in capsys.readouterr().out.splitlines()
    lines = table(result).splitlines()
    assert lines[0] == f"CPU, PyTorch {torch.__version__}"
    assert lines[4].startswith("| fails | FAILED: ended with code 1 | ")
    assert lines[-2:] == [
        "| works | x | 0.5 | 2.00 | 25% |",
        "| works | y, out of memory |  |  |  |",
    ]


def test_without_cuda_one_sentence_says_so(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert measure_gpu(["--out", str(tmp_path / "gpu.json")]) == 2
    assert capsys.readouterr() == ("", NO_CUDA + "\n")
    assert not list(tmp_path.iterdir())


def test_the_flop_of_a_step_are_those_that_torch_counts():
    """With one view the fused attention is a plain one, which torch's counter knows."""
    config = DenoisingBenchmark("tiny", num_views=1, num_frames=9, height=64, width=96)
    cpu = torch.device("cpu")
    transformer = random_transformer("tiny", cpu, torch.float32)
    pipeline = denoising_pipeline(transformer, 3)
    # Attention as matrix products; the counter does not know the CPU's fused kernel.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        pipeline(
            prompt_embeds=torch.randn(1, 512, 4096),
            num_views=1,
            num_frames=9,
            height=64,
            width=96,
            num_inference_steps=1,
            guidance_scale=1.0,
            output_type="latent",
        )
    per_module = counter.get_flop_counts()
    blocks = [n for n in per_module if n.split(".")[-2:-1] == ["blocks"]]
    counted = sum(sum(per_module[name].values()) for name in blocks)
    assert len(blocks) == 2
    assert step_flop(transformer, config) == pytest.approx(counted, rel=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_that_does_not_fit_into_memory_is_a_row_that_says_so(dtype, monkeypatch, capsys):
    monkeypatch.setitem(PRODUCT_SIZES, "cpu", 64)
    sizes = ["--network", "tiny", "--num-views", "2", "--num-frames", "5", "--height", "32"]
    sizes += ["--width", "32", "--steps", "1", "--dtype", dtype, "--device", "cpu"]
    sizes += ["--backends", "merge", "dense"]
    assert fourreal(["benchmark", "denoising", *sizes]) == 0
    assert "out of memory" not in capsys.readouterr().out

    def dense(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("fourreal.attention.fused.dense_attention", dense)
    assert fourreal(["benchmark", "denoising", *sizes]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("| dense | 1 | out of memory")
    assert "out of memory" not in lines[-2]
