"""The embedded video models as ComfyUI's own objects: MODEL, CLIP and VAE.

The transformer is ComfyUI's WanModel and the text encoder ComfyUI's UMT5, in small; only the
autoencoder is this project's own module. All compute in float32: they are small.
"""

import json
import math
from pathlib import Path

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.text_encoders.t5
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd1_clip import SD1ClipModel, SDClipModel
from comfy.supported_models_base import ClipTarget
from torch import Tensor, nn

from fourreal.embedded.autoencoder import BlockAutoencoder, load_autoencoder
from fourreal.embedded.text import MAX_TOKENS
from fourreal.files.tensors import read_safetensors

from .view_time import KEY, wan_conventions

CLIP_NAME = "umt5"
UMT5_DEFAULTS = {  # of transformers' UMT5Config, where the file's config leaves them out
    "pad_token_id": 0,
    "eos_token_id": 1,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
}
ENCODER_FIXED = {"model_type": "umt5", "is_gated_act": True, "dense_act_fn": "gelu_pytorch_tanh"}


def load_embedded(
    folder: Path, transformer: Path
) -> tuple[ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL of a transformer file, CLIP and VAE of the files in a folder. Raises ValueError for one
    that does not fit."""
    autoencoder = load_autoencoder(folder / "autoencoder.safetensors")
    model = load_comfy_model(transformer, EmbeddedLatents(autoencoder))
    max_tokens = model.get_attachment(KEY).get("max_tokens", MAX_TOKENS)
    clip = load_comfy_clip(folder / "text_encoder.safetensors", max_tokens)
    return model, clip, EmbeddedVAE(autoencoder)


def fill_module(module: nn.Module, tensors: dict[str, Tensor], path: Path, name: str) -> None:
    """Put a file's tensors into a module of the sizes in its config. Raises ValueError."""
    wrong = sorted(module.state_dict().keys() ^ tensors.keys())
    if wrong:
        raise ValueError(
            f"{path} does not fit the {name} of its own config: {len(wrong)} keys are missing or "
            f"unknown ({', '.join(wrong[:3])})."
        )
    module.load_state_dict({k: v.float() for k, v in tensors.items()})


class EmbeddedLatents(comfy.latent_formats.LatentFormat):
    """Latents as the embedded autoencoder gives them: mean 0 and deviation about 1 already."""

    latent_dimensions = 3
    spacial_downscale_ratio = 8
    temporal_downscale_ratio = 4

    def __init__(self, autoencoder: BlockAutoencoder):
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


def load_comfy_model(path: Path, latent_format: EmbeddedLatents) -> ModelPatcher:
    """A MODEL from a Wan transformer in ComfyUI's layout with its sizes in `config`.

    What the file notes about itself, and Wan's conventions where it notes nothing, are attached to
    the MODEL. Raises ValueError when the file is damaged or does not fit its own config.
    """
    tensors, metadata = read_safetensors(path)
    if "config" not in metadata:
        raise ValueError(f"{path} has no `config` in its metadata, so its sizes are unknown.")
    sizes = json.loads(metadata["config"])
    vace = {}  # sizes of the VACE blocks, of which core has one at equal distances
    if layers := sizes.get("vace_layers"):
        vace = {"vace_layers": len(layers), "vace_in_dim": sizes["vace_in_channels"]}
        if layers != list(range(0, sizes["num_layers"], sizes["num_layers"] // len(layers))):
            raise ValueError(
                f"{path} has VACE blocks at the layers {layers}, but they must be at equal "
                "distances from the first on."
            )
    noted = wan_conventions(sizes["in_channels"]) | json.loads(metadata.get("fourreal", "{}"))
    if vace:
        family = comfy.supported_models.WAN21_Vace
    elif noted["conditioning"] == "replace":
        family = comfy.supported_models.WAN22_T2V
    else:
        family = comfy.supported_models.WAN21_T2V
    config = family(
        {
            "image_model": "wan2.1",
            "model_type": "vace" if vace else "t2v",
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
        | vace
    )
    config.latent_format = latent_format
    config.sampling_settings["shift"] = noted["shift"]
    config.set_inference_dtype(torch.float32, None)
    offload_device = comfy.model_management.unet_offload_device()
    model = config.get_model(tensors, "", device=offload_device)
    fill_module(model.diffusion_model, tensors, path, "Wan transformer")
    patcher = comfy.model_patcher.CoreModelPatcher(
        model, comfy.model_management.get_torch_device(), offload_device
    )
    patcher.set_attachments(KEY, noted)
    return patcher


class SmallUMT5(comfy.text_encoders.t5.T5):
    """ComfyUI's UMT5 with the relative position buckets of a config (there they are fixed)."""

    def __init__(self, config: dict, dtype, device, operations):
        super().__init__(config, dtype, device, operations)
        buckets = config["relative_attention_num_buckets"]
        for block in self.encoder.block:
            attention = block.layer[0].SelfAttention
            attention.relative_attention_num_buckets = buckets
            attention.relative_attention_max_distance = config["relative_attention_max_distance"]
            attention.relative_attention_bias = operations.Embedding(
                buckets, config["num_heads"], device=device, dtype=dtype
            )


def text_encoder_class(config: dict) -> type[SD1ClipModel]:
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


def tokenizer_class(description: str, max_tokens: int) -> type:
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

        def words_warning(self, text: str) -> str | None:
            """What is to be told of words that are not known."""
            from fourreal.embedded.text import words_warning

            return words_warning(self.tokenizer, text)

        def state_dict(self):
            return {}

    return SmallTokenizer


def load_comfy_clip(path: Path, max_tokens: int) -> comfy.sd.CLIP:
    """A CLIP from a text encoder's file with its tokenizer. Raises ValueError."""
    tensors, metadata = read_safetensors(path)
    if "tokenizer" not in metadata:
        raise ValueError(f"{path} is not a text encoder of this project: it holds no tokenizer.")
    config = UMT5_DEFAULTS | json.loads(metadata["config"]) | ENCODER_FIXED
    target = ClipTarget(
        tokenizer_class(metadata["tokenizer"], max_tokens), text_encoder_class(config)
    )
    clip = comfy.sd.CLIP(target, parameters=sum(t.numel() for t in tensors.values()))
    fill_module(
        getattr(clip.cond_stage_model, CLIP_NAME).transformer, tensors, path, "text encoder"
    )
    return clip


class TensorAutoencoder(nn.Module):
    """The embedded autoencoder with tensors in and out. It holds the diffusers model, whose
    `device` cannot be assigned, as ComfyUI does."""

    def __init__(self, model: BlockAutoencoder):
        super().__init__()
        self.model = model

    def encode(self, videos: Tensor) -> Tensor:
        return self.model.encode(videos).latent_dist.mean

    def decode(self, latents: Tensor) -> Tensor:
        return self.model.decode(latents).sample


class EmbeddedVAE(comfy.sd.VAE):
    """A VAE for the stock nodes around the embedded autoencoder."""

    def __init__(self, autoencoder: BlockAutoencoder):
        # comfy.sd.VAE makes its model from keys that it knows, and these are not among them. Made
        # as core's `pixel_space`, which has no weights, it gets every attribute that the methods of
        # this version of ComfyUI ask for; then come the model, and what it does differently.
        super().__init__(sd={"pixel_space_vae": torch.tensor(1.0)}, dtype=torch.float32)
        self.first_stage_model = TensorAutoencoder(autoencoder).eval()
        self.working_dtypes = [torch.float32]
        self.latent_channels = autoencoder.z_dim
        self.latent_dim = 3
        self.upscale_ratio = (lambda frames: max(0, frames * 4 - 3), 8, 8)
        self.upscale_index_formula = (4, 8, 8)
        self.downscale_ratio = (lambda frames: max(0, math.floor((frames + 3) / 4)), 8, 8)
        self.downscale_index_formula = (4, 8, 8)
        # Input, output and the blocks between them, in bytes.
        self.memory_used_encode = lambda shape, dtype: 3 * 12 * math.prod(shape[2:])
        self.memory_used_decode = lambda shape, dtype: 3 * 12 * math.prod(shape[2:]) * 256
        self.disable_offload = False
        self.size = None  # of the model, when it is asked for
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            self.first_stage_model,
            load_device=self.device,
            offload_device=comfy.model_management.vae_offload_device(),
        )
