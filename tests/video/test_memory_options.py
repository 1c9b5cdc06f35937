"""Offloading, tiling, compiling and caching change no numbers, or only as they say."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from fourreal.embedded.autoencoder import BlockAutoencoder

from ..tiny import sample_grid, tiny_pipeline, tiny_transformer, tiny_vace

SMALL_TILES = {
    "tile_sample_min_height": 64,
    "tile_sample_min_width": 64,
    "tile_sample_stride_height": 48,
    "tile_sample_stride_width": 48,
}


@pytest.mark.parametrize("make", [tiny_transformer, tiny_vace])
def test_group_offload_changes_no_numbers(make):
    pipe = tiny_pipeline(transformer=make())
    expected = sample_grid(pipe)
    pipe.enable_group_offload(
        torch.device("cpu"), torch.device("cpu"), "block_level", num_blocks_per_group=1
    )
    assert torch.equal(sample_grid(pipe), expected)


def test_tiles_are_used_above_their_size_and_change_little():
    pipe = tiny_pipeline()
    smooth = torch.nn.functional.interpolate(torch.rand(5, 3, 4, 4), (96, 96), mode="bicubic")
    video = smooth.clamp(0, 1)[None]
    latents = pipe.encode_views(video)
    frames, calls = pipe.decode_views(latents), []
    for name in ("tiled_encode", "tiled_decode"):
        stock = getattr(pipe.vae, name)
        setattr(pipe.vae, name, lambda *a, n=name, f=stock, **k: (calls.append(n), f(*a, **k))[1])
    pipe.enable_vae_tiling(**SMALL_TILES)
    tiled = pipe.encode_views(video)
    decoded = pipe.decode_views(latents)
    assert calls == ["tiled_encode", "tiled_decode"]
    assert tiled.shape == latents.shape and decoded.shape == frames.shape
    for ours, whole in ((tiled, latents), (decoded, frames)):
        error = (ours - whole).square().mean() / (whole - whole.mean()).square().mean()
        assert 0 < error < 0.1
    pipe.encode_views(video[..., :64, :64])
    assert len(calls) == 2  # a frame of one tile's size is not cut


def test_tiling_the_embedded_autoencoder_is_refused_in_one_sentence():
    pipe = tiny_pipeline(vae=BlockAutoencoder(16))
    with pytest.raises(ValueError, match="embedded autoencoder has no tiles") as error:
        pipe.enable_vae_tiling()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [tiny_transformer, tiny_vace])
@pytest.mark.parametrize("staged", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_compiled_transformer_gives_the_same_and_is_compiled_once(staged, make):
    torch._dynamo.reset()
    pipe, counter = tiny_pipeline(transformer=make()), CompileCounter()
    options = {"staged": staged, "guidance_scale": 3.0, "output_type": "latent"}
    expected = sample_grid(pipe, **options)
    pipe.compile(backend=counter)
    assert torch.allclose(sample_grid(pipe, **options), expected, atol=1e-5)
    compiled = counter.frame_count
    assert compiled > 0
    assert torch.allclose(sample_grid(pipe, seed=0, **options), expected, atol=1e-5)
    assert counter.frame_count == compiled
    torch._dynamo.reset()


def count_calls(module):
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_the_first_block_cache_skips_the_other_blocks():
    pipe = tiny_pipeline()
    options = {"num_inference_steps": 4, "guidance_scale": 1.0}
    expected = sample_grid(pipe, **options)
    calls = count_calls(pipe.transformer.blocks[1].ffn)
    pipe.enable_first_block_cache(threshold=0.0)
    assert torch.allclose(sample_grid(pipe, **options), expected, atol=1e-6)
    assert len(calls) == 4
    pipe.transformer.disable_cache()
    calls.clear()
    pipe.enable_first_block_cache(threshold=1e6)
    sample_grid(pipe, **options)
    assert len(calls) == 1  # and again in the next run, whose state is new
    sample_grid(pipe, **options)
    assert len(calls) == 2


def test_the_first_block_cache_is_refused_for_vace_in_one_sentence():
    pipe = tiny_pipeline(transformer=tiny_vace())
    with pytest.raises(ValueError, match="does not work with VACE transformers") as error:
        pipe.enable_first_block_cache()
    assert "\n" not in str(error.value)


def test_the_first_block_cache_begins_anew_with_every_stage_and_window():
    """13 frames in windows of 9 are two windows; staged, the first has three grids and the second,
    whose first column is known, two. Each of the five has a text and a negative one."""
    pipe = tiny_pipeline()
    options = {"num_frames": 13, "window_frames": 9, "staged": True, "guidance_scale": 3.0}
    expected = sample_grid(pipe, **options)
    pipe.enable_first_block_cache(threshold=0.0)
    assert torch.allclose(sample_grid(pipe, **options), expected, atol=1e-5)
    pipe.transformer.disable_cache()
    calls = count_calls(pipe.transformer.blocks[1].ffn)
    pipe.enable_first_block_cache(threshold=1e6)
    sample_grid(pipe, num_inference_steps=3, **options)
    # The last stage of a window has guidance 1, so no negative text.
    assert len(calls) == (2 + 2 + 1) + (2 + 1)
