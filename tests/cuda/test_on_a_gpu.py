"""On a real GPU: the embedded models and gsplat give what the CPU gives. Skipped without one."""

import math

import pytest
import torch

from fourreal.benchmarks.benchmark_renderer import benchmark_scene
from fourreal.cli import main
from fourreal.formats import load_scene
from fourreal.rendering import available_backends, render

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("backend", ["torch", "gsplat"])
def test_an_image_of_the_gpu_is_the_cpus(backend):
    if backend not in available_backends():
        pytest.skip("gsplat cannot be used on this CUDA machine")
    expected = render(*benchmark_scene(30_000, 128), 128, 128, backend="torch").color
    own = render(*benchmark_scene(30_000, 128, "cuda"), 128, 128, backend=backend).color
    assert own.device.type == "cuda"
    assert -10 * math.log10(float((own.cpu() - expected).square().mean()) + 1e-12) > 38


def test_generate_runs_on_the_gpu_and_gives_nearly_the_cpus_scene(tmp_path):
    for device in ("cpu", "cuda"):
        out = ["--out", str(tmp_path / device), "--device", device]
        sizes = ["--num-views", "4", "--num-frames", "5", "--orbit-size", "32"]
        assert main(["generate", "a red ball bouncing", *sizes, *out]) == 0
    a, b = (load_scene(tmp_path / name / "scene.safetensors") for name in ("cpu", "cuda"))
    # bfloat16 against float32: which pixels become a Gaussian differs a little.
    assert a.num_gaussians == pytest.approx(b.num_gaussians, rel=0.1)
    apart = (a.extrinsics - b.extrinsics).abs().max() / a.extrinsics[..., 3].abs().max()
    assert float(apart) < 0.1
