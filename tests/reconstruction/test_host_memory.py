"""Main memory of long grids: it grows by little more than the Gaussians themselves."""

import json
import subprocess
import sys

import pytest
import torch

from fourreal.metrics.pixels import psnr
from fourreal.reconstruction import Filters, Reconstructor
from fourreal.reconstruction.pixels_to_gaussians import pixels_to_gaussians
from fourreal.rendering import render

from ..tiny import open_temporal_gates, tiny_model

PER_GAUSSIAN = 120  # bytes, of which the Gaussian's own numbers take 56

CHILD = """
import json, resource, sys
import torch
from fourreal.reconstruction import Filters, Reconstructor
from tests.tiny import open_temporal_gates, tiny_model

times, split = int(sys.argv[1]), sys.argv[2] == "split"
reconstructor = Reconstructor(open_temporal_gates(tiny_model()))
frames = torch.rand(2, 1, 3, 192, 192).expand(-1, times, -1, -1, -1).clone()
frames[:, :, :, :150] = torch.rand(2, times, 3, 150, 192)  # most of it moves
options = {"adjust": False} | ({} if split else {"split": None})  # for the sake of time
scene = reconstructor(frames, resolution=192, filters=Filters.none(), **options).scene
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([peak, scene.num_gaussians]))
"""


def peak_and_gaussians(times: int, split: str) -> tuple[int, int]:
    """Peak resident memory in bytes, and Gaussians, of a process that reconstructs a grid."""
    words = [sys.executable, "-c", CHILD, str(times), split]
    peak, count = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    return peak, count


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux gives it")
@pytest.mark.parametrize("split", ["split", "whole"])
def test_main_memory_grows_by_little_more_than_the_gaussians(split):
    (before, few), (after, many) = (peak_and_gaussians(times, split) for times in (16, 48))
    assert many - few > 1.5e6
    assert (after - before) / (many - few) < PER_GAUSSIAN


def test_stored_maps_of_gaussians_lose_nothing_that_is_seen():
    """Against the network's own float32 maps, decoded at once."""
    model = open_temporal_gates(tiny_model())
    reconstructor, frames = Reconstructor(model), torch.rand(2, 3, 3, 32, 32)
    found = reconstructor(frames, filters=Filters.none(), split=None, adjust=False).scene
    images = frames.transpose(0, 1)
    with torch.no_grad():
        maps = model(images, 3, points=False)
    assert maps.raw_gaussians.dtype == torch.float32
    assert reconstructor.predict(images).raw_gaussians.dtype == torch.float16
    cameras = found.extrinsics, found.intrinsics
    for time, stored in enumerate(found.dynamic):
        now = maps[time : time + 1]
        exact = pixels_to_gaussians("paper", images[time], now, cameras)
        size = exact.means.norm(dim=1).mean()
        assert (stored.means - exact.means).norm(dim=1).max() < 1e-5 * size
        assert torch.allclose(stored.scales, exact.scales, rtol=1e-3)
        assert torch.allclose(stored.harmonics, exact.harmonics, atol=1e-3)
        shown, wanted = (render(g, *cameras, 32, 32).color for g in (stored, exact))
        assert psnr(shown.clamp(0, 1), wanted.clamp(0, 1)) > 70
