"""`fourreal benchmark renderer` on a scene small enough for a test."""

import re

import pytest

from fourreal.benchmarks.benchmark_renderer import (
    RendererBenchmark,
    benchmark_renderer,
    benchmark_scene,
)
from fourreal.rendering import render


def test_time_and_memory_stand_beside_a_matrix_product(capsys):
    benchmark_renderer(RendererBenchmark((500,), "cpu", 1))
    header, line = capsys.readouterr().out.strip().splitlines()
    assert "2048^3 float32 matrix product" in header
    measured = r"\d+ ms \(\d+\.\d\d x\), \d+ MB"
    assert re.fullmatch(
        rf"torch 500 Gaussians, 256 x 256:  forward {measured}  with backward {measured}  "
        r"matmul \d+ ms",
        line,
    )


def test_no_gaussians_and_no_repeats_are_refused():
    for config in (RendererBenchmark((), "cpu", 1), RendererBenchmark((500,), "cpu", 0)):
        with pytest.raises(ValueError, match="must be at least 1"):
            benchmark_renderer(config)


def test_the_scene_leaves_no_pixel_of_the_image_empty():
    alpha = render(*benchmark_scene(30_000, 64), 64, 64).alpha
    assert alpha.min() > 0.9
