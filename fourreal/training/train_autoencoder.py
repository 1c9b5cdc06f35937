"""`fourreal train autoencoder`: fit the embedded block transform to procedural scenes.

Its decoder can also learn from what a video model makes of noised latents: generated latents have
faults of their own, of which a decoder that knows exact ones alone makes edges between blocks.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from fourreal.data.cache import SceneCache
from fourreal.embedded.autoencoder import BlockAutoencoder, load_autoencoder, save_autoencoder
from fourreal.files.media import write_image
from fourreal.grid import grid_to_sequence, num_latent_frames, reference_mask, sequence_to_grid
from fourreal.metrics.pixels import psnr
from fourreal.training.loop import Loop, LoopConfig
from fourreal.video.conditioning import model_inputs
from fourreal.video.pipeline import ViewTimePipeline, load_embedded_pipeline
from fourreal.video.transformer import apply_view_time

NOISE = 0.3  # at most, added to latents in training: generated ones are not exact either
GUESSED = 0.5  # of the steps decode a video model's guesses, where one is given
GUESSED_FROM = (0.2, 0.95)  # the noise levels of the latents it guesses from
MOTION_WEIGHT = 0.5


@dataclass
class AutoencoderConfig:
    """Fit the embedded video autoencoder: a linear transform, in closed form, then the part of its
    decoder that looks at neighbouring blocks, by gradient descent."""

    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(Path("out/train/autoencoder"), batch_size=8)
    )
    start_from: Path | None = None
    """An autoencoder file whose linear transform to keep: video models trained on it stay valid.
    Its decoder is trained on where decoder_width is the same."""
    cache: Path = Path("out/train/scenes")
    """Where drawn scenes are kept."""
    num_scenes: int = 600
    """Training scenes; the first 96 of them set the linear transform."""
    size: int = 64
    z_dim: int = 16
    decoder_width: int = 96
    """Channels between neighbouring blocks in the decoder; 0 leaves the transform alone."""
    video: Path | None = None
    """Folder of an embedded video model whose guesses of noised latents are decoded in every other
    step."""


class NoisyDecoding(nn.Module):
    """An autoencoder as it is trained: clips to latents, with noise, to clips."""

    def __init__(self, vae: BlockAutoencoder):
        super().__init__()
        self.vae = vae

    def forward(
        self, clips: Tensor, generator: torch.Generator, guessed: Tensor | None = None
    ) -> Tensor:
        """Decoded clips [B, 3, T, H, W], not clamped, of clips in [-1, 1], or of guessed latents.

        Exact latents carry noise of a random strength, as generated latents are not exact either.
        """
        if guessed is not None:
            return self.vae.unclamped(guessed)
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


@torch.no_grad()
def guess(
    pipeline: ViewTimePipeline, latents: Tensor, caption: str, generator: torch.Generator
) -> Tensor:
    """What a video model makes in one step of latents [V, C, F, h, w] with noise of a random
    strength, from both references or from the text alone."""
    views, _, frames, height, width = latents.shape
    low, high = GUESSED_FROM
    sigma = low + (high - low) * torch.rand(1, generator=generator).to(latents)
    both = bool(torch.rand((), generator=generator) < 0.5)
    known = reference_mask(views, frames, both, int(both)).flatten()[None].to(latents.device)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    exact = grid_to_sequence(latents)
    noised = grid_to_sequence((1 - sigma) * latents + sigma * noise)
    patch = pipeline.transformer.config.patch_size[-1]
    inputs, timesteps = model_inputs(
        noised,
        exact,
        known,
        sigma * 1000,
        pipeline.config.conditioning,
        height // patch,
        width // patch,
    )
    velocity = pipeline.transformer(inputs, timesteps, pipeline.encode_prompt(caption)).sample
    guessed = torch.where(known[:, None, :, None, None], exact, noised - sigma * velocity)
    return sequence_to_grid(guessed, views)


def train_autoencoder(config: AutoencoderConfig) -> None:
    torch.manual_seed(config.loop.seed)
    scenes = SceneCache(config.cache, "train", 8, 29, config.size)
    scenes.fill(config.num_scenes)
    vae = BlockAutoencoder(config.z_dim, config.decoder_width)
    if config.start_from is not None:
        kept = load_autoencoder(config.start_from)
        whole = kept.config.decoder_width == config.decoder_width
        vae.load_state_dict(
            kept.state_dict() if whole else dict(kept.named_buffers()), strict=False
        )
    else:
        count = min(config.num_scenes, 96)
        vae.fit([scenes.frames(i)[::2].transpose(1, 2) * 2 - 1 for i in range(count)])
    validation = SceneCache(config.cache, "validation", 8, 29, config.size)
    held_out = torch.stack([validation.frames(i)[::4] for i in range(8)]).flatten(0, 1)
    loop = Loop(config.loop, NoisyDecoding(vae), {"decoder_width": config.decoder_width})
    device = loop.accelerator.device
    is_main_process = loop.accelerator.is_main_process
    held_out = held_out.to(device)
    pipeline = None
    if config.video is not None:
        pipeline = load_embedded_pipeline(config.video).to(device)
        frames = num_latent_frames(scenes.num_frames)
        apply_view_time(
            pipeline.transformer, scenes.num_views, frames, max_frames=pipeline.config.max_frames
        )

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        def below(limit):
            return int(torch.randint(limit, (1,), generator=generator))

        if pipeline is not None and torch.rand((), generator=generator) < GUESSED:
            index = below(config.num_scenes)
            clips = (scenes.frames(index).transpose(1, 2) * 2 - 1).to(device)
            latents = vae.encode(clips).latent_dist.mean
            guessed = guess(pipeline, latents, scenes.caption(index), generator)
            chosen = torch.randperm(len(clips), generator=generator)[: config.loop.batch_size]
            return decoding_loss(
                loop.model(clips[chosen], generator, guessed[chosen]), clips[chosen]
            )
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
            save_autoencoder(vae, config.loop.out / "autoencoder.safetensors")
