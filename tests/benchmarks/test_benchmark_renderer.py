"""`fourreal benchmark renderer` on a scene small enough for a test."""

import pytest

from fourreal.benchmarks.benchmark_renderer import (
    RendererBenchmark,
    benchmark_renderer,
    benchmark_scene,
)
from fourreal.rendering import render


def test_it_prints_time_and_memory_beside_a_matrix_product(capsys):
    benchmark_renderer(RendererBenchmark((500,), "cpu", 1))
    header, line = capsys.readouterr().out.strip().splitlines()
    assert "2048^3 float32 matrix product" in header
    for words in ("torch 500 Gaussians, 256 x 256", "forward", "with backward", "MB", "matmul"):
        assert words in line
    with pytest.raises(ValueError, match="at least 1"):
        benchmark_renderer(RendererBenchmark((), "cpu", 1))


def test_its_scene_fills_the_image():
    alpha = render(*benchmark_scene(30_000, 64), 64, 64).alpha
    assert alpha.min() > 0.9
