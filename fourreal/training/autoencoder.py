"""`fourreal train autoencoder`: fit the embedded block transform to procedural scenes."""

from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange

from fourreal.evaluation.metrics import psnr
from fourreal.rendering.video import write_image
from fourreal.training.scene_cache import SceneCache
from fourreal.video.block_autoencoder import BlockAutoencoder
from fourreal.video.files import save_single_file


@dataclass
class AutoencoderConfig:
    """Fit the embedded video autoencoder. It is a linear transform: no steps, no seed."""

    out: Path = Path("out/train/autoencoder")
    cache: Path = Path("out/train/scenes")
    """Where drawn scenes are kept."""
    num_scenes: int = 96
    size: int = 64
    z_dim: int = 16


def train_autoencoder(config: AutoencoderConfig) -> None:
    scenes = SceneCache(config.cache, "train", 8, 29, config.size)
    scenes.fill(config.num_scenes)
    vae = BlockAutoencoder(config.z_dim)
    vae.fit([scenes.frames(i)[::2].transpose(1, 2) * 2 - 1 for i in range(config.num_scenes)])
    validation = SceneCache(config.cache, "validation", 8, 29, config.size)
    clips = torch.stack([validation.frames(i)[::4] for i in range(8)]).flatten(0, 1)
    decoded = vae.decode(vae.encode(clips.transpose(1, 2) * 2 - 1).latent_dist.mean).sample
    decoded = decoded.transpose(1, 2) / 2 + 0.5
    pairs = torch.stack([clips, decoded])[:, :8, [0, 10, 20]]
    write_image(
        config.out / "samples.png", rearrange(pairs, "side n t c h w -> c (n h) (t side w)")
    )
    print(f"validation PSNR {psnr(decoded, clips):.2f} dB over 8 scenes")
    save_single_file(
        vae, config.out / "autoencoder.safetensors", lambda key, _: key, {"kind": "block"}
    )
