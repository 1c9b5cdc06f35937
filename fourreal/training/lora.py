"""LoRA on the self-attention of a Wan transformer, saved as ComfyUI and diffusers load it."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourreal.files.tensors import save_tensors
from fourreal.video.architectures import WanTransformer
from fourreal.video.wan_keys import comfy_key

SELF_ATTENTION = r"blocks\.\d+\.attn1\.(to_q|to_k|to_v|to_out\.0)"
PARTS = {"lora_A": "lora_down", "lora_B": "lora_up"}


def add_lora(transformer: WanTransformer, rank: int) -> None:
    """Add a trainable LoRA (scale 1, second factor zero) to every self-attention layer."""
    from peft import LoraConfig

    transformer.add_adapter(
        LoraConfig(r=rank, lora_alpha=rank, target_modules=SELF_ATTENTION, lora_bias=False)
    )


def lora_tensors(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """peft's parameters by ComfyUI's keys, float16.

    blocks.N.attn1.to_q.lora_A.default.weight [r, in] becomes
    diffusion_model.blocks.N.self_attn.q.lora_down.weight, lora_B [out, r] lora_up; alpha is r.
    """
    tensors = {}
    for name, value in weights.items():
        layer, part, _ = name.rsplit(".", 3)[0], *name.rsplit(".", 3)[1:3]
        key = "diffusion_model." + comfy_key(f"{layer}.weight").removesuffix(".weight")
        tensors[f"{key}.{PARTS[part]}.weight"] = value.detach().half().contiguous().cpu()
        if part == "lora_A":
            tensors[f"{key}.alpha"] = torch.tensor(float(len(value)))
    return tensors


def save_lora(weights: dict[str, Tensor], path: Path, metadata: dict[str, Any]) -> None:
    """Write lora_tensors(weights), with `metadata` as JSON under the key `fourreal`."""
    save_tensors(lora_tensors(weights), path, {"fourreal": json.dumps(metadata)})
