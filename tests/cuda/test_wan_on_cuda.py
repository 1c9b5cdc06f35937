"""A tiny Wan on the pretend device: both conditionings, and every kind of offloading."""

import pytest
import torch

from ..pretend_cuda import PretendCuda
from ..tiny import sample_grid, tiny_pipeline
from .conftest import share_on_device

ROW = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(3))
CUDA = torch.device("cuda")
PLACES = {
    "whole": lambda pipeline: pipeline.to(CUDA),
    "model": lambda pipeline: pipeline.enable_model_cpu_offload(device=CUDA),
    "group": lambda pipeline: pipeline.enable_group_offload(CUDA, num_blocks_per_group=1),
}


@pytest.mark.parametrize("offload", PLACES)
@pytest.mark.parametrize(
    "conditioning,channels", [("add", 16), ("replace", 48)], ids=["add", "replace"]
)
def test_a_grid_is_generated_on_the_device_with_the_cpus_numbers(conditioning, channels, offload):
    def pipeline():
        return tiny_pipeline(channels, conditioning=conditioning)

    expected = sample_grid(pipeline(), fixed_view=ROW)
    with PretendCuda() as device:
        own = pipeline()
        PLACES[offload](own)
        if offload == "whole":  # a first run makes tables that are kept, on the host
            sample_grid(own, fixed_view=ROW, num_inference_steps=1)
        device.operations.clear()
        device.transfers.clear()
        frames = sample_grid(own, fixed_view=ROW)
        operations, transfers = device.operations, device.transfers
    assert frames.device.type == "cpu" and (frames - expected).abs().max() < 1e-4
    assert share_on_device(operations) > 0.97, operations
    # Frames of two views and masks of two texts, whatever the steps; offloaded weights come back.
    assert transfers["item"] == 2
    assert offload != "whole" or transfers["copy"] == 2
    for part in (own.transformer, own.vae, own.text_encoder):
        places = {parameter.device.type for parameter in part.parameters()}
        assert places == {"cuda" if offload == "whole" else "cpu"}
