"""LoRA files of the three key forms in a pipeline."""

import json

import pytest
import torch
from safetensors.torch import save_file

from ..tiny import sample_grid, tiny_pipeline

RANK, ALPHA = 4, 2.0


def lora_of(form, block, down, up):
    """A LoRA on a block's self-attention query, in the key form of a program."""
    if form == "diffusers":  # holds no alpha: scaled beforehand
        start = f"transformer.blocks.{block}.attn1.to_q."
        return {start + "lora_A.weight": down, start + "lora_B.weight": up * ALPHA / RANK}
    if form == "comfy":
        start = f"diffusion_model.blocks.{block}.self_attn.q."
        tensors = {start + "lora_A.weight": down, start + "lora_B.weight": up}
        return tensors | {start + "alpha": torch.tensor(ALPHA)}
    tensors = {}  # musubi-tuner's always holds every linear layer of a block
    sizes = {f"{part}_attn_{n}": (128, 128) for part in ("self", "cross") for n in "qkvo"}
    for layer, (wide, narrow) in (sizes | {"ffn_0": (64, 128), "ffn_2": (128, 64)}).items():
        start, query = f"lora_unet_blocks_{block}_{layer}.", layer == "self_attn_q"
        tensors[start + "lora_down.weight"] = down if query else torch.ones(RANK, narrow)
        tensors[start + "lora_up.weight"] = up if query else torch.zeros(wide, RANK)
        tensors[start + "alpha"] = torch.tensor(ALPHA)
    return tensors


def wide_pipeline():
    return tiny_pipeline(heads=1, head_size=128, conditioning="add", max_frames=21)


@pytest.mark.parametrize("form", ["diffusers", "comfy", "musubi"])
def test_a_lora_of_any_key_form_is_added_to_the_weights(tmp_path, form):
    """Second source: W + alpha / rank * B A written into the weight itself."""
    generator = torch.Generator().manual_seed(4)
    down = torch.randn(RANK, 128, generator=generator) / 4
    up = torch.randn(128, RANK, generator=generator) / 4
    tensors = lora_of(form, 0, down, up) | lora_of(form, 1, down, up)
    noted = {"fourreal": json.dumps({"conditioning": "replace", "max_frames": 8})}
    save_file({k: v.clone() for k, v in tensors.items()}, tmp_path / "lora.safetensors", noted)
    pipe, plain = wide_pipeline(), wide_pipeline()
    before = sample_grid(plain, output_type="latent")
    pipe.load_lora_weights(tmp_path / "lora.safetensors")
    assert pipe.config.conditioning == "replace" and pipe.config.max_frames == 8
    plain.register_to_config(conditioning="replace", max_frames=8)
    for block in plain.transformer.blocks:
        block.attn1.to_q.weight.data += ALPHA / RANK * up @ down
    expected = sample_grid(plain, output_type="latent")
    assert (sample_grid(pipe, output_type="latent") - expected).abs().max() < 1e-4
    assert (before - expected).abs().max() > 1e-3
    pipe.unload_lora_weights()
    assert not any("lora" in key for key in pipe.transformer.state_dict())


def test_a_lora_of_another_base_is_refused(tmp_path):
    file = tmp_path / "lora.safetensors"
    save_file(lora_of("comfy", 0, torch.zeros(RANK, 96), torch.zeros(96, RANK)), file)
    with pytest.raises(ValueError, match=r"lora\.safetensors does not fit a Wan transf") as error:
        wide_pipeline().load_lora_weights(file)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"none\.safetensors does not exist"):
        wide_pipeline().load_lora_weights(tmp_path / "none.safetensors")
