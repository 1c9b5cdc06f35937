"""Small models, Gaussians, images and reference numbers that several tests share."""

import io
import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open

from fourreal.gaussians import Gaussians
from fourreal.reconstruction import VGGT, VGGTConfig

FIXTURES = Path(__file__).with_name("fixtures")


def key_list(name: str) -> dict[str, list[int]]:
    """Every key and shape of a full-size public file (see fixtures/README.md)."""
    return json.loads((FIXTURES / "keys" / f"{name}.json").read_text())


@cache
def fixture(name: str) -> tuple[dict, dict, dict, str]:
    """weights, inputs, outputs and the config's JSON."""
    with safe_open(FIXTURES / f"{name}.safetensors", "pt") as file:
        groups = [
            {key[len(p) :]: file.get_tensor(key) for key in file.keys() if key.startswith(p)}  # noqa: SIM118
            for p in ("weights.", "inputs.", "outputs.")
        ]
        return *groups, file.metadata()["config"]


def assert_close(ours, reference, limit=1e-4):
    assert ours.shape == reference.shape
    assert reference.abs().max() > 0
    assert (ours - reference).abs().max() / reference.abs().max() < limit


def tiny_config(**changes) -> VGGTConfig:
    sizes = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 32,
        "depth": 4,
        "num_heads": 4,
        "dino_depth": 1,
        "dino_num_heads": 4,
        "dpt_features": 8,
        "dpt_out_channels": (8, 8, 8, 8),
        "intermediate_layers": (0, 1, 2, 3),
        "camera_head_num_heads": 4,
        "layer_scale_init": 1.0,
    }
    return VGGTConfig(**(sizes | changes))


def tiny_model(**changes) -> VGGT:
    torch.manual_seed(0)
    return VGGT(tiny_config(**changes)).eval()


def open_temporal_gates(model: VGGT) -> VGGT:
    with torch.no_grad():
        for block in model.aggregator.temporal_blocks:
            block.ls1.gamma.fill_(1.0)
            block.ls2.gamma.fill_(1.0)
    return model


def cloud(count=50, degree=1, seed=0):
    r = torch.Generator().manual_seed(seed)
    return Gaussians(
        torch.randn(count, 3, generator=r),
        torch.nn.functional.normalize(torch.randn(count, 4, generator=r), dim=-1),
        torch.rand(count, 3, generator=r) * 0.1 + 0.001,
        torch.rand(count, generator=r),
        torch.rand(count, (degree + 1) ** 2, 3, generator=r) * 1.6 - 0.8,
    )


def pixels(file: bytes) -> np.ndarray:
    """An image file as [H, W, 3] in [0, 1]."""
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"), dtype=np.float32) / 255


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a - b) ** 2)))


# ----- video -----

PROMPT = "a red ball bouncing past a blue box"


def _tiny_sizes(channels: int, heads: int, head_size: int) -> dict:
    return {
        "num_attention_heads": heads,
        "attention_head_dim": head_size,
        "in_channels": channels,
        "out_channels": channels,
        "text_dim": 32,
        "freq_dim": 32,
        "ffn_dim": 64,
    }


def tiny_transformer(channels: int = 16, heads: int = 2, head_size: int = 24):
    """A Wan transformer of two layers; public ones have heads of 128."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    return WanTransformer3DModel(**_tiny_sizes(channels, heads, head_size), num_layers=2).eval()


def tiny_vace(channels: int = 16, heads: int = 2, head_size: int = 24):
    """A Wan VACE transformer of four layers, two of them with a VACE block."""
    from diffusers import WanVACETransformer3DModel

    torch.manual_seed(0)
    sizes = _tiny_sizes(channels, heads, head_size)
    layers = {"num_layers": 4, "vace_layers": [0, 2], "vace_in_channels": 2 * channels + 64}
    return WanVACETransformer3DModel(**sizes, **layers).eval()


def tiny_vae(channels: int = 16):
    """The Wan 2.1 VAE (16 channels) or the Wan 2.2 VAE (48) with few channels inside."""
    from diffusers import AutoencoderKLWan

    from fourreal.video.wan_files import MEAN_22, STD_22

    torch.manual_seed(1)
    if channels == 16:
        return AutoencoderKLWan(base_dim=8).eval()
    return AutoencoderKLWan(
        base_dim=8,
        decoder_base_dim=12,
        z_dim=48,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        latents_mean=MEAN_22,
        latents_std=STD_22,
    ).eval()


def tiny_pipeline(channels: int = 16, heads: int = 2, head_size: int = 24, **options):
    """A ViewTimePipeline for 8 latent frames with the embedded tokenizer; quiet.

    options replace its parts and what it notes about itself.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    from fourreal.embedded.text import build_text_encoder, build_tokenizer, caption_words
    from fourreal.video import ViewTimePipeline

    tokenizer = build_tokenizer(caption_words())
    torch.manual_seed(2)
    parts = {
        "transformer": tiny_transformer(channels, heads, head_size),
        "vae": tiny_vae(channels),
        "text_encoder": build_text_encoder(len(tokenizer), 32).eval(),
        "tokenizer": tokenizer,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        "max_frames": 8,
    }
    pipeline = ViewTimePipeline(**(parts | options))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample_grid(pipeline, seed: int = 0, **options) -> torch.Tensor:
    """Frames (or latents) of a grid of 2 views x 5 frames of 32 x 32 pixels in 2 steps."""
    defaults = {
        "prompt": PROMPT,
        "num_views": 2,
        "num_frames": 5,
        "height": 32,
        "width": 32,
        "num_inference_steps": 2,
        "generator": torch.Generator().manual_seed(seed),
    }
    return pipeline(**(defaults | options)).frames
