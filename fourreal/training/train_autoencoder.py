"""`fourreal train autoencoder`: fit the embedded block transform to procedural scenes.

Its decoder can also learn from what a video model makes of noised latents: generated latents have
faults of their own, which a decoder that has seen only exact ones turns into edges between blocks.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor, nn

from fourreal.data.cache import SceneCache
from fourreal.files.media import write_image
from fourreal.grid import (
    grid_to_sequence,
    num_latent_frames,
    reference_mask,
    sequence_to_grid,
    shrunk,
)
from fourreal.metrics.pixels import psnr
from fourreal.training.draws import draw_shrink
from fourreal.training.loop import Loop, LoopConfig
from fourreal.video.conditioning import model_inputs

if TYPE_CHECKING:
    from fourreal.embedded.autoencoder import BlockAutoencoder
    from fourreal.video.pipeline import ViewTimePipeline

NOISE = 0.3  # at most, added to latents in training: generated ones are not exact either
GUESSED = 0.5  # of the steps decode a video model's guesses, where one is given
GUESSED_FROM = (0.2, 0.95)  # the noise levels of the latents it guesses from
MOTION_WEIGHT = 0.5
ABSOLUTE_WEIGHT = 0.1  # of the absolute error, whose best guess of an edge is sharp
NUM_VIEWS, NUM_FRAMES = 8, 29  # of the scenes
FITTED = 96  # scenes that set the linear transform
VALIDATION_SCENES = 8


@dataclass
class AutoencoderConfig:
    """Fit the embedded video autoencoder: a linear transform, in closed form, then the part of its
    decoder that looks at neighbouring blocks, by gradient descent."""

    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(Path("out/train/autoencoder"), batch_size=8)
    )
    start_from: Path | None = None
    """An autoencoder file whose linear transform to keep: video models trained on it stay valid.
    Its decoder is trained on where decoder_width and decoder_depth are the same."""
    cache: Path = Path("out/train/scenes")
    """Where drawn scenes are kept."""
    num_scenes: int = 600
    """Training scenes; the first 96 of them set the linear transform."""
    size: int = 64
    """Height and width of the scenes in pixels."""
    half_size: float = 0.0
    """How often clips have half of that height and width, four times as many."""
    z_dim: int = 16
    """Channels of the latents."""
    decoder_width: int = 96
    """Channels between neighbouring blocks in the decoder; 0 leaves the transform alone."""
    decoder_depth: int = 2
    """Layers between neighbouring blocks in the decoder, each of which sees one block further."""
    model: Path | None = None
    """Folder of an embedded video model whose guesses of noised latents are decoded in every other
    step."""


class NoisyDecoding(nn.Module):
    """An autoencoder as it is trained: clips to latents, with noise, to clips."""

    def __init__(self, vae: "BlockAutoencoder"):
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
    """Squared and absolute error of decoded clips [B, 3, T, H, W], and the squared error of their
    changes from frame to frame."""
    error = decoded.float() - clips
    mse = error.square().mean()
    motion = error.diff(dim=2).square().mean() if clips.shape[2] > 1 else 0
    loss = mse + MOTION_WEIGHT * motion + ABSOLUTE_WEIGHT * error.abs().mean()
    return {"loss": loss, "psnr": 10 * torch.log10(4 / mse.detach())}


@torch.no_grad()
def guess(
    pipeline: "ViewTimePipeline", latents: Tensor, caption: str, generator: torch.Generator
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
    patch = pipeline.transformer.config["patch_size"][-1]
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


@dataclass
class Clips:
    """Clips [B, 3, T, H, W] in [-1, 1]; with a caption they are the views of one scene, whose
    latents a video model is to guess."""

    clips: Tensor
    caption: str | None = None


@dataclass
class ClipDraws:
    """Draws random views of random scenes; where guesses are wanted, in every other draw all views
    of one scene."""

    scenes: SceneCache
    num_scenes: int
    batch_size: int
    guesses: bool
    half_size: float = 0.0

    def draw(self, generator: torch.Generator, progress: float) -> Clips:
        """Choose and read a batch; all that is random comes from the generator."""

        def below(limit: int) -> int:
            return int(torch.randint(limit, (1,), generator=generator))

        shrink = draw_shrink(self.half_size, generator)
        if self.guesses and torch.rand((), generator=generator) < GUESSED:
            index = below(self.num_scenes)
            return Clips(as_clips(self.scenes.frames(index), shrink), self.scenes.caption(index))
        views = [
            self.scenes.frames(below(self.num_scenes), [below(NUM_VIEWS)])[0]
            for _ in range(self.batch_size * shrink**2)
        ]
        return Clips(as_clips(torch.stack(views), shrink))


def as_clips(frames: Tensor, shrink: int = 1) -> Tensor:
    """Frames [B, T, 3, H, W] in [0, 1] as an autoencoder takes them: [B, 3, T, H, W] in [-1, 1], at
    1 / shrink of their height and width."""
    return shrunk(frames, shrink).transpose(1, 2) * 2 - 1


def start_autoencoder(config: AutoencoderConfig, scenes: SceneCache) -> "BlockAutoencoder":
    """The autoencoder whose decoder is trained, its linear transform fitted or kept."""
    from fourreal.embedded.autoencoder import BlockAutoencoder, load_autoencoder

    decoder = {"decoder_width": config.decoder_width, "decoder_depth": config.decoder_depth}
    vae = BlockAutoencoder(config.z_dim, **decoder)
    if config.start_from is None:
        count = min(config.num_scenes, FITTED)
        vae.fit([as_clips(scenes.frames(i)[::2]) for i in range(count)])
        return vae
    kept = load_autoencoder(config.start_from)
    alike = all(kept.config[name] == value for name, value in decoder.items())
    vae.load_state_dict(kept.state_dict() if alike else dict(kept.named_buffers()), strict=False)
    return vae


class AutoencoderTraining:
    """A training run of the autoencoder's decoder: its loss, its samples and what it saves."""

    def __init__(self, config: AutoencoderConfig):
        # diffusers takes seconds to import; options are checked first.
        from fourreal.video import apply_view_time, load_embedded_pipeline

        self.config = config
        torch.manual_seed(config.loop.seed)
        scenes, validation = (
            SceneCache(config.cache, split, NUM_VIEWS, NUM_FRAMES, config.size)
            for split in ("train", "validation")
        )
        scenes.fill(range(config.num_scenes))
        self.vae = start_autoencoder(config, scenes)
        notes = {"decoder_width": config.decoder_width}
        self.loop = Loop(config.loop, NoisyDecoding(self.vae), notes, "autoencoder.safetensors")
        self.device = self.loop.accelerator.device
        held_out = [validation.frames(i)[::4] for i in range(VALIDATION_SCENES)]
        self.held_out = torch.stack(held_out).flatten(0, 1).to(self.device)
        self.pipeline: ViewTimePipeline | None = None
        if config.model is not None:
            self.pipeline = load_embedded_pipeline(config.model).to(self.device)
            apply_view_time(
                self.pipeline.transformer,
                NUM_VIEWS,
                num_latent_frames(NUM_FRAMES),
                max_frames=self.pipeline.config.max_frames,
            )
        guesses = self.pipeline is not None
        self.draws = ClipDraws(
            scenes, config.num_scenes, config.loop.batch_size, guesses, config.half_size
        )

    def loss(self, batch: Clips, generator: torch.Generator) -> dict[str, Tensor]:
        """The decoder's error from noisy latents, or from a video model's guesses of them."""
        clips = batch.clips.to(self.device)
        if self.pipeline is None or batch.caption is None:
            return decoding_loss(self.loop.model(clips, generator), clips)
        latents = self.vae.encode(clips).latent_dist.mean
        guessed = guess(self.pipeline, latents, batch.caption, generator)
        chosen = torch.randperm(len(clips), generator=generator)[: self.config.loop.batch_size]
        decoded = self.loop.model(clips[chosen], generator, guessed[chosen])
        return decoding_loss(decoded, clips[chosen])

    def sample(self, out: Path) -> dict[str, float]:
        """Draw samples.png, exact frames beside decoded ones; the PSNR of held-out clips."""
        latents = self.vae.encode(as_clips(self.held_out)).latent_dist.mean
        decoded = self.vae.unclamped(latents).clamp(-1, 1).transpose(1, 2) / 2 + 0.5
        if self.loop.accelerator.is_main_process:
            pairs = torch.stack([self.held_out, decoded])[:, :8, [0, 10, 20]]
            picture = rearrange(pairs, "side n t c h w -> c (n h) (t side w)")
            write_image(out / "samples.png", picture)
        return {"validation_psnr": round(psnr(decoded, self.held_out), 2)}

    def save(self) -> None:
        """Write the autoencoder with its averaged decoder."""
        from fourreal.embedded.autoencoder import save_autoencoder

        with self.loop.averaged():
            if self.loop.accelerator.is_main_process:
                path = self.config.loop.out / "autoencoder.safetensors"
                save_autoencoder(self.vae, path)


def train_autoencoder(config: AutoencoderConfig) -> None:
    """Fit, and train the decoder if there is one; autoencoder.safetensors in the run's folder."""
    training = AutoencoderTraining(config)
    if config.decoder_width:
        training.loop.run(training.loss, training.sample, training.draws.draw)
    elif training.loop.accelerator.is_main_process:
        print(training.sample(config.loop.out))
    training.save()
