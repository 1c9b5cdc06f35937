"""`fourreal train autoencoder`: fit the embedded block transform to procedural scenes."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from fourreal.evaluation.metrics import psnr
from fourreal.rendering.video import write_image
from fourreal.training.loop import Loop, LoopConfig
from fourreal.training.scene_cache import SceneCache
from fourreal.video.block_autoencoder import BlockAutoencoder
from fourreal.video.files import load_single_file, save_single_file

NOISE = 0.3  # at most, added to latents in training: generated ones are not exact either
MOTION_WEIGHT = 0.5


@dataclass
class AutoencoderConfig:
    """Fit the embedded video autoencoder: a linear transform, in closed form, then the part of its
    decoder that looks at neighbouring blocks, by gradient descent."""

    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(Path("out/train/autoencoder"), batch_size=8)
    )
    start_from: Path | None = None
    """An autoencoder file whose linear transform to keep: video models trained on it stay valid."""
    cache: Path = Path("out/train/scenes")
    """Where drawn scenes are kept."""
    num_scenes: int = 600
    """Training scenes; the first 96 of them set the linear transform."""
    size: int = 64
    z_dim: int = 16
    decoder_width: int = 96
    """Channels between neighbouring blocks in the decoder; 0 leaves the transform alone."""


class NoisyDecoding(nn.Module):
    """An autoencoder as it is trained: clips to latents, with noise, to clips."""

    def __init__(self, vae: BlockAutoencoder):
        super().__init__()
        self.vae = vae

    def forward(self, clips: Tensor, generator: torch.Generator) -> Tensor:
        """Decoded clips [B, 3, T, H, W], not clamped, of clips in [-1, 1].

        The latents carry noise of a random strength, as generated latents are not exact either.
        """
        latents = self.vae.encode(clips).latent_dist.mean
        strength = NOISE * torch.rand(len(clips), 1, 1, 1, 1, generator=generator)
        noise = torch.randn(latents.shape, generator=generator) * strength
        return self.vae.unclamped(latents + noise.to(latents))


def decoding_loss(decoded: Tensor, clips: Tensor) -> dict[str, Tensor]:
    """Squared error of decoded clips [B, 3, T, H, W], and of their changes from frame to frame."""
    error = decoded.float() - clips
    mse = error.square().mean()
    motion = error.diff(dim=2).square().mean() if clips.shape[2] > 1 else 0
    return {"loss": mse + MOTION_WEIGHT * motion, "psnr": 10 * torch.log10(4 / mse.detach())}


def train_autoencoder(config: AutoencoderConfig) -> None:
    torch.manual_seed(config.loop.seed)
    scenes = SceneCache(config.cache, "train", 8, 29, config.size)
    scenes.fill(config.num_scenes)
    vae = BlockAutoencoder(config.z_dim, config.decoder_width)
    if config.start_from is not None:
        kept, _ = load_single_file(BlockAutoencoder, config.start_from, lambda key, _: key)
        vae.load_state_dict(dict(kept.named_buffers()), strict=False)
    else:
        count = min(config.num_scenes, 96)
        vae.fit([scenes.frames(i)[::2].transpose(1, 2) * 2 - 1 for i in range(count)])
    validation = SceneCache(config.cache, "validation", 8, 29, config.size)
    held_out = torch.stack([validation.frames(i)[::4] for i in range(8)]).flatten(0, 1)
    loop = Loop(config.loop, NoisyDecoding(vae), {"decoder_width": config.decoder_width})
    device = loop.accelerator.device
    is_main_process = loop.accelerator.is_main_process
    held_out = held_out.to(device)

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        def below(limit):
            return int(torch.randint(limit, (1,), generator=generator))

        clips = [
            scenes.frames(below(config.num_scenes), [below(8)])[0]
            for _ in range(config.loop.batch_size)
        ]
        clips = (torch.stack(clips).transpose(1, 2) * 2 - 1).to(device)
        return decoding_loss(loop.model(clips, generator), clips)

    def sample(out: Path) -> dict:
        decoded = vae.decode(vae.encode(held_out.transpose(1, 2) * 2 - 1).latent_dist.mean).sample
        decoded = decoded.transpose(1, 2) / 2 + 0.5
        pairs = torch.stack([held_out, decoded])[:, :8, [0, 10, 20]]
        if is_main_process:
            picture = rearrange(pairs, "side n t c h w -> c (n h) (t side w)")
            write_image(out / "samples.png", picture)
        return {"validation_psnr": round(float(psnr(decoded, held_out)), 2)}

    if config.decoder_width:
        loop.run(loss, sample)
    elif is_main_process:
        print(sample(config.loop.out))
    with loop.averaged():
        if is_main_process:
            path = config.loop.out / "autoencoder.safetensors"
            save_single_file(vae, path, lambda key, _: key, {"kind": "block"})
