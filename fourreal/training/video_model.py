"""The video model to be trained: made from nothing or read, and which of its weights are tuned."""

import re
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor, nn

from fourreal.embedded.autoencoder import load_autoencoder
from fourreal.embedded.text import build_text_encoder, build_tokenizer, caption_words
from fourreal.grid import num_latent_frames
from fourreal.training.lora import SELF_ATTENTION, add_lora
from fourreal.training.video_config import Tune, VideoConfig, grids_of
from fourreal.video.architectures import WanTransformer
from fourreal.video.pipeline import ViewTimePipeline
from fourreal.video.transformer import apply_view_time
from fourreal.video.umt5 import encode_text
from fourreal.video.wan_folder import load_pipeline_folder

TUNED_WITH_ATTENTION = SELF_ATTENTION + r"|blocks\.\d+\.(attn1\.norm_[qk]|view_time_sync)"
SCRATCH_AUTOENCODER = Path("out/train/autoencoder/autoencoder.safetensors")


class TextToGrid(nn.Module):
    """Transformer and text encoder, where both are trained, as one module."""

    transformer: Any
    text_encoder: Any

    def __init__(self, transformer: nn.Module, text_encoder: nn.Module, tokenizer: Any):
        super().__init__()
        self.transformer, self.text_encoder = transformer, text_encoder
        self.tokenizer = tokenizer

    def forward(self, inputs: Tensor, timesteps: Tensor, captions: list[str]) -> Tensor:
        """The velocity of the inputs."""
        text = encode_text(self.tokenizer, self.text_encoder, captions)
        return self.transformer(inputs, timesteps, text).sample


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
        num_layers=config.layers,
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
        return load_pipeline_folder(start, torch.bfloat16), False
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


def prepare_pipeline(config: VideoConfig) -> tuple[ViewTimePipeline, bool]:
    """(the pipeline with the config's settings and trainable weights, whether its text encoder is
    trained too).

    Raises ValueError for what cannot be tuned.
    """
    if config.tune == "lora" and config.start_from is None:
        raise ValueError("a LoRA needs a model; give one with --start-from.")
    pipe, trains_text = load_base(config)
    architecture = config.architecture or pipe.config.architecture
    if config.tune == "lora" and architecture.startswith("parallel"):
        raise ValueError(
            f"a LoRA cannot hold the layers that {architecture} adds; use --tune attention or all."
        )
    schedule = pipe.scheduler.config
    shift = config.shift or schedule.get("flow_shift", schedule.get("shift"))
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    pipe.register_to_config(
        conditioning=config.conditioning or pipe.config.conditioning,
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
    elif tune == "attention":
        for name, module in transformer.named_modules():
            if re.fullmatch(TUNED_WITH_ATTENTION, name):
                module.requires_grad_(True)
    for parameter in transformer.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
