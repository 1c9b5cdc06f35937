"""`fourreal train video`: the 4D video model (paper, section 3 and supplement).

Rectified flow on grids of latents; the references (none, row, column, both) are drawn at random,
the text is dropped for guidance, and the grid grows during training. With conditioning `replace`
the known cells are clean, have timestep 0 and are not counted in the loss; with `add` the
references are added to the noised latents.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from fourreal.evaluation.metrics import psnr
from fourreal.grid import contact_sheet, num_latent_frames, reference_mask
from fourreal.rendering.video import write_image
from fourreal.training.data import SceneCache
from fourreal.training.loop import Loop, LoopConfig
from fourreal.video.block_autoencoder import BlockAutoencoder
from fourreal.video.files import load_single_file, save_single_file, transformer_key
from fourreal.video.pipeline import ViewTimePipeline, model_inputs
from fourreal.video.text import (
    build_text_encoder,
    build_tokenizer,
    caption_words,
    encode_text,
    load_text_encoder,
    save_text_encoder,
)
from fourreal.video.transformer import apply_view_time


@dataclass
class VideoConfig:
    """Train the embedded video model on procedural scenes."""

    loop: LoopConfig = field(default_factory=lambda: LoopConfig(Path("out/train/video")))
    autoencoder: Path = Path("out/train/autoencoder/autoencoder.safetensors")
    cache: Path = Path("out/train/scenes")
    """Where drawn scenes are kept."""
    num_scenes: int = 1000
    """Training scenes, 8 views x 29 frames each."""
    size: int = 64
    start_from: Path | None = None
    """Folder with transformer.safetensors and text_encoder.safetensors to go on from."""
    conditioning: str = "replace"
    """replace or add."""
    width: int = 256
    """Model width, a multiple of 128 (Wan's head size)."""
    layers: int = 6
    ffn_width: int = 768
    text_width: int = 128
    grids: tuple[str, ...] = ("1x1", "2x5", "4x13", "8x29")
    """Views x frames, one after the other during training; batches of smaller grids hold more."""
    grid_starts: tuple[float, ...] = (0.0, 0.06, 0.16, 0.6)
    """The part of the run after which each grid is used."""
    shift: float = 3.0
    """Timestep shift of training and sampling."""
    guidance_scale: float = 2.5
    """Default guidance of the trained model without both references."""
    text_dropout: float = 0.1
    reference_odds: tuple[float, float, float, float] = (0.35, 0.1, 0.1, 0.45)
    """How often: none, fixed view, freeze time, both."""
    compile: bool = False
    """Compile the transformer's blocks: some minutes first, then faster steps."""


class TextToGrid(nn.Module):
    """The two networks that are trained, as one module."""

    def __init__(self, transformer: nn.Module, text_encoder: nn.Module):
        super().__init__()
        self.transformer, self.text_encoder = transformer, text_encoder


def flow_loss(predicted: Tensor, noise: Tensor, latents: Tensor, unknown: Tensor) -> Tensor:
    """Mean squared error of the velocity noise - latents over the unknown cells (mask
    broadcastable to the latents)."""
    error = (predicted.float() - (noise - latents)).square() * unknown
    return error.sum() / (unknown.expand_as(error).sum().clamp_min(1))


def build_transformer(config: VideoConfig, z_dim: int):
    """An untrained WanTransformer3DModel of the config's size."""
    from diffusers import WanTransformer3DModel

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


def train_video(config: VideoConfig) -> None:
    torch.manual_seed(config.loop.seed)
    vae, _ = load_single_file(BlockAutoencoder, config.autoencoder, lambda key, _: key)
    tokenizer = build_tokenizer(caption_words())
    model = TextToGrid(
        build_transformer(config, vae.config.z_dim),
        build_text_encoder(len(tokenizer), config.text_width),
    )
    # Nothing is said before anything is learned, and blocks start as small corrections.
    nn.init.zeros_(model.transformer.proj_out.weight)
    nn.init.zeros_(model.transformer.proj_out.bias)
    if config.start_from:
        start, _ = load_single_file(
            type(model.transformer), config.start_from / "transformer.safetensors", transformer_key
        )
        model.transformer.load_state_dict(start.state_dict())
        _, start = load_text_encoder(config.start_from / "text_encoder.safetensors")
        model.text_encoder.load_state_dict(start.state_dict())
    scenes = SceneCache(config.cache, "train", 8, 29, config.size)
    scenes.fill(config.num_scenes)
    validation = SceneCache(config.cache, "validation", 8, 29, config.size)
    loop = Loop(config.loop, model, {"conditioning": config.conditioning, "width": config.width})
    grids = [tuple(int(n) for n in g.split("x")) for g in config.grids]
    max_frames = max(num_latent_frames(frames) for _, frames in grids)

    if config.compile:
        for block in model.transformer.blocks:
            block.compile()

    def current_grid() -> tuple[int, int]:
        return [g for g, s in zip(grids, config.grid_starts) if loop.progress >= s][-1]

    applied: list[int] = []  # the grid that the transformer is set up for

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        def pick(count: int) -> int:
            return int(torch.randint(count, (1,), generator=generator))

        views, frames = current_grid()
        largest = grids[-1][0] * num_latent_frames(grids[-1][1])
        batch = config.loop.batch_size * largest // (views * num_latent_frames(frames))
        videos, captions = [], []
        for _ in range(batch):
            index = pick(config.num_scenes)
            stride = 1 + pick(max(8 // views, 1))
            first = pick(8 - stride * (views - 1))
            start = pick(29 - frames + 1)
            rows = slice(first, first + stride * (views - 1) + 1, stride)
            videos.append(scenes.frames(index, rows, slice(start, start + frames)))
            dropped = torch.rand((), generator=generator) < config.text_dropout
            captions.append("" if dropped else scenes.caption(index))
        videos = torch.stack(videos).to(loop.accelerator.device)
        with torch.no_grad(), torch.autocast(videos.device.type, enabled=False):
            flat = rearrange(videos * 2 - 1, "b v t c h w -> (b v) c t h w")
            latents = vae.to(flat.device).encode(flat).latent_dist.mean
            latents = rearrange(latents, "(b v) c f h w -> b c (v f) h w", v=views)
        kind = torch.multinomial(
            torch.tensor(config.reference_odds), batch, True, generator=generator
        )
        masks = torch.stack(
            [
                reference_mask(views, latents.shape[2] // views, k in (1, 3), k in (2, 3))
                for k in kind
            ]
        ).flatten(1)
        masks &= ~masks.all(1, keepdim=True)  # something must be left to learn
        normal = torch.randn(batch, generator=generator).sigmoid()
        sigma = config.shift * normal / (1 + (config.shift - 1) * normal)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        masks, sigma = masks.to(latents.device), sigma.to(latents.device)
        amount = sigma.view(-1, 1, 1, 1, 1)
        noised = (1 - amount) * latents + amount * noise
        inputs, timesteps = model_inputs(
            noised, latents, masks, sigma * 1000, config.conditioning, config.size // 16
        )
        text = encode_text(tokenizer, model.text_encoder, captions)
        if applied != [views, latents.shape[2]]:  # a new processor would be compiled anew
            applied[:] = views, latents.shape[2]
            apply_view_time(
                model.transformer, views, latents.shape[2] // views, max_frames=max_frames
            )
        predicted = model.transformer(inputs, timesteps, text).sample
        replace = config.conditioning == "replace"
        unknown = ~masks if replace else torch.ones_like(masks)
        return {"loss": flow_loss(predicted, noise, latents, unknown[:, None, :, None, None])}

    def pipeline() -> ViewTimePipeline:
        from diffusers import FlowMatchEulerDiscreteScheduler

        return ViewTimePipeline(
            model.transformer.eval(), vae, model.text_encoder.eval(), tokenizer,
            FlowMatchEulerDiscreteScheduler(shift=config.shift),
            conditioning=config.conditioning, max_frames=max_frames, max_tokens=32,
        )  # fmt: skip

    @torch.compiler.set_stance("force_eager")
    def sample(out: Path) -> dict:
        applied.clear()
        views, frames = current_grid()
        pipe = pipeline()
        pipe.set_progress_bar_config(disable=True)
        scores, sheets = [], []
        for index in range(4):
            exact = validation.frames(index)[:views, :frames]
            grid = pipe(
                validation.caption(index), num_views=views, num_frames=frames,
                height=config.size, width=config.size, fixed_view=exact[0], freeze_time=exact[:, 0],
                num_inference_steps=8, generator=torch.Generator().manual_seed(index),
            ).frames  # fmt: skip
            scores.append(psnr(grid[1:, 1:], exact[1:, 1:]))
            sheets.append(torch.cat([contact_sheet(exact[::2], 7), contact_sheet(grid[::2], 7)], 2))
        prompts = ["a red ball bouncing past a blue box", validation.caption(0)]
        for prompt in prompts:
            grid = pipe(
                prompt, num_views=views, num_frames=frames, height=config.size, width=config.size,
                num_inference_steps=16, generator=torch.Generator().manual_seed(0),
            ).frames  # fmt: skip
            sheets.append(contact_sheet(grid[::2], 7))
        widest = max(s.shape[2] for s in sheets)
        sheets = [nn.functional.pad(s, (0, widest - s.shape[2], 0, 6)) for s in sheets]
        write_image(out / "samples.png", torch.cat(sheets, 1))
        model.train()
        return {"validation_psnr": round(sum(scores) / len(scores), 3)}

    loop.run(loss, sample)
    with loop.averaged():
        apply_view_time(model.transformer, None)
        metadata = {
            "conditioning": config.conditioning,
            "max_frames": max_frames,
            "max_tokens": 32,
            "shift": config.shift,
            "guidance_scale": config.guidance_scale,
            "grid": config.grids[-1],
        }
        out = config.loop.out
        save_single_file(
            model.transformer, out / "transformer.safetensors", transformer_key, metadata
        )
        save_text_encoder(model.text_encoder, tokenizer, out / "text_encoder.safetensors")
