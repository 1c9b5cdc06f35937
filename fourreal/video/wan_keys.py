"""Wan transformers and VAEs as single files in ComfyUI's key layout, and diffusers' names.

A file's safetensors metadata may hold `config` (the diffusers config as JSON) and `fourreal`
(conditioning, max_frames and the grid it was trained on).
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from fourreal.files.atomic import atomic_path
from fourreal.files.tensors import read_safetensors

# (ComfyUI, diffusers); tried in order, the first that matches a key's start or part is used.
TRANSFORMER_NAMES = [
    ("time_embedding.0.", "condition_embedder.time_embedder.linear_1."),
    ("time_embedding.2.", "condition_embedder.time_embedder.linear_2."),
    ("time_projection.1.", "condition_embedder.time_proj."),
    ("text_embedding.0.", "condition_embedder.text_embedder.linear_1."),
    ("text_embedding.2.", "condition_embedder.text_embedder.linear_2."),
    ("head.head.", "proj_out."),
    ("head.modulation", "scale_shift_table"),
    ("patch_embedding.", "patch_embedding."),
]
BLOCK_NAMES = [
    *(
        (f"{a}.{n}.", f"{b}.{m}.")
        for a, b in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for n, m in (
            ("q", "to_q"),
            ("k", "to_k"),
            ("v", "to_v"),
            ("o", "to_out.0"),
            ("norm_q", "norm_q"),
            ("norm_k", "norm_k"),
        )
    ),
    ("norm3.", "norm2."),
    ("ffn.0.", "ffn.net.0.proj."),
    ("ffn.2.", "ffn.net.2."),
    ("modulation", "scale_shift_table"),
    ("view_time_sync.", "view_time_sync."),  # of the parallel architectures, no Wan has it
]
RESIDUAL_NAMES = [
    ("residual.0.", "norm1."),
    ("residual.2.", "conv1."),
    ("residual.3.", "norm2."),
    ("residual.6.", "conv2."),
    ("shortcut.", "conv_shortcut."),
]
VAE_NAMES = [
    ("conv1.", "quant_conv."),
    ("conv2.", "post_quant_conv."),
    *(
        (f"{part}.{a}", f"{part}.{b}")
        for part in ("encoder", "decoder")
        for a, b in (
            ("conv1.", "conv_in."),
            ("head.0.", "norm_out."),
            ("head.2.", "conv_out."),
            ("middle.0.", "mid_block.resnets.0."),
            ("middle.1.", "mid_block.attentions.0."),
            ("middle.2.", "mid_block.resnets.1."),
        )
    ),
]


def _swap(key: str, names: list[tuple[str, str]], source: int) -> str | None:
    for pair in names:
        if key.startswith(pair[source]):
            return pair[1 - source] + key[len(pair[source]) :]
    return None


def transformer_key(key: str, to_comfy: bool) -> str:
    """A Wan transformer's key in the other layout. Raises KeyError for a foreign key."""
    source = int(to_comfy)
    block = re.match(r"blocks\.\d+\.", key)
    if block:
        found = _swap(key[block.end() :], BLOCK_NAMES, source)
        found = found and block.group() + found
    else:
        found = _swap(key, TRANSFORMER_NAMES, source)
    if found is None:
        raise KeyError(key)
    return found


def vae_key(key: str, num_res_blocks: int = 2) -> str:
    """diffusers' name of a tensor of a Wan VAE file. Raises KeyError for a foreign key.

    In a 2.1 file encoder and decoder are flat lists; diffusers parts the decoder's into blocks of
    num_res_blocks + 1 residuals and a resampler. In a 2.2 file the blocks hold lists.
    """
    sampler = re.match(r"(encoder|decoder)\.(down|up)samples\.(\d+)\.(.*)", key)
    if sampler:
        part, way, place, rest = sampler.groups()
        inner = re.match(r"(?:down|up)samples\.(\d+)\.(.*)", rest)
        if inner:  # 2.2
            index, rest = inner.groups()
            name = f"{place}.resnets.{index}" if _is_residual(rest) else f"{place}.{way}sampler"
        elif part == "encoder":
            name = place
        else:
            block, index = divmod(int(place), num_res_blocks + 2)
            name = f"{block}.resnets.{index}" if _is_residual(rest) else f"{block}.upsamplers.0"
        start = f"{part}.{way}_blocks.{name}."
    else:
        found = _swap(key, VAE_NAMES, 0)
        if found is None:
            raise KeyError(key)
        start, rest = re.match(r"(.*resnets\.\d\.|)(.*)", found).groups()
    return start + (_swap(rest, RESIDUAL_NAMES, 0) or rest)


def _is_residual(name: str) -> bool:
    return name.startswith(("residual.", "shortcut."))


def save_single_file(
    model, path: Path, key_map, metadata: dict | None = None, state_dict: dict | None = None
) -> None:
    """Write a diffusers model in ComfyUI's layout, fp16, its config and `metadata` beside it.

    state_dict takes the place of the model's own, as in diffusers' save_pretrained.
    """
    tensors = {
        key_map(k, True): v.detach().half().contiguous().cpu()
        for k, v in (state_dict or model.state_dict()).items()
    }
    config = {k: v for k, v in dict(model.config).items() if not k.startswith("_")}
    with atomic_path(path) as temporary:
        save_file(
            tensors,
            temporary,
            {"config": json.dumps(config), "fourreal": json.dumps(metadata or {})},
        )


def load_single_file(model_class, path: Path, key_map):
    """(model in float32, `fourreal` metadata) of a file that carries its config.

    Raises ValueError, naming the keys, when the file does not fit its config.
    """
    from accelerate import init_empty_weights

    tensors, metadata = read_safetensors(path)
    if "config" not in metadata:
        raise ValueError(f"{path} has no `config` in its metadata, so its sizes are unknown.")
    with init_empty_weights():
        model = model_class.from_config(json.loads(metadata["config"]))
    renamed = rename_keys(tensors, lambda key: key_map(key, False))
    fill_model(model, renamed, path, torch.float32)
    return model, json.loads(metadata.get("fourreal", "{}"))


def rename_keys(tensors: dict[str, Tensor], key_map: Callable[[str], str]) -> dict[str, Tensor]:
    """The tensors under key_map's names; unknown keys stay as they are, for fill_model to tell."""

    def name(key: str) -> str:
        try:
            return key_map(key)
        except KeyError:
            return key

    return {name(key): value for key, value in tensors.items()}


def fill_model(model, tensors: dict[str, Tensor], path: Path, dtype: torch.dtype | None) -> None:
    """Put a file's tensors, under the model's names, into a model made on the meta device.

    dtype None keeps the file's. What the model's library keeps in float32 (Wan's norms and time
    embedding; of UMT5 in float16 the layer that overflows) stays so. Raises ValueError, naming
    keys or shapes, when the file does not fit.
    """
    from diffusers import ModelMixin

    wanted, name = model.state_dict(), type(model).__name__
    missing = [key for key in wanted if key not in tensors]
    unknown = [key for key in tensors if key not in wanted]
    if missing or unknown:
        raise ValueError(
            f"{path} does not fit {name}: {len(missing)} keys are missing "
            f"({', '.join(missing[:3])}), {len(unknown)} unknown ({', '.join(unknown[:3])})."
        )
    for key, value in wanted.items():
        if tensors[key].shape != value.shape:
            raise ValueError(
                f"{path} does not fit {name}: {key} has the shape {tuple(tensors[key].shape)}, "
                f"but {tuple(value.shape)} is needed."
            )
    halves = (torch.float16, torch.bfloat16) if isinstance(model, ModelMixin) else (torch.float16,)
    kept = set(model._keep_in_fp32_modules or ())

    def typed(key: str, value: Tensor) -> Tensor:
        to = dtype or value.dtype
        return value.to(torch.float32 if to in halves and kept & set(key.split(".")) else to)

    model.load_state_dict({k: typed(k, v) for k, v in tensors.items()}, assign=True)
    model.eval()
