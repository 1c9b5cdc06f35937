"""`fourreal benchmark attention`: its formulas, its memory count, and the promise about merge."""

import json

import pytest
import torch

from fourreal.attention import unavailable
from fourreal.benchmarks import peak_memory
from fourreal.benchmarks.benchmark_attention import (
    REFERENCE,
    AttentionBenchmark,
    benchmark_attention,
)
from fourreal.cli import main


@pytest.fixture
def result(monkeypatch, tmp_path, capsys):
    """Of a small grid, without flex, whose compilation takes longer than all tests."""

    def without_flex(backend, *args, **options):
        return "left out" if backend == "flex" else unavailable(backend, *args, **options)

    monkeypatch.setattr("fourreal.benchmarks.benchmark_attention.unavailable", without_flex)
    out = tmp_path / "attention.json"
    benchmark_attention(
        AttentionBenchmark(
            views=4, frames=6, tokens=32, heads=2, head_dim=16, device="cpu", repeats=1, out=out
        )
    )
    return json.loads(out.read_text()) | {"table": capsys.readouterr().out}


def test_table_has_each_backend_its_ratios_and_the_ideal(result):
    rows = result["rows"]
    assert {REFERENCE, "merge", "gather", "matmul", "dense", "sequential", "ideal"} == set(rows)
    assert all(f"| {name} |" in result["table"] for name in rows)
    assert "flash-attn: it runs on CUDA" in result["table"]
    # Each of 768 tokens needs 6 * 32 keys of its view and 3 * 32 of its time.
    flops = 4 * 768 * (6 + 3) * 32 * 2 * 16
    ideal = rows["ideal"]["forward_ms"] / 1e3
    assert ideal * result["matmul_flops"] == pytest.approx(flops)
    for name in ("merge", "gather", "matmul", "dense"):
        row = rows[name]
        assert row["difference"] < 1e-6
        assert row["forward_ratio"] == pytest.approx(
            row["forward_ms"] / rows[REFERENCE]["forward_ms"]
        )
        assert row["matmul_fraction"] == pytest.approx(ideal * 1e3 / row["forward_ms"])


def test_merge_takes_less_memory_than_dense(result):
    rows = result["rows"]
    assert rows["merge"]["peak_mb"] < rows["dense"]["peak_mb"]
    mask_mb = 768**2 * 4 / 2**20
    assert rows["dense"]["peak_mb"] > mask_mb > rows["gather"]["peak_mb"] / 2


def test_peak_memory_counts_what_is_alive_at_one_time():
    def work():
        a = torch.empty(1000, 1000)
        b = torch.empty(1000, 1000)
        del a
        c = torch.empty(1000, 1000)
        return b, c

    peak = peak_memory(work, torch.device("cpu"))
    assert peak == pytest.approx(2 * 4e6, rel=1e-3)


def test_unknown_types_are_refused():
    with pytest.raises(ValueError, match="'int8', but must be float32"):
        benchmark_attention(AttentionBenchmark(dtype="int8"))


def test_info_says_which_attention_and_why(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert "view-time attention: " in printed and "gives the log-sum-exp" in printed
    assert "  gather: available\n" in printed
