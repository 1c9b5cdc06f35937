"""A scene that does not show its own input frames is told."""

import pytest
import torch

from fourreal.cameras import pixel_intrinsics
from fourreal.gaussians import Gaussians, GaussianScene
from fourreal.metrics.pixels import psnr
from fourreal.reconstruction import Reconstructor
from fourreal.reconstruction.fidelity import Fidelity, input_fidelity
from fourreal.scenes import make_scene, scene_seed
from fourreal.weights import folder


@pytest.mark.parametrize(
    ("psnr_at_inputs", "flat", "kind", "words"),
    [
        (18.9, 12.3, "fourreal", "use VGGT-1B"),  # what the embedded network makes of real photos
        (14.1, 13.7, "fourreal", "use VGGT-1B"),
        (22.9, 16.4, "fourreal", None),  # the least of what is made of text
        (17.0, 10.0, "fourreal", "use VGGT-1B"),
        (27.0, 26.0, "fourreal", "use VGGT-1B"),
        (27.0, 16.0, "fourreal", None),
        (17.0, 10.0, "vggt", None),  # the bound is that of the embedded network
        (14.1, 13.7, "vggt", "cameras that stand still"),
    ],
)
def test_a_warning_names_both_numbers_and_what_to_do(psnr_at_inputs, flat, kind, words):
    told = Fidelity(psnr_at_inputs, flat).warning(kind)
    if words is None:
        assert told is None
    else:
        assert words in told and f"{psnr_at_inputs:.1f} dB" in told and f"{flat:.1f} dB" in told


@pytest.mark.parametrize("size", [32, 300])  # larger frames are compared at 256 pixels
def test_an_empty_scene_is_as_dark_as_it_is_drawn(size):
    frames = torch.full((2, 3, 3, size, size), 0.5)
    frames[:, 1] = 0.9  # a time that is not compared
    cameras = (
        torch.eye(4)[None, :3].repeat(2, 1, 1),
        pixel_intrinsics(torch.tensor(0.7), size, size),
    )
    cameras = cameras[0], cameras[1].expand(2, -1, -1)
    scene = GaussianScene(Gaussians.empty(1), [Gaussians.empty(1)] * 3, *cameras, size, size)
    found = input_fidelity(scene, frames)
    assert found.psnr == pytest.approx(psnr(frames[:, 0], torch.zeros_like(frames[:, 0])))
    assert found.flat > 60


@pytest.mark.slow
def test_what_the_embedded_network_knows_passes_and_noise_does_not():
    reconstructor = Reconstructor.from_file(folder() / "reconstructor.safetensors")
    frames = make_scene(scene_seed("validation", 0), 4, 1).frames
    known = input_fidelity(reconstructor(frames).scene, frames)
    assert known.warning("fourreal") is None and known.psnr > 25
    noise = torch.rand(frames.shape, generator=torch.Generator().manual_seed(0))
    told = input_fidelity(reconstructor(noise).scene, noise).warning("fourreal")
    assert told and "no reconstruction" in told
