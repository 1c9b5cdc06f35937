"""The architectures to compare, against diffusers' own layers run view by view and time by time."""

import copy

import pytest
import torch
from einops import rearrange

from fourreal.video import apply_view_time
from fourreal.video.architectures import ARCHITECTURES

from ..tiny import tiny_transformer

VIEWS, FRAMES, TOKENS, WIDTH = 3, 2, 4, 48
ALONG_AXES = ("sequential", "parallel-hard", "parallel-soft")


def model_args(per_token=False):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 4, VIEWS * FRAMES, 4, 4, generator=generator)
    timestep = torch.tensor([500.0, 20.0])
    if per_token:
        timestep = torch.rand(2, VIEWS * FRAMES * TOKENS, generator=generator) * 1000
    return x, timestep, torch.randn(2, 7, 32, generator=generator)


def run(model, args, architecture):
    apply_view_time(model, VIEWS, FRAMES, max_frames=5, architecture=architecture)
    return model(*args).sample


def rows(x):
    return rearrange(x, "b (v n) ... -> (b v) n ...", v=VIEWS)


def columns(x):
    return rearrange(x, "b (v f s) ... -> (b f) (v s) ...", v=VIEWS, f=FRAMES)


def from_rows(x):
    return rearrange(x, "(b v) n c -> b (v n) c", v=VIEWS)


def from_columns(x):
    return rearrange(x, "(b f) (v s) c -> b (v f s) c", v=VIEWS, f=FRAMES)


def axis_outputs(model, x, layer, text, temb, attend):
    """Self-attention part of a stock block along one axis: norm, modulation, gate, no residual."""
    block = model.blocks[layer]
    split, join, count = (
        (rows, from_rows, VIEWS) if attend == "time" else (columns, from_columns, FRAMES)
    )
    shift, scale, gate = (block.scale_shift_table + temb).unbind(-2)[:3]
    if temb.ndim == 3:
        shift, scale, gate = (p[:, None].expand_as(x) for p in (shift, scale, gate))
    # A video as long as the axis: the stock rotary embedding counts 0, 1, 2, ... along it.
    length = FRAMES if attend == "time" else VIEWS
    rotary = model.rope(torch.empty(1, 4, length, 4, 4))
    normed = block.norm1(x) * (1 + scale) + shift
    assert split(normed).shape[0] == 2 * count
    return join(block.attn1(split(normed), None, None, rotary)) * gate


def rest_of_block(block, x, text, temb):
    """Cross-attention and feed-forward of a stock block."""
    shift, scale, gate = (block.scale_shift_table + temb).unbind(-2)[3:]
    if temb.ndim == 3:
        shift, scale, gate = (p[:, None] for p in (shift, scale, gate))
    x = x + block.attn2(block.norm2(x), text, None, None)
    return x + block.ffn(block.norm3(x) * (1 + scale) + shift) * gate


def expected_output(model, args, architecture):
    """The model's output with its blocks replaced by loops over rows and columns."""
    apply_view_time(model, None)
    captured = {}

    def first_block(module, inputs):
        captured["inputs"] = inputs

    def last_block(module, inputs, output):
        x, text, temb, _ = captured["inputs"]
        streams = [x, x]
        for layer, block in enumerate(model.blocks):
            if architecture == "sequential":
                y = streams[0]
                for axis in ("time", "view"):
                    y = y + axis_outputs(model, y, layer, text, temb, axis)
                streams = [rest_of_block(block, y, text, temb)] * 2
                continue
            streams = [
                rest_of_block(
                    block, y + axis_outputs(model, y, layer, text, temb, axis), text, temb
                )
                for y, axis in zip(streams, ("time", "view"))
            ]
            sync = block.view_time_sync
            level = temb[..., 1, :] if temb.ndim == 4 else temb[:, None, 1]
            gains = sync.gain.chunk(2)
            weights = sync.linear.weight.chunk(2, dim=1)
            mixed = sum(
                (y * (1 + gain * level)) @ weight.T
                for y, gain, weight in zip(streams, gains, weights)
            )
            if architecture == "parallel-hard":
                streams = [mixed, mixed]
            else:
                streams = [y + m for y, m in zip(streams, mixed.chunk(2, dim=-1))]
        return (streams[0] + streams[1]) / 2

    handles = [
        model.blocks[0].register_forward_pre_hook(first_block),
        model.blocks[-1].register_forward_hook(last_block),
    ]
    try:
        return model(*args).sample
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("architecture", ALONG_AXES)
@pytest.mark.parametrize("per_token", [False, True])
def test_architectures_equal_stock_layers_run_along_each_axis(architecture, per_token):
    model, args = tiny_transformer(channels=4), model_args(per_token)
    with torch.no_grad():
        run(model, args, architecture)
        for name, parameter in model.named_parameters():
            if "view_time_sync" in name:  # away from its start, so that each part counts
                parameter.add_(torch.randn(parameter.shape) * 0.1)
        own = run(model, args, architecture)
        assert (own - expected_output(model, args, architecture)).abs().max() < 2e-5


def test_fused_sum_is_fused_with_positions_v_plus_f():
    model, args = tiny_transformer(channels=4), model_args()
    with torch.no_grad():
        fused = run(model, args, "fused")
        assert (run(model, args, "fused-sum") - fused).abs().max() > 1e-3
        assert model.rope.positions.tolist() == [0, 1, 1, 2, 2, 3]
        # With one frame per view and a T_max of 1 both count the views.
        apply_view_time(model, VIEWS * FRAMES, 1, max_frames=1)
        counted = model(*args).sample
        apply_view_time(model, VIEWS * FRAMES, 1, max_frames=5, architecture="fused-sum")
        assert torch.equal(model(*args).sample, counted)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parameters_added_are_those_of_the_synchronisation_only(architecture):
    model = tiny_transformer(channels=4)
    keys = set(model.state_dict())
    before = sum(p.numel() for p in model.parameters())
    apply_view_time(model, VIEWS, FRAMES, architecture=architecture)
    added = sum(p.numel() for p in model.parameters()) - before
    matrices = {"parallel-hard": 2, "parallel-soft": 4}.get(architecture, 0)
    gains = 2 if matrices else 0
    assert added == 2 * (matrices * WIDTH**2 + gains * WIDTH)
    assert keys <= set(model.state_dict())
    assert all("view_time_sync" in key for key in set(model.state_dict()) - keys)


@pytest.mark.parametrize("architecture", ARCHITECTURES[1:])
def test_gradients_reach_all_layers_and_the_stock_model_comes_back(architecture):
    model, args = tiny_transformer(channels=4), model_args()
    with torch.no_grad():
        stock = model(*args).sample
    run(model, args, architecture).square().mean().backward()
    for block in model.blocks:
        assert block.attn1.to_q.weight.grad.abs().sum() > 0
        if architecture.startswith("parallel"):
            assert block.view_time_sync.linear.weight.grad.abs().sum() > 0
    if architecture == "parallel-hard":
        assert all(b.view_time_sync.gain.grad.abs().sum() > 0 for b in model.blocks)
    apply_view_time(model, None)
    with torch.no_grad():
        assert torch.equal(model(*args).sample, stock)


@pytest.mark.parametrize("architecture", ["parallel-hard", "parallel-soft"])
def test_learned_synchronisation_survives_state_dicts_copies_and_the_way_back(architecture):
    model, args = tiny_transformer(channels=4), model_args()
    with torch.no_grad():
        run(model, args, architecture)
        for block in model.blocks:
            block.view_time_sync.linear.weight.normal_()
        learned = run(model, args, architecture)
        twin = copy.deepcopy(model)
        for block in model.blocks:
            block.view_time_sync.linear.weight.zero_()
        assert torch.equal(twin(*args).sample, learned)
        apply_view_time(twin, None)
        assert torch.equal(run(twin, args, architecture), learned)
        loaded = apply_view_time(tiny_transformer(channels=4), 1, 1, architecture=architecture)
        loaded.load_state_dict(twin.state_dict())
        assert torch.equal(run(loaded, args, architecture), learned)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_view_is_the_stock_model_in_every_architecture(architecture):
    model, args = tiny_transformer(channels=4), model_args()
    with torch.no_grad():
        stock = model(*args).sample
        apply_view_time(model, 1, VIEWS * FRAMES, architecture=architecture)
        assert (model(*args).sample - stock).abs().max() < 1e-5


def test_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        model, args = tiny_transformer(channels=4).train(), model_args()
        if checkpointing:
            model.enable_gradient_checkpointing()
        run(model, args, "parallel-hard").square().mean().backward()
        gradients.append(model.blocks[0].view_time_sync.linear.weight.grad)
    assert torch.allclose(*gradients, atol=1e-6)


def test_wrong_architectures_are_refused():
    model = tiny_transformer()
    with pytest.raises(ValueError, match="'parallel', but must be one of fused, fused-sum"):
        apply_view_time(model, 2, 2, architecture="parallel")
    with pytest.raises(ValueError, match=r"view_strength is 0\.5, but the architecture sequential"):
        apply_view_time(model, 2, 2, view_strength=0.5, architecture="sequential")
