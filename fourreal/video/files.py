"""Wan transformers and VAEs as single files in ComfyUI's key layout, and diffusers' names.

A file's safetensors metadata may hold `config` (the diffusers config as JSON) and `fourreal`
(conditioning, max_frames and the grid it was trained on).
"""

import json
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fourreal.formats.atomic import atomic_path

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
    *((f"{a}.{n}.", f"{b}.{m}.") for a, b in (("self_attn", "attn1"), ("cross_attn", "attn2"))
      for n, m in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"),
                   ("norm_q", "norm_q"), ("norm_k", "norm_k"))),
    ("norm3.", "norm2."),
    ("ffn.0.", "ffn.net.0.proj."),
    ("ffn.2.", "ffn.net.2."),
    ("modulation", "scale_shift_table"),
]  # fmt: skip
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
    *((f"{part}.{a}", f"{part}.{b}") for part in ("encoder", "decoder")
      for a, b in (("conv1.", "conv_in."), ("head.0.", "norm_out."), ("head.2.", "conv_out."),
                   ("middle.0.", "mid_block.resnets.0."), ("middle.1.", "mid_block.attentions.0."),
                   ("middle.2.", "mid_block.resnets.1."))),
    ("encoder.downsamples.", "encoder.down_blocks."),
]  # fmt: skip


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


def vae_key(key: str, to_comfy: bool, num_res_blocks: int = 2) -> str:
    """A Wan VAE's key in the other layout. Raises KeyError for a foreign key.

    The decoder is a flat list in ComfyUI and blocks of num_res_blocks + 1 residuals and a
    resampler in diffusers.
    """
    per_block = num_res_blocks + 2
    if to_comfy:
        nested = re.match(r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.(.*)", key)
        if nested:
            block, kind, index, rest = nested.groups()
            place = int(block) * per_block
            place += int(index) if kind == "resnets" else per_block - 1
            key = f"decoder.upsamples.{place}.{rest}"
        else:
            key = _swap(key, VAE_NAMES, 1)
    else:
        flat = re.match(r"decoder\.upsamples\.(\d+)\.(.*)", key)
        if flat:
            block, index = divmod(int(flat.group(1)), per_block)
            kind = "upsamplers.0" if index == per_block - 1 else f"resnets.{index}"
            key = f"decoder.up_blocks.{block}.{kind}.{flat.group(2)}"
        else:
            key = _swap(key, VAE_NAMES, 0)
    if key is None:
        raise KeyError("a key that no Wan VAE has")
    inner = re.match(
        r"(.*?(?:resnets\.\d+|down_blocks\.\d+|downsamples\.\d+|upsamples\.\d+|middle\.[02])\.)(.*)",
        key,
    )
    swapped = inner and _swap(inner.group(2), RESIDUAL_NAMES, int(to_comfy))
    return inner.group(1) + swapped if swapped else key


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file. Raises ValueError when it is absent or damaged."""
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist; give the path of a .safetensors file.")
    try:
        with safe_open(path, framework="pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole .safetensors file ({error}); download or copy it again."
        ) from error


def save_single_file(model, path: Path, key_map, metadata: dict | None = None) -> None:
    """Write a diffusers model in ComfyUI's layout, fp16, its config and `metadata` beside it."""
    tensors = {key_map(k, True): v.detach().half().contiguous().cpu()
               for k, v in model.state_dict().items()}  # fmt: skip
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
    tensors, metadata = read_safetensors(path)
    if "config" not in metadata:
        raise ValueError(f"{path} has no `config` in its metadata, so its sizes are unknown.")
    model = model_class.from_config(json.loads(metadata["config"]))
    try:
        tensors = {key_map(k, False): v.float() for k, v in tensors.items()}
        missing, unexpected = model.load_state_dict(tensors, strict=False)
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"{path} does not hold a {model_class.__name__} of its own config: {error}"
        ) from error
    if missing or unexpected:
        raise ValueError(
            f"{path} does not fit {model_class.__name__}: {len(missing)} keys are missing "
            f"({', '.join(missing[:3])}), {len(unexpected)} unknown ({', '.join(unexpected[:3])})."
        )
    return model.eval(), json.loads(metadata.get("fourreal", "{}"))
