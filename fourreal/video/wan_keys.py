"""The names of Wan's tensors: ComfyUI's (those of the original files), diffusers', transformers'.

diffusers converts original names into its own; here is the way back for the transformer, and what
diffusers' converter does not know: the nested blocks of the Wan 2.2 VAE, and Wan's own UMT5.
"""

import re
from collections.abc import Mapping

from diffusers.loaders.single_file_utils import (
    convert_wan_transformer_to_diffusers,
    convert_wan_vae_to_diffusers,
)
from torch import Tensor

# Starts of diffusers' names, and of ComfyUI's.
TRANSFORMER_NAMES = {
    "condition_embedder.time_embedder.linear_1.": "time_embedding.0.",
    "condition_embedder.time_embedder.linear_2.": "time_embedding.2.",
    "condition_embedder.time_proj.": "time_projection.1.",
    "condition_embedder.text_embedder.linear_1.": "text_embedding.0.",
    "condition_embedder.text_embedder.linear_2.": "text_embedding.2.",
    "proj_out.": "head.head.",
    "scale_shift_table": "head.modulation",
    "patch_embedding.": "patch_embedding.",
    "vace_patch_embedding.": "vace_patch_embedding.",
}
ATTENTION_NAMES = {
    "to_q.": "q.",
    "to_k.": "k.",
    "to_v.": "v.",
    "to_out.0.": "o.",
    "norm_q.": "norm_q.",
    "norm_k.": "norm_k.",
}
BLOCK_NAMES = {
    **{f"attn1.{ours}": f"self_attn.{theirs}" for ours, theirs in ATTENTION_NAMES.items()},
    **{f"attn2.{ours}": f"cross_attn.{theirs}" for ours, theirs in ATTENTION_NAMES.items()},
    "norm2.": "norm3.",
    "ffn.net.0.proj.": "ffn.0.",
    "ffn.net.2.": "ffn.2.",
    "scale_shift_table": "modulation",
    "proj_in.": "before_proj.",  # of VACE blocks
    "proj_out.": "after_proj.",
    "view_time_sync.": "view_time_sync.",  # of the parallel architectures, no public file has it
}
BLOCK = re.compile(r"(?:vace_)?blocks\.\d+\.")
# A tensor in a block of blocks, as the Wan 2.2 VAE has them: part, way, outer and inner place.
NESTED = re.compile(r"(encoder|decoder)\.(down|up)samples\.(\d+)\.(?:down|up)samples\.(\d+)\.(.+)")
RESIDUAL_NAMES = {
    "residual.0.": "norm1.",
    "residual.2.": "conv1.",
    "residual.3.": "norm2.",
    "residual.6.": "conv2.",
    "shortcut.": "conv_shortcut.",
}
UMT5_NAMES = {  # of Wan's own file (models_t5_umt5-xxl-enc-bf16.pth) in a block, and transformers'
    "norm1.": "layer.0.layer_norm.",
    "attn.": "layer.0.SelfAttention.",
    "pos_embedding.embedding.": "layer.0.SelfAttention.relative_attention_bias.",
    "norm2.": "layer.1.layer_norm.",
    "ffn.gate.0.": "layer.1.DenseReluDense.wi_0.",
    "ffn.fc1.": "layer.1.DenseReluDense.wi_1.",
    "ffn.fc2.": "layer.1.DenseReluDense.wo.",
}
EMBEDDINGS = ("shared.weight", "token_embedding.weight", "encoder.embed_tokens.weight")


def _renamed(key: str, names: dict[str, str]) -> str | None:
    """The key with its start exchanged, or None where no name begins it."""
    for start, other in names.items():
        if key.startswith(start):
            return other + key[len(start) :]
    return None


def comfy_key(key: str) -> str:
    """ComfyUI's name of a tensor that a diffusers Wan transformer calls `key`.

    Raises KeyError for a foreign key.
    """
    block = BLOCK.match(key)
    start = block.group() if block else ""
    found = _renamed(key[len(start) :], BLOCK_NAMES if block else TRANSFORMER_NAMES)
    if found is None:
        raise KeyError(key)
    return start + found


def transformer_to_diffusers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A Wan transformer's tensors under diffusers' names; unknown keys stay."""
    return convert_wan_transformer_to_diffusers(dict(tensors))


def transformer_to_original(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A Wan transformer's tensors, of diffusers' names, under the original ones; unknown keys
    stay."""
    renamed = {}
    for key, tensor in tensors.items():
        try:
            renamed[comfy_key(key)] = tensor
        except KeyError:
            renamed[key] = tensor
    return renamed


def umt5_to_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A UMT5 encoder's tensors under transformers' names, the embedding as shared.weight.

    Of Wan's own file, of the whole UMT5 (its decoder is left out), or of the encoder's stack alone;
    unknown keys stay.
    """
    renamed = {}
    for key, tensor in tensors.items():
        if key.startswith(("decoder.", "lm_head.")):
            continue
        block = BLOCK.match(key)
        inner = block and _renamed(key[block.end() :], UMT5_NAMES)
        if block and inner:
            key = f"encoder.block{block.group().removeprefix('blocks')}{inner}"
        elif key == "norm.weight":
            key = "encoder.final_layer_norm.weight"
        elif key.startswith(("block.", "final_layer_norm.", "embed_tokens.")):
            key = f"encoder.{key}"
        renamed["shared.weight" if key in EMBEDDINGS else key] = tensor
    return renamed


def vae_to_diffusers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A Wan 2.1 or 2.2 VAE's tensors under diffusers' names; unknown keys stay."""
    nested = {key: match for key in tensors if (match := NESTED.fullmatch(key))}
    flat = {key: tensor for key, tensor in tensors.items() if key not in nested}
    renamed = convert_wan_vae_to_diffusers(flat)
    for key, match in nested.items():
        part, way, outer, inner, rest = match.groups()
        residual = _renamed(rest, RESIDUAL_NAMES)
        name = f"resnets.{inner}.{residual}" if residual else f"{way}sampler.{rest}"
        renamed[f"{part}.{way}_blocks.{outer}.{name}"] = tensors[key]
    return renamed
