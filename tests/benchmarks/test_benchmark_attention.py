"""`fourreal benchmark attention`: its formulas, its memory count, and the promise about merge."""

import json

import pytest
import torch

from fourreal.attention import BACKENDS, unavailable
from fourreal.benchmarks.benchmark_attention import (
    REFERENCE,
    SEQUENTIAL,
    AttentionBenchmark,
    Measured,
    benchmark_attention,
    table_rows,
)
from fourreal.benchmarks.measuring import peak_memory

GRID = {"num_views": 4, "num_frames": 6, "tokens": 32, "heads": 2, "head_dim": 16}
TOKENS = 4 * 6 * 32
# Each token needs 6 * 32 keys of its view and 3 * 32 more of its time; two heads of 16 channels.
PAIRS = TOKENS * (6 + 3) * 32 * 2 * 16


@pytest.fixture
def result(monkeypatch, tmp_path, capsys):
    """Of a small grid, without flex, whose compilation takes longer than all tests."""

    def without_flex(backend, *args, **options):
        return "left out" if backend == "flex" else unavailable(backend, *args, **options)

    monkeypatch.setattr("fourreal.benchmarks.benchmark_attention.unavailable", without_flex)
    out = tmp_path / "attention.json"
    benchmark_attention(AttentionBenchmark(**GRID, device="cpu", repeats=1, out=out))
    return json.loads(out.read_text()) | {"table": capsys.readouterr().out}


def test_the_table_has_a_row_of_each_backend_and_of_the_ideal(result):
    rows = result["rows"]
    backends = set(BACKENDS) - {"auto", "flex", "flash-attn"}
    assert {REFERENCE, SEQUENTIAL, "ideal"} | backends == set(rows)
    assert all(f"| {name} |" in result["table"] for name in rows)
    assert result["absent"]["flex"] == "left out"
    assert "flash-attn: it runs on CUDA" in result["table"]
    assert all(rows[name]["difference"] < 1e-6 for name in backends)
    assert rows[SEQUENTIAL]["difference"] is None  # it computes something else


def test_rows_are_in_proportion_to_masked_attention_and_to_a_matrix_product():
    """Of seconds that are given: masked attention, and one that is four times as fast forward."""
    found = Measured(
        forward={REFERENCE: 0.2, "merge": 0.05},
        both={REFERENCE: 0.6},
        memory={REFERENCE: 3 * 2**20, "merge": 2**19},
        difference={REFERENCE: 0.0, "merge": 1e-7},
        rate=4 * PAIRS / 0.01,  # at which the needed pairs take 10 ms
    )
    rows = table_rows(AttentionBenchmark(**GRID), found)
    assert rows["merge"] == {
        "forward_ms": 50.0,
        "forward_ratio": 0.25,
        "both_ms": None,  # it has no gradients
        "both_ratio": None,
        "peak_mb": 0.5,
        "matmul_fraction": pytest.approx(0.2),
        "difference": 1e-7,
    }
    assert rows[REFERENCE]["both_ms"] == 600.0 and rows[REFERENCE]["both_ratio"] == 1.0
    ideal = rows["ideal"]
    assert list(rows)[-1] == "ideal" and ideal["peak_mb"] is ideal["difference"] is None
    assert ideal["forward_ms"] == pytest.approx(10) and ideal["matmul_fraction"] == 1
    # Five more products of 2 FLOP in the backward pass, beside two in the forward one.
    assert ideal["both_ms"] == pytest.approx(10 * (2 + 5) / 2)


def test_merge_takes_less_memory_than_dense(result):
    rows = result["rows"]
    assert rows["merge"]["peak_mb"] < rows["dense"]["peak_mb"]
    mask_mb = TOKENS**2 * 4 / 2**20
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
