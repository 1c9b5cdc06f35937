"""The video model to be trained: made from nothing or read, and which of its weights are tuned."""

import re
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor, nn

from fourreal.devices import choose_device, matrix_dtype
from fourreal.embedded.autoencoder import load_autoencoder
from fourreal.embedded.text import build_text_encoder, build_tokenizer, caption_words
from fourreal.grid import num_latent_frames
from fourreal.training.lora import SELF_ATTENTION, add_lora
from fourreal.training.video_config import Tune, VideoConfig, grids_of
from fourreal.video.architectures import WanTransformer
from fourreal.video.pipeline import ViewTimePipeline
from fourreal.video.transformer import apply_view_time
from fourreal.video.umt5 import embed_tokens, tokenize
from fourreal.video.wan_folder import load_pipeline_folder

TUNED_WITH_ATTENTION = SELF_ATTENTION + r"|blocks\.\d+\.(attn1\.norm_[qk]|view_time_sync)"
TUNED_WITH_VACE = r"vace_(patch_embedding|blocks)\b.*"
LAYERS = 6  # of a model from nothing
VACE_EVERY = 2  # layers, as in VACE 1.3B
SCRATCH_AUTOENCODER = Path("out/train/autoencoder/autoencoder.safetensors")


class TextToGrid(nn.Module):
    """Transformer and text encoder, where both are trained, as one module."""

    transformer: Any
    text_encoder: Any

    def __init__(self, transformer: nn.Module, text_encoder: nn.Module, tokenizer: Any):
        super().__init__()
        self.transformer, self.text_encoder = transformer, text_encoder
        self.tokenizer = tokenizer
        self.tokens: dict[str, tuple[Tensor, Tensor]] = {}  # of captions met before

    def encode(self, captions: list[str]) -> Tensor:
        """The captions' embeddings [B, L, D]."""
        for caption in set(captions) - self.tokens.keys():
            self.tokens[caption] = tokenize(self.tokenizer, [caption])
        ids, mask = (torch.cat(part) for part in zip(*(self.tokens[c] for c in captions)))
        return embed_tokens(self.text_encoder, ids, mask)

    def forward(self, inputs: Tensor, timesteps: Tensor, captions: list[str]) -> Tensor:
        """The velocity of the inputs."""
        return self.transformer(inputs, timesteps, self.encode(captions)).sample


def build_transformer(config: VideoConfig, z_dim: int) -> WanTransformer3DModel:
    """An untrained transformer of the config's size."""
    return WanTransformer3DModel(
        num_attention_heads=config.width // 128,
        attention_head_dim=128,
        in_channels=z_dim,
        out_channels=z_dim,
        text_dim=config.text_width,
        freq_dim=256,
        ffn_dim=config.ffn_width,
        num_layers=config.layers or LAYERS,
    )


def build_pipeline(config: VideoConfig) -> ViewTimePipeline:
    """An untrained pipeline of the config's size around a trained autoencoder."""
    vae = load_autoencoder(config.autoencoder or SCRATCH_AUTOENCODER)
    tokenizer = build_tokenizer(caption_words())
    transformer = build_transformer(config, vae.config["z_dim"])
    # Its first answer is zero, whatever the random blocks before say.
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(transformer.proj_out.bias)
    return ViewTimePipeline(
        transformer,
        vae,
        build_text_encoder(len(tokenizer), config.text_width),
        tokenizer,
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        conditioning="replace",
        max_frames=max(num_latent_frames(frames) for _, frames in grids_of(config)),
        guidance_scale=2.5,
    )


def load_base(config: VideoConfig) -> tuple[ViewTimePipeline, bool]:
    """(the pipeline to be trained, whether its text encoder is small enough to be trained too)."""
    start = config.start_from
    if start is None:
        return build_pipeline(config), True
    if not start.exists():
        raise ValueError(f"{start} does not exist; --start-from is a folder or a file.")
    if (start / "model_index.json").is_file():
        return load_pipeline_folder(start, matrix_dtype(choose_device())), False
    if start.is_file():
        if config.autoencoder is None or config.text_encoder is None:
            raise ValueError(
                f"{start} is a transformer alone; give --autoencoder and --text-encoder as well."
            )
        return ViewTimePipeline.from_single_files(
            start, config.autoencoder, config.text_encoder, config.tokenizer
        ), False
    beside = start / "autoencoder.safetensors"
    return ViewTimePipeline.from_single_files(
        start / "transformer.safetensors",
        config.autoencoder or (beside if beside.is_file() else SCRATCH_AUTOENCODER),
        start / "text_encoder.safetensors",
        torch_dtype=torch.float32,
    ), True


def add_vace(
    transformer: WanTransformer3DModel | WanVACETransformer3DModel, stride: int
) -> WanVACETransformer3DModel:
    """A VACE on a copy of a transformer, which it answers like as long as it is not trained; stride
    is its autoencoder's, in pixels. A VACE is given back as it is.

    As VACE was made: its blocks begin as copies of every second block, and what they say to the
    others is zero. Here they also begin with a view of what is known: its latents are embedded like
    the noisy ones, and added to them.
    """
    if isinstance(transformer, WanVACETransformer3DModel):
        return transformer
    config = {k: v for k, v in dict(transformer.config).items() if not k.startswith("_")}
    layers = list(range(0, config["num_layers"], VACE_EVERY))
    channels = 2 * config["in_channels"] + stride**2  # latents twice, and the mask
    model = WanVACETransformer3DModel.from_config(
        config | {"vace_layers": layers, "vace_in_channels": channels}
    )
    model.load_state_dict(transformer.state_dict(), strict=False)
    embedding, known = model.vace_patch_embedding, model.patch_embedding
    nn.init.normal_(embedding.weight, std=0.02)
    with torch.no_grad():
        embedding.weight[:, : known.in_channels] = known.weight
        embedding.bias.copy_(known.bias)
    for layer, block in zip(layers, model.vace_blocks):
        block.load_state_dict(transformer.blocks[layer].state_dict(), strict=False)
        nn.init.zeros_(block.proj_out.weight)
        nn.init.zeros_(block.proj_out.bias)
    first = model.vace_blocks[0].proj_in
    nn.init.eye_(first.weight)
    nn.init.zeros_(first.bias)
    return model if model.dtype == transformer.dtype else model.to(transformer.dtype)


def add_layers(transformer: WanTransformer, count: int) -> WanTransformer:
    """A transformer of `count` blocks that answers like the given one: what is added, spread
    between its own, are copies of the block before, whose answers are zero.

    Raises ValueError where it has more blocks, or is a VACE.
    """
    own = transformer.config["num_layers"]
    if count == own:
        return transformer
    if count < own or isinstance(transformer, WanVACETransformer3DModel):
        raise ValueError(
            f"--layers is {count}, but the model to start from is "
            + (f"of {own} blocks; give {own} or more." if count < own else "a VACE; leave it out.")
        )
    config = {k: v for k, v in dict(transformer.config).items() if not k.startswith("_")}
    model = WanTransformer3DModel.from_config(config | {"num_layers": count})
    model.load_state_dict(transformer.state_dict(), strict=False)
    sources = [index * own // count for index in range(count)]
    for index, source in enumerate(sources):
        block = model.blocks[index]
        block.load_state_dict(transformer.blocks[source].state_dict())
        if index and sources[index - 1] == source:
            for answer in (block.attn1.to_out[0], block.attn2.to_out[0], block.ffn.net[2]):
                nn.init.zeros_(answer.weight)
                nn.init.zeros_(answer.bias)
    return model if model.dtype == transformer.dtype else model.to(transformer.dtype)


def prepare_pipeline(config: VideoConfig) -> tuple[ViewTimePipeline, bool]:
    """(the pipeline with the config's settings and trainable weights, whether its text encoder is
    trained too).

    Raises ValueError for what cannot be tuned.
    """
    pipe, trains_text = load_base(config)
    conditioning = config.conditioning or pipe.config.conditioning
    if config.layers:
        pipe.register_modules(transformer=add_layers(pipe.transformer, config.layers))
    if isinstance(pipe.transformer, WanVACETransformer3DModel) and not config.vace:
        raise ValueError(f"{config.start_from} is a VACE, which is trained with --vace; add it.")
    if config.vace:
        pipe.register_modules(transformer=add_vace(pipe.transformer, pipe.spatial_stride))
        conditioning, trains_text = "mask", False
    architecture = config.architecture or pipe.config.architecture
    if config.tune == "lora" and architecture.startswith("parallel"):
        raise ValueError(
            f"a LoRA cannot hold the layers that {architecture} adds; use --tune attention or all."
        )
    schedule = pipe.scheduler.config
    shift = config.shift or schedule.get("flow_shift", schedule.get("shift"))
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    pipe.register_to_config(
        conditioning=conditioning,
        guidance_scale=config.guidance_scale or pipe.config.guidance_scale,
        architecture=architecture,
    )
    pipe.vae.requires_grad_(False)
    if config.loop.mixed_precision == "no":
        pipe.transformer.float()
    apply_view_time(pipe.transformer, 1, 1, architecture=architecture)  # adds the layers it needs
    choose_trained(pipe.transformer, config.tune, config.lora_rank)
    if config.gradient_checkpointing:
        pipe.transformer.enable_gradient_checkpointing()
    return pipe, trains_text and config.tune == "all"


def choose_trained(transformer: WanTransformer, tune: Tune, rank: int) -> None:
    """Leave only what is tuned trainable, in float32; the rest stays in the type it came in."""
    transformer.requires_grad_(tune == "all")
    if tune == "lora":
        add_lora(transformer, rank)
    elif tune != "all":
        pattern = TUNED_WITH_ATTENTION if tune == "attention" else TUNED_WITH_VACE
        for name, module in transformer.named_modules():
            if re.fullmatch(pattern, name):
                module.requires_grad_(True)
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
