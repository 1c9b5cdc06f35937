"""The benchmark's table, and random weights of any size."""

import json

import torch

from fourreal.benchmarks.benchmark_reconstruction import (
    ReconstructionBenchmark,
    benchmark_reconstruction,
    random_grid,
    random_reconstructor,
)

from ..tiny import tiny_config

SIZE = 32


def test_the_benchmark_fills_its_table(tmp_path, capsys):
    config = ReconstructionBenchmark(
        (1, 2), (1, 2), 28, 42, embed_dim=64, layers=4, device="cpu", out=tmp_path / "b.json"
    )
    benchmark_reconstruction(config)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[3].startswith("| 1 |") and lines[4].count(" GB / ") == 2
    cells = json.loads((tmp_path / "b.json").read_text())["cells"]
    assert set(cells) == {"1x1", "1x2", "2x1", "2x2"}
    assert all(c["seconds"] > 0 and c["memory_gb"] > 0 for c in cells.values())
    assert 0 < cells["1x1"]["gaussians"] < cells["2x2"]["gaussians"]


def test_random_weights_of_any_size_give_finite_maps():
    torch.manual_seed(0)
    reconstructor = random_reconstructor(tiny_config(layer_scale_init=0.01))
    assert reconstructor.model.aggregator.frame_blocks[0].attn.qkv.weight.dtype == torch.float32
    assert reconstructor.model.aggregator.temporal_is_trained()
    found = reconstructor(random_grid(2, 3, SIZE, SIZE))
    assert torch.isfinite(found.depth).all() and found.depth.std() > 0
    assert found.intrinsics[0, 0, 0] < 4 * SIZE
