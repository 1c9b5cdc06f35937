"""Wan's public checkpoints as single files, recognised by their keys and shapes.

Wan 2.1 T2V and VACE 1.3B and 14B, Wan 2.2 TI2V 5B, and the VAEs of both, in fp32, fp16, bf16, fp8
or fp8_scaled, under the original names (Wan's releases, ComfyUI) or those of diffusers, behind any
prefix, alone or in one file with other parts. Nothing is fetched: the sizes are read from the
shapes. Files of this project carry in their metadata `config` (the diffusers config as JSON) and
`fourreal` (conditioning, max_frames, the grid it was trained on, ...).
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

from fourreal.embedded.autoencoder import BlockAutoencoder, load_autoencoder
from fourreal.files.models import assign_weights, write_weights
from fourreal.files.weights_files import read_weights, strip_prefix
from fourreal.video.architectures import WanTransformer, set_synchronisation
from fourreal.video.conditioning import WAN_CONVENTIONS
from fourreal.video.wan_keys import (
    comfy_key,
    transformer_to_diffusers,
    transformer_to_original,
    umt5_to_transformers,
    vae_to_diffusers,
)

if TYPE_CHECKING:
    from transformers import UMT5EncoderModel

PIECES = "spiece_model"  # the tokenizer in ComfyUI's UMT5 file
# Tensors that every part of a kind has, in each of its layouts.
KNOWN = {
    "transformer": (
        ("patch_embedding.weight", "head.head.weight"),
        ("patch_embedding.weight", "condition_embedder.time_proj.weight"),  # diffusers
    ),
    "vae": (
        ("conv2.weight", "decoder.middle.0.residual.0.gamma"),
        ("post_quant_conv.weight", "decoder.mid_block.resnets.0.norm1.gamma"),  # diffusers
        ("first_basis",),
    ),
    "text encoder": (
        ("encoder.block.0.layer.0.SelfAttention.q.weight",),
        ("token_embedding.weight", "blocks.0.attn.q.weight"),  # Wan's own
        ("block.0.layer.0.SelfAttention.q.weight", "final_layer_norm.weight"),  # the stack alone
    ),
}
LARGEST = 2**17  # of the numbers in a config
LORA = re.compile(r"[._]lora_(A|B|down|up)\b|\.lora\.(down|up)\.|\.(lokr|hada)_")
HEAD_SIZE = 128  # of all Wan transformers
TRANSFORMERS = {  # (width, latent channels, whether with VACE blocks)
    (1536, 16, False): "Wan 2.1 T2V 1.3B",
    (5120, 16, False): "Wan 2.1 T2V 14B",
    (3072, 48, False): "Wan 2.2 TI2V 5B",
    (1536, 16, True): "Wan 2.1 VACE 1.3B",
    (5120, 16, True): "Wan VACE 14B",  # of 2.1, or one of the two of 2.2
}
VACE_BLOCKS = "vace_blocks."  # the start of keys
VAES = {16: "the Wan 2.1 VAE", 48: "the Wan 2.2 VAE"}  # by latent channels
VARIANTS = {  # keys that only other kinds of Wan transformer have
    "img_emb.": "image-to-video",
    "condition_embedder.image_embedder.": "image-to-video",
    "motion_encoder.": "Animate",
    "control_adapter.": "camera control",
}
# Mean and deviation of the 48 latent channels of the Wan 2.2 VAE; those of the 2.1 VAE are
# AutoencoderKLWan's defaults.
MEAN_22 = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813,
    0.0891, 0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108,
    -0.2158, 0.2502, -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313,
    -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944,
    0.3573, -0.0548, -0.1681, -0.0667,
)  # fmt: skip
STD_22 = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)  # fmt: skip
FP8 = ("float8_e4m3fn", "float8_e5m2")
WEIGHT_SCALES = (".scale_weight", ".weight_scale")  # as first released, as ComfyUI writes now
UNUSED = ("scaled_fp8", ".scale_input", ".input_scale", ".comfy_quant")  # markers, and activations
EMBEDDED_VAE = "the embedded autoencoder"


def transformer_name(width: int, channels: int, vace: bool) -> str:
    """What a Wan transformer of these sizes is called in messages."""
    kind = "Wan VACE transformer" if vace else "Wan transformer"
    other = f"a {kind} of width {width} for {channels} latent channels"
    return TRANSFORMERS.get((width, channels, vace), other)


def name_of(transformer: WanTransformer) -> str:
    """transformer_name of a model."""
    config: Any = transformer.config
    width = config.num_attention_heads * config.attention_head_dim
    vace = isinstance(transformer, WanVACETransformer3DModel)
    return transformer_name(width, config.in_channels, vace)


def vae_name(channels: int) -> str:
    """What a VAE with so many latent channels is called in messages."""
    return VAES.get(channels, f"a VAE of {channels} latent channels")


def part_of(tensors: dict[str, Tensor], kind: str, path: Path) -> dict[str, Tensor]:
    """The part of a kind in a file's tensors, without its prefix; any other part where there is
    none, and all tensors where no part is known. path is for messages.

    A transformer has the original names then, a text encoder those of transformers and, where the
    file holds it, the tokenizer as `spiece_model`; a VAE keeps its names.
    """
    for found in (kind, *(other for other in KNOWN if other != kind)):
        for known in KNOWN[found]:
            part = strip_prefix(tensors, known, path)
            if not set(known) <= part.keys():
                continue
            if found == "transformer" and "head.head.weight" not in part:
                return transformer_to_original(part)
            if found == "text encoder":
                pieces = [v for k, v in tensors.items() if k.rpartition(".")[2] == PIECES]
                return umt5_to_transformers(part) | ({PIECES: pieces[0]} if pieces else {})
            return part
    return tensors


@contextmanager
def sizes_of(path: Path) -> Iterator[None]:
    """Within it, sizes of a file's model are read and the model is made from them: what a file of
    impossible sizes raises there becomes one ValueError that names the file."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{path} lacks {error.args[0]}; download it again.") from error
    except (
        *(ValueError, TypeError, IndexError, AttributeError, RuntimeError, ArithmeticError),
    ) as error:
        if str(path) in str(error):
            raise
        reason = str(error).strip().partition("\n")[0][:200]
        raise ValueError(
            f"{path} has sizes or settings that no Wan model has ({reason or type(error).__name__})"
            "; use a file of a supported model."
        ) from error


def json_note(metadata: Mapping[str, str], name: str, path: Path) -> dict[str, Any]:
    """A JSON object of a file's metadata, empty where there is none. Raises ValueError for other
    JSON and for none."""
    try:
        noted = json.loads(metadata.get(name, "{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} has metadata ({name}) that is no JSON ({error}).") from error
    if not isinstance(noted, dict):
        raise ValueError(f"{path} has metadata ({name}) that is no JSON object.")
    return noted


def recognise_wan(tensors: dict[str, Tensor]) -> tuple[str, str]:
    """(kind, name) of a part's tensors (of part_of): transformer, vae, text encoder or unknown, and
    what it is called in messages."""
    if {"patch_embedding.weight", "head.head.weight"} <= tensors.keys():
        width, channels = tensors["patch_embedding.weight"].shape[:2]
        for start, variant in VARIANTS.items():
            if any(key.startswith(start) for key in tensors):
                return "unknown", f"a Wan {variant} transformer"
        if tensors["head.head.weight"].shape[0] != 4 * channels:
            return "unknown", f"a Wan transformer with {channels} input channels (image or control)"
        vace = any(key.startswith(VACE_BLOCKS) for key in tensors)
        return "transformer", transformer_name(width, channels, vace)
    if set(KNOWN["vae"][0]) <= tensors.keys():
        return "vae", vae_name(tensors["conv2.weight"].shape[0])
    if set(KNOWN["vae"][1]) <= tensors.keys():
        return "vae", vae_name(tensors["post_quant_conv.weight"].shape[0])
    if "first_basis" in tensors:
        return "vae", EMBEDDED_VAE
    if set(KNOWN["text encoder"][0]) <= tensors.keys():
        return "text encoder", "a T5 text encoder"
    if any(key.startswith(VACE_BLOCKS) for key in tensors):
        return "unknown", "the VACE blocks of a transformer without the transformer"
    if any(LORA.search(key) for key in tensors):
        return "unknown", "a LoRA (give the model here, and the LoRA with --lora)"
    return "unknown", f"tensors named {', '.join(sorted(tensors)[:2]) or 'nothing'}"


def dequantise(
    tensors: dict[str, Tensor], metadata: dict[str, str], path: Path, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """The tensors, where fp8 weights are weight * scale (computed in float32) of type dtype.

    fp8_scaled files hold a scale for each weight (scale_weight, or weight_scale in newer ones);
    plain fp8 files hold none. dtype None gives bfloat16. Raises ValueError for other quantisations.
    """
    notes = [value for key, value in tensors.items() if key.endswith(".comfy_quant")]
    noted: list[dict[str, Any]] = [json.loads(bytes(value.tolist())) for value in notes]
    noted += json_note(metadata, "_quantization_metadata", path).get("layers", {}).values()
    foreign = {layer.get("format") for layer in noted} - set(FP8)
    if foreign:
        raise ValueError(
            f"{path} is quantised as {', '.join(map(str, foreign))}, which is not read here; use "
            "the fp16, bf16 or fp8_scaled file."
        )
    scales = {
        key.removesuffix(end) + ".weight": value
        for key, value in tensors.items()
        for end in WEIGHT_SCALES
        if key.endswith(end)
    }
    numbers = {}
    for key, value in tensors.items():
        if key.endswith((*WEIGHT_SCALES, *UNUSED)):
            continue
        if key in scales or str(value.dtype).removeprefix("torch.") in FP8:
            value = (value.float() * scales.get(key, 1.0)).to(dtype or torch.bfloat16)
        numbers[key] = value
    return numbers


def read_checkpoint(
    path: Path, kind: str, needed: str, dtype: torch.dtype | None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (no prefix, no fp8) and metadata of a file of a kind (see recognise_wan).

    `needed` is what the message calls it. Raises ValueError that names what was found instead.
    """
    tensors, metadata = read_weights(path)
    tensors = part_of(tensors, kind, path)
    with sizes_of(path):
        found, name = recognise_wan(tensors)
    if found != kind:
        raise ValueError(
            f"{path} holds {name}, but {needed} is needed here, as a .safetensors or .pth file."
        )
    with sizes_of(path):
        return dequantise(tensors, metadata, path, dtype), metadata


def _transformer_config(
    tensors: dict[str, Tensor], metadata: Mapping[str, str], path: Path
) -> dict[str, Any]:
    """The diffusers config that a file notes, or that its shapes give."""
    config = json_note(metadata, "config", path)
    queries = [key for key in tensors if key.endswith(".self_attn.q.weight")]
    vace_layers = sum(key.startswith(VACE_BLOCKS) for key in queries)
    num_layers = len(queries) - vace_layers
    if not config:
        width, channels = tensors["patch_embedding.weight"].shape[:2]
        config = {
            "num_attention_heads": width // HEAD_SIZE,
            "attention_head_dim": HEAD_SIZE,
            "in_channels": channels,
            "out_channels": channels,
            "text_dim": tensors["text_embedding.0.weight"].shape[1],
            "freq_dim": tensors["time_embedding.0.weight"].shape[1],
            "ffn_dim": tensors["blocks.0.ffn.0.weight"].shape[0],
            "num_layers": num_layers,
        }
        if vace_layers:  # a VACE block at equal distances, beginning with the first block
            distance = num_layers // vace_layers
            config["vace_layers"] = list(range(0, num_layers, distance))
            config["vace_in_channels"] = tensors["vace_patch_embedding.weight"].shape[1]
        return config
    # Before a model of so many layers is made, whose tables of positions take memory.
    large = [key for key, value in config.items() if isinstance(value, int) and value > LARGEST]
    if large or config.get("num_layers") != num_layers:
        name = large[0] if large else "num_layers"
        raise ValueError(f"{path} notes {name} {config.get(name)}, which its tensors do not have.")
    return config


def load_transformer(
    path: Path, dtype: torch.dtype | None = None
) -> tuple[WanTransformer, dict[str, Any]]:
    """(transformer, settings) of a single file.

    settings are what a 4D checkpoint notes about itself (conditioning, max_frames, ...), empty for
    a public file. dtype None keeps the file's, bfloat16 for fp8. Raises ValueError, naming what was
    found, when the file is none of the supported transformers.
    """
    needed = f"a Wan text-to-video or VACE transformer ({', '.join(TRANSFORMERS.values())})"
    tensors, metadata = read_checkpoint(path, "transformer", needed, dtype)
    settings = json_note(metadata, "fourreal", path)
    with sizes_of(path), init_empty_weights():
        vace = any(key.startswith(VACE_BLOCKS) for key in tensors)
        cls = WanVACETransformer3DModel if vace else WanTransformer3DModel
        model = cls.from_config(_transformer_config(tensors, metadata, path))
        if str(settings.get("architecture", "")).startswith("parallel"):
            set_synchronisation(model, settings["architecture"])
    assign_weights(model, transformer_to_diffusers(tensors), path, dtype)
    return model, settings


def save_transformer(
    path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], settings: dict[str, Any]
) -> None:
    """Write a transformer as one file in ComfyUI's layout, float16, that load_transformer reads.

    tensors are its state dict (diffusers' names), config is its diffusers config, settings are what
    it notes about itself.
    """
    kept = {k: v for k, v in config.items() if not k.startswith("_")}
    noted = {"config": json.dumps(kept), "fourreal": json.dumps(settings)}
    write_weights(path, {comfy_key(k): v for k, v in tensors.items()}, noted)


def build_scheduler(
    transformer: WanTransformer, settings: Mapping[str, Any]
) -> FlowMatchEulerDiscreteScheduler | UniPCMultistepScheduler:
    """The scheduler of a transformer: this project's where its settings have a timestep shift, else
    Wan's own."""
    if "shift" in settings:
        # Fresh noise at each step: a small model's mistakes do not add up from step to step.
        return FlowMatchEulerDiscreteScheduler(shift=settings["shift"], stochastic_sampling=True)
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=WAN_CONVENTIONS[transformer.config["in_channels"]].shift,
    )


def load_vae(path: Path, dtype: torch.dtype | None = None) -> AutoencoderKLWan | BlockAutoencoder:
    """AutoencoderKLWan of a Wan 2.1 or 2.2 VAE file, or the embedded autoencoder of its file.

    dtype None keeps the file's. Raises ValueError, naming what was found, for anything else.
    """
    tensors, _ = read_checkpoint(path, "vae", "a Wan 2.1 or 2.2 VAE", dtype)
    if recognise_wan(tensors)[1] == EMBEDDED_VAE:
        return load_autoencoder(path, dtype)
    if "conv2.weight" in tensors:
        tensors = vae_to_diffusers(tensors)
    with sizes_of(path), init_empty_weights():
        model = AutoencoderKLWan.from_config(_vae_config(tensors))
    assign_weights(model, tensors, path, dtype)
    return model


def _vae_config(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The diffusers config of a VAE, from the shapes of its tensors under diffusers' names."""
    channels = tensors["post_quant_conv.weight"].shape[0]
    width = tensors["encoder.conv_in.weight"].shape[0]
    config: dict[str, Any] = {"base_dim": width, "z_dim": channels}
    if channels == len(MEAN_22):
        config |= {
            "decoder_base_dim": tensors["decoder.norm_out.gamma"].shape[0],
            "is_residual": True,
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "scale_factor_spatial": 16,
            "latents_mean": MEAN_22,
            "latents_std": STD_22,
        }
    return config


def check_parts(
    transformer: WanTransformer,
    vae: AutoencoderKLWan | BlockAutoencoder,
    text_encoder: "UMT5EncoderModel | None" = None,
) -> None:
    """Raise ValueError, naming both, when two parts of a pipeline do not fit each other."""
    config: Any = transformer.config
    name, channels = name_of(transformer), vae.config["z_dim"]
    if config.in_channels != config.out_channels or config.in_channels not in WAN_CONVENTIONS:
        raise ValueError(
            f"the transformer has {config.in_channels} input and {config.out_channels} output "
            "channels, but a text-to-video one of Wan 2.1 (16) or Wan 2.2 TI2V (48) is needed."
        )
    if channels != config.in_channels:
        raise ValueError(
            f"the transformer is {name}, which needs {vae_name(config.in_channels)}, but "
            f"{vae_name(channels)} was given."
        )
    if text_encoder is not None and text_encoder.config.d_model != config.text_dim:
        raise ValueError(
            f"the transformer is {name}, which reads text embeddings of {config.text_dim} numbers, "
            f"but the text encoder gives {text_encoder.config.d_model}."
        )
