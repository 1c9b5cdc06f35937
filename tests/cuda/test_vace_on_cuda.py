"""A VACE grid on the pretend device, with a reference image and stage by stage."""

import torch

from ..pretend_cuda import PretendCuda
from ..tiny import sample_grid, tiny_pipeline, tiny_vace


def fill(device: str) -> torch.Tensor:
    pipe = tiny_pipeline(transformer=tiny_vace()).to(device)
    generator = torch.Generator().manual_seed(5)
    video = torch.rand(2, 5, 3, 32, 32, generator=generator)
    mask = (video[:, :, :1] > 0.5).float()
    reference = torch.rand(3, 20, 20, generator=generator)
    return sample_grid(pipe, video=video, mask=mask, reference_images=[reference], staged=True)


def test_a_grid_with_holes_is_filled_on_the_device_as_on_the_cpu():
    expected = fill("cpu")
    with PretendCuda():
        frames = fill("cuda")
    assert frames.device.type == "cpu"
    assert (frames - expected).abs().max() < 1e-4
