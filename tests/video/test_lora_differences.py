"""Differences of parameters in LoRA files, and several LoRA beside each other."""

import pytest
import torch
from safetensors.torch import save_file

from ..tiny import tiny_pipeline, tiny_transformer
from .test_lora import assert_same, factors, output, pair

# A file's key, and diffusers' name of the parameter that it changes.
DIFFERENCES = {
    "diffusion_model.blocks.0.self_attn.q.diff_b": "blocks.0.attn1.to_q.bias",
    "diffusion_model.blocks.1.ffn.2.diff_b": "blocks.1.ffn.net.2.bias",
    "diffusion_model.blocks.0.norm3.diff": "blocks.0.norm2.weight",
    "diffusion_model.blocks.0.norm3.diff_b": "blocks.0.norm2.bias",
    "diffusion_model.blocks.1.self_attn.norm_k.diff": "blocks.1.attn1.norm_k.weight",
    "diffusion_model.blocks.1.modulation.diff": "blocks.1.scale_shift_table",
    "diffusion_model.blocks.0.diff_m": "blocks.0.scale_shift_table",
    "diffusion_model.head.modulation.diff": "scale_shift_table",
    "diffusion_model.head.head.diff": "proj_out.weight",
    "diffusion_model.patch_embedding.diff": "patch_embedding.weight",
    "diffusion_model.time_projection.1.diff_b": "condition_embedder.time_proj.bias",
    "diffusion_model.text_embedding.2.diff": "condition_embedder.text_embedder.linear_2.weight",
    "lora_unet_blocks_0_cross_attn_v.diff_b": "blocks.0.attn2.to_v.bias",
    "transformer.blocks.0.attn2.to_k.weight.diff": "blocks.0.attn2.to_k.weight",
    "lycoris_blocks_1_norm3.w_norm": "blocks.1.norm2.weight",
    "lycoris_blocks_1_norm3.b_norm": "blocks.1.norm2.bias",
}


def differences(keys=DIFFERENCES, seed=0):
    """(tensors of a file, the same by the parameters' names)."""
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(tiny_transformer().named_parameters())
    changes = {
        key: torch.randn(parameters[DIFFERENCES[key]].shape, generator=generator) / 4
        for key in keys
    }
    return changes, {DIFFERENCES[key]: value for key, value in changes.items()}


@pytest.mark.parametrize("key", DIFFERENCES)
def test_a_difference_alone_is_added_and_taken_back(tmp_path, key):
    tensors, changes = differences([key])
    save_file(tensors, tmp_path / "lora.safetensors")
    pipe = tiny_pipeline()
    pipe.load_lora_weights(tmp_path / "lora.safetensors")
    assert_same(pipe, changes)
    pipe.unload_lora_weights()
    assert torch.equal(output(pipe.transformer), output(tiny_transformer()))


def test_differences_and_factors_of_one_layer_are_both_applied(tmp_path):
    tensors, changes = differences()
    down, up = factors((48, 48), 5)
    tensors |= pair("diffusion_model.blocks.0.self_attn.q", down, up)
    save_file(tensors, tmp_path / "lora.safetensors")
    pipe = tiny_pipeline()
    pipe.load_lora_weights(tmp_path / "lora.safetensors")
    changes |= {"blocks.0.attn1.to_q.weight": up @ down}
    assert_same(pipe, changes)
    pipe.disable_lora()
    assert torch.equal(output(pipe.transformer), output(tiny_transformer()))
    pipe.enable_lora()
    assert_same(pipe, changes)


def test_the_bias_of_pefts_second_factor_is_scaled_like_the_factors():
    down, up = factors((48, 48), 5)
    bias = torch.linspace(-1, 1, 48)
    start = "transformer.blocks.0.attn1.to_q"
    pipe = tiny_pipeline()
    pipe.load_lora_weights(
        pair(start, down, up) | {f"{start}.lora_B.bias": bias, f"{start}.alpha": torch.tensor(2.0)}
    )
    weight, shift = "blocks.0.attn1.to_q.weight", "blocks.0.attn1.to_q.bias"
    assert_same(pipe, {weight: up @ down / 2, shift: bias / 2})


def test_two_loras_are_weighted_and_deleted_on_their_own():
    layer = "blocks.0.attn1.to_q"
    loras = []
    for seed in (1, 2):
        down, up = factors((48, 48), seed)
        tensors, changes = differences(["diffusion_model.blocks.0.norm3.diff"], seed)
        loras.append((tensors | pair(layer, down, up), changes | {f"{layer}.weight": up @ down}))
    pipe = tiny_pipeline()
    pipe.load_lora_weights(loras[0][0], adapter_name="a")
    pipe.load_lora_weights(loras[1][0], adapter_name="b")
    pipe.set_adapters(["a", "b"], [0.5, 2.0])
    both = {k: 0.5 * loras[0][1][k] + 2 * loras[1][1][k] for k in loras[0][1]}
    assert_same(pipe, both)
    pipe.set_adapters("b")
    assert_same(pipe, loras[1][1])
    pipe.delete_adapters("b")
    pipe.set_adapters(["a"], 1.0)
    assert_same(pipe, loras[0][1])
    pipe.delete_adapters("a")
    assert torch.equal(output(pipe.transformer), output(tiny_transformer()))


def test_half_precision_comes_back_bit_for_bit():
    """W + d - d is not W in bfloat16, so the originals are kept."""
    pipe = tiny_pipeline()
    pipe.transformer.to(torch.bfloat16)
    before = {k: v.clone() for k, v in pipe.transformer.state_dict().items()}
    tensors, _ = differences()
    pipe.load_lora_weights(tensors)
    changed = pipe.transformer.state_dict()
    key = "blocks.0.norm2.weight"
    expected = before[key].float() + tensors["diffusion_model.blocks.0.norm3.diff"]
    assert torch.equal(changed[key], expected.bfloat16())
    pipe.unload_lora_weights()
    after = pipe.transformer.state_dict()
    assert all(torch.equal(after[k], v) and after[k].dtype == v.dtype for k, v in before.items())
