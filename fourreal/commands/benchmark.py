"""`fourreal benchmark`: time and memory on the present device."""

from fourreal.benchmarks.benchmark_attention import AttentionBenchmark, benchmark_attention
from fourreal.benchmarks.benchmark_denoising import DenoisingBenchmark, benchmark_denoising
from fourreal.benchmarks.benchmark_reconstruction import (
    ReconstructionBenchmark,
    benchmark_reconstruction,
)
from fourreal.benchmarks.benchmark_renderer import RendererBenchmark, benchmark_renderer

COMMANDS = {
    "attention": (AttentionBenchmark, benchmark_attention),
    "denoising": (DenoisingBenchmark, benchmark_denoising),
    "renderer": (RendererBenchmark, benchmark_renderer),
    "reconstruction": (ReconstructionBenchmark, benchmark_reconstruction),
}
