"""The embedded models as ComfyUI's own objects: ModelPatcher, CLIP and VAE.

The transformer is ComfyUI's WanModel and the text encoder ComfyUI's UMT5, in small; only the
autoencoder is this project's own module. All compute in float32: they are small.
"""

import json
import math
from pathlib import Path

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models
import comfy.text_encoders.t5
import comfy.utils
import torch
from comfy.sd1_clip import SD1ClipModel, SDClipModel
from comfy.supported_models_base import ClipTarget
from torch import nn

from .view_time import KEY

CLIP_NAME = "umt5"


class EmbeddedLatents(comfy.latent_formats.LatentFormat):
    """Latents as the embedded autoencoder gives them: mean 0 and deviation about 1 already."""

    latent_dimensions = 3
    spacial_downscale_ratio = 8
    temporal_downscale_ratio = 4

    def __init__(self, autoencoder):
        """Colours for previews: the mean of a block is linear in its latent."""
        self.latent_channels = autoencoder.z_dim

        def colours(name: str) -> tuple[list, list]:
            mean, basis, scale = (
                getattr(autoencoder, f"{name}_{part}").float()
                for part in ("mean", "basis", "scale")
            )
            factors = (basis * scale).unflatten(0, (3, -1)).mean(dim=1)  # [3, C]
            return factors.T.tolist(), mean.unflatten(0, (3, -1)).mean(dim=1).tolist()

        self.latent_rgb_factors, self.latent_rgb_factors_bias = colours("first")
        self.later_rgb_factors = colours("rest")


def load_transformer(path: Path, latent_format) -> comfy.model_patcher.ModelPatcher:
    """A MODEL from a Wan transformer in ComfyUI's layout with its sizes in `config`.

    Raises ValueError when the file is damaged or does not fit its own config.
    """
    from fourreal.files.tensors import read_safetensors

    tensors, metadata = read_safetensors(path)
    if "config" not in metadata:
        raise ValueError(f"{path} has no `config` in its metadata, so its sizes are unknown.")
    sizes = json.loads(metadata["config"])
    noted = {"conditioning": "replace", "max_frames": 21, "shift": 3.0}
    noted |= json.loads(metadata.get("fourreal", "{}"))
    family = (
        comfy.supported_models.WAN22_T2V
        if noted["conditioning"] == "replace"
        else comfy.supported_models.WAN21_T2V
    )
    config = family(
        {
            "image_model": "wan2.1",
            "model_type": "t2v",
            "patch_size": tuple(sizes["patch_size"]),
            "in_dim": sizes["in_channels"],
            "out_dim": sizes["out_channels"],
            "dim": sizes["num_attention_heads"] * sizes["attention_head_dim"],
            "num_heads": sizes["num_attention_heads"],
            "num_layers": sizes["num_layers"],
            "ffn_dim": sizes["ffn_dim"],
            "freq_dim": sizes["freq_dim"],
            "text_dim": sizes["text_dim"],
            "eps": sizes["eps"],
        }
    )
    config.latent_format = latent_format
    config.sampling_settings["shift"] = noted["shift"]
    config.set_inference_dtype(torch.float32, None)
    offload_device = comfy.model_management.unet_offload_device()
    model = config.get_model(tensors, "", device=offload_device)
    expected = model.diffusion_model.state_dict().keys()
    if expected != tensors.keys():
        wrong = sorted(expected ^ tensors.keys())
        raise ValueError(
            f"{path} does not fit the Wan transformer of its own config: {len(wrong)} keys are "
            f"missing or unknown ({', '.join(wrong[:3])})."
        )
    model.diffusion_model.load_state_dict({k: v.float() for k, v in tensors.items()})
    patcher = comfy.model_patcher.CoreModelPatcher(
        model, comfy.model_management.get_torch_device(), offload_device
    )
    patcher.set_attachments(KEY, noted)
    return patcher


class SmallUMT5(comfy.text_encoders.t5.T5):
    """ComfyUI's UMT5 with the relative position buckets of a config (there they are fixed)."""

    def __init__(self, config, dtype, device, operations):
        super().__init__(config, dtype, device, operations)
        buckets = config["relative_attention_num_buckets"]
        for block in self.encoder.block:
            attention = block.layer[0].SelfAttention
            attention.relative_attention_num_buckets = buckets
            attention.relative_attention_max_distance = config["relative_attention_max_distance"]
            attention.relative_attention_bias = operations.Embedding(
                buckets, config["num_heads"], device=device, dtype=dtype
            )


def text_encoder_class(config: dict):
    """The class that comfy.sd.CLIP makes the text encoder of, with zeros after the end token."""

    class SmallUMT5Encoder(SDClipModel):
        def __init__(self, device="cpu", dtype=None, model_options={}):  # noqa: B006 (as ComfyUI)
            super().__init__(
                device=device,
                dtype=dtype,
                textmodel_json_config=config,
                model_class=SmallUMT5,
                special_tokens={"end": config["eos_token_id"], "pad": config["pad_token_id"]},
                enable_attention_masks=True,
                zero_out_masked=True,
                model_options=model_options,
            )

    class SmallTextEncoder(SD1ClipModel):
        def __init__(self, device="cpu", dtype=None, model_options={}):  # noqa: B006
            super().__init__(
                device=device,
                dtype=torch.float32,
                model_options=model_options,
                name=CLIP_NAME,
                clip_model=SmallUMT5Encoder,
            )

    return SmallTextEncoder


def tokenizer_class(description: str, max_tokens: int):
    """The class that comfy.sd.CLIP makes the tokenizer of, from its stored description."""
    from tokenizers import Tokenizer

    class SmallTokenizer:
        def __init__(self, embedding_directory=None, tokenizer_data=None):
            self.tokenizer = Tokenizer.from_str(description)
            self.tokenizer.enable_truncation(max_tokens)
            self.tokenizer.enable_padding(length=max_tokens, pad_id=0, pad_token="<pad>")

        def tokenize_with_weights(self, text, return_word_ids=False, **_):
            tokens = self.tokenizer.encode(text).ids
            return {CLIP_NAME: [[(t, 1.0, 0) if return_word_ids else (t, 1.0) for t in tokens]]}

        def state_dict(self):
            return {}

    return SmallTokenizer


def load_text_encoder(path: Path, max_tokens: int) -> comfy.sd.CLIP:
    """A CLIP from fourreal.embedded.text.save_text_encoder's file. Raises ValueError."""
    from fourreal.files.tensors import read_safetensors

    tensors, metadata = read_safetensors(path)
    if "tokenizer" not in metadata:
        raise ValueError(f"{path} is not a text encoder of this project: it holds no tokenizer.")
    config = {
        "pad_token_id": 0,
        "eos_token_id": 1,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
    } | json.loads(metadata["config"])
    config |= {"model_type": "umt5", "is_gated_act": True, "dense_act_fn": "gelu_pytorch_tanh"}
    target = ClipTarget(
        tokenizer_class(metadata["tokenizer"], max_tokens), text_encoder_class(config)
    )
    clip = comfy.sd.CLIP(target, parameters=sum(t.numel() for t in tensors.values()))
    encoder = getattr(clip.cond_stage_model, CLIP_NAME).transformer
    expected = encoder.state_dict().keys()
    if expected != tensors.keys():
        wrong = sorted(expected ^ tensors.keys())
        raise ValueError(
            f"{path} does not fit the text encoder of its own config: {len(wrong)} keys are "
            f"missing or unknown ({', '.join(wrong[:3])})."
        )
    encoder.load_state_dict({k: v.float() for k, v in tensors.items()})
    return clip


class Autoencoder(nn.Module):
    """The embedded autoencoder with tensors in and out. It holds the diffusers model, whose
    `device` cannot be assigned, as ComfyUI does."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def encode(self, videos):
        return self.model.encode(videos).latent_dist.mean

    def decode(self, latents):
        return self.model.decode(latents).sample


class EmbeddedVAE(comfy.sd.VAE):
    """A VAE for the stock nodes around the embedded autoencoder."""

    def __init__(self, autoencoder):
        # comfy.sd.VAE's own __init__ recognises known files by their keys, which this is not.
        self.first_stage_model = Autoencoder(autoencoder).eval()
        self.vae_dtype = torch.float32
        self.working_dtypes = [torch.float32]
        self.latent_channels = autoencoder.z_dim
        self.latent_dim = 3
        self.output_channels = 3
        self.upscale_ratio = (lambda frames: max(0, frames * 4 - 3), 8, 8)
        self.upscale_index_formula = (4, 8, 8)
        self.downscale_ratio = (lambda frames: max(0, math.floor((frames + 3) / 4)), 8, 8)
        self.downscale_index_formula = (4, 8, 8)
        self.process_input = lambda image: image * 2.0 - 1.0
        self.process_output = lambda image: image.add_(1.0).div_(2.0).clamp_(0.0, 1.0)
        # Input, output and the blocks between them, in bytes.
        self.memory_used_encode = lambda shape, dtype: 3 * 12 * math.prod(shape[2:])
        self.memory_used_decode = lambda shape, dtype: 3 * 12 * math.prod(shape[2:]) * 256
        self.pad_channel_value = None
        self.extra_1d_channel = None
        self.format_encoded = None
        self.crop_input = True
        self.not_video = False
        self.handles_tiling = False
        self.disable_offload = False
        self.size = None
        self.device = comfy.model_management.vae_device()
        self.output_device = comfy.model_management.intermediate_device()
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            self.first_stage_model,
            load_device=self.device,
            offload_device=comfy.model_management.vae_offload_device(),
        )


def make_offloadable(module: nn.Module) -> None:
    """Give leaf layers ComfyUI's classes in place, so that their weights may stay off the device.

    The numbers are the same; comfy.ops moves a layer's weights when it runs.
    """
    kinds = ("Linear", "Conv2d", "ConvTranspose2d", "LayerNorm")
    classes = {getattr(nn, kind): getattr(comfy.ops.disable_weight_init, kind) for kind in kinds}
    for part in module.modules():
        if type(part) in classes:
            part.__class__ = classes[type(part)]


class ComfyReconstructor:
    """A Reconstructor whose weights ComfyUI moves to the device and back, in part if need be."""

    def __init__(self, reconstructor):
        self.reconstructor = reconstructor
        make_offloadable(reconstructor.model)
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            reconstructor.model,
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )

    @property
    def license_note(self) -> str:
        return self.reconstructor.license_note

    def __call__(self, frames, **options):
        """As Reconstructor, after ComfyUI has made room on the device."""
        needed = self.memory_required(frames, options.get("resolution"), options.get("window"))
        comfy.model_management.load_models_gpu([self.patcher], memory_required=needed)
        # Single parameters (tokens, LayerScale) belong to no layer that ComfyUI can offload.
        for part in self.reconstructor.model.modules():
            if not hasattr(part, "comfy_cast_weights"):
                for parameter in part.parameters(recurse=False):
                    parameter.data = parameter.data.to(self.patcher.load_device)
        return self.reconstructor(frames, **options)

    def memory_required(self, frames, resolution: int | None, window: int | None) -> int:
        """Bytes that activations of one run need: tokens of a window, and one pass of a head."""
        config = self.reconstructor.model.config
        height, width = frames.shape[-2:]
        scale = (resolution or config.img_size) / max(height, width)
        pixels = round(height * scale) * round(width * scale)
        tokens = len(frames) * (window or 1) * (pixels // config.patch_size**2 + 5)
        # In float32: about 32 rows of the width (kept levels, queries, keys, values, the MLP);
        # about 4 maps of the decoder's features for every frame of a pass.
        rows = tokens * config.embed_dim * 32 * 4
        maps = min(len(frames) * (window or 1), 8) * pixels * config.dpt_features * 4 * 4
        return rows + maps
