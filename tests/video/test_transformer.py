"""View-time attention in a stock Wan transformer, against diffusers' own layers."""

import pytest
import torch
from diffusers.models.transformers import transformer_wan
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from fourreal.attention import view_time_mask
from fourreal.video import apply_view_time
from fourreal.video.architectures import ARCHITECTURES

from ..tiny import tiny_transformer


def model_args(frames, channels=16):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, channels, frames, 4, 4, generator=generator)
    return x, torch.tensor([500.0]), torch.randn(1, 7, 32, generator=generator)


def test_one_view_equals_the_stock_model_and_keys_stay():
    model, args = tiny_transformer(), model_args(5)
    keys = list(model.state_dict())
    with torch.no_grad():
        stock = model(*args).sample
        apply_view_time(model, 1, 5, max_frames=8)
        assert (model(*args).sample - stock).abs().max() <= 1e-5
        assert list(model.state_dict()) == keys
        apply_view_time(model, 4, 5, max_frames=8)
        apply_view_time(model, None)
        assert torch.equal(model(*args).sample, stock)


def test_grid_equals_stock_attention_with_the_mask(monkeypatch):
    """Second source: diffusers' own processor and rotary embedding on the flattened video, its
    self-attention given the dense mask (T_max = F makes the positions consecutive)."""
    model, args = tiny_transformer(), model_args(6)
    mask = view_time_mask(3, 2, 4)
    dispatch = transformer_wan.dispatch_attention_fn

    def masked(query, key, value, attn_mask=None, **options):
        own = mask if key.shape[1] == query.shape[1] else None
        return dispatch(query, key, value, attn_mask=own, **options)

    with torch.no_grad():
        with monkeypatch.context() as patch:
            patch.setattr(transformer_wan, "dispatch_attention_fn", masked)
            expected = model(*args).sample
        for backend in ("merge", "dense"):
            apply_view_time(model, 3, 2, max_frames=2, backend=backend)
            assert (model(*args).sample - expected).abs().max() < 1e-5


def test_strength_zero_equals_independent_stock_runs():
    model = tiny_transformer()
    x, timestep, text = model_args(6)
    with torch.no_grad():
        apply_view_time(model, 3, 2, max_frames=2, view_strength=0.0)
        together = model(x, timestep, text).sample
        apply_view_time(model, None)
        alone = [model(part, timestep, text).sample for part in x.chunk(3, dim=2)]
    # Rotary attention sees only differences of positions, so a view's offset changes nothing.
    assert (together - torch.cat(alone, 2)).abs().max() < 1e-4


class OwnProcessor(WanAttnProcessor):
    """A processor that a user has set."""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_stock_model_gets_back_the_processors_and_the_rope_that_it_had(architecture):
    model = tiny_transformer()
    for block in model.blocks:
        block.attn1.set_processor(OwnProcessor())
    processors, rope = [block.attn1.processor for block in model.blocks], model.rope
    for grid in ((2, 2), (3, 1)):  # the second takes the place of the first
        apply_view_time(model, *grid, architecture=architecture)
        assert not any(isinstance(block.attn1.processor, OwnProcessor) for block in model.blocks)
    for _ in range(2):  # the second time there is nothing to give back
        apply_view_time(model, None)
        assert [block.attn1.processor for block in model.blocks] == processors
        assert model.rope is rope
        assert not any(b._forward_hooks or b._forward_pre_hooks for b in model.blocks)


def test_a_model_that_never_had_view_time_attention_is_left_alone():
    model = tiny_transformer()
    model.blocks[0].attn1.set_processor(OwnProcessor())
    apply_view_time(model, None)
    assert isinstance(model.blocks[0].attn1.processor, OwnProcessor)


def test_a_grid_that_is_refused_leaves_the_stock_model():
    model, args = tiny_transformer(), model_args(4)
    with torch.no_grad():
        stock = model(*args).sample
        apply_view_time(model, 2, 2)
        with pytest.raises(
            ValueError, match="needs 1034 rotary positions, but this model has 1024"
        ):
            apply_view_time(model, 1033, 2, architecture="parallel-hard")
        assert torch.equal(model(*args).sample, stock)
