"""ViewTimePipeline: text and references to a grid of synchronised videos (paper, section 3).

A diffusers pipeline on Wan's parts. The views are one long sequence for the transformer, whose
self-attention is the fused view-time attention; each view is encoded and decoded on its own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from einops import rearrange
from torch import Tensor

from fourreal.grid import (
    check_size,
    grid_to_sequence,
    num_latent_frames,
    reference_mask,
    sequence_to_grid,
)
from fourreal.video.text import encode_text
from fourreal.video.transformer import apply_view_time

CONDITIONINGS = ("add", "replace")
GUIDANCE_BOTH = 1.0  # paper, supplement: guidance matters little with both references


def model_inputs(
    noised: Tensor,
    references: Tensor,
    known: Tensor,
    timestep: Tensor,
    conditioning: str,
    rows: int,
    columns: int | None = None,
) -> tuple[Tensor, Tensor]:
    """What the transformer gets: latents [B, C, N, h, w], timesteps [B] or [B, N*rows*columns].

    noised and references are [B, C, N, h, w], known is [B, N] (cells that have a reference),
    timestep is [B], rows x columns are the tokens of a frame. add (paper): references are added to
    the noised latents, which adds their patch embeddings, the embedding being linear. replace (Wan
    2.2): known cells are the references and have timestep 0.
    """  # fmt: skip
    cells = known[:, None, :, None, None]
    if conditioning == "add":
        return noised + cells * references, timestep
    inputs = torch.where(cells, references, noised)
    if not known.any():
        return inputs, timestep
    per_frame = timestep[:, None] * ~known
    return inputs, per_frame.repeat_interleave(rows * (columns or rows), dim=1)


@dataclass
class ViewTimeOutput(BaseOutput):
    """frames [V, T, 3, H, W] in [0, 1], or latents [V, C, F, h, w] with output_type="latent"."""

    frames: Tensor


class ViewTimePipeline(DiffusionPipeline):
    """Generates a grid of num_views x num_frames frames.

    transformer: WanTransformer3DModel; vae: AutoencoderKLWan (or the embedded autoencoder);
    text_encoder, tokenizer: UMT5; scheduler: flow matching. conditioning says how the checkpoint
    takes references (add or replace), max_frames is T_max in latent frames,
    guidance_scale is the default of a call without both references.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012

    def __init__(
        self, transformer, vae, text_encoder, tokenizer, scheduler,
        conditioning: str = "add", max_frames: int = 21, max_tokens: int = 512,
        guidance_scale: float = 5.0,
    ):  # fmt: skip
        super().__init__()
        if conditioning not in CONDITIONINGS:
            raise ValueError(f"conditioning is {conditioning!r}, but must be add or replace.")
        self.register_modules(
            transformer=transformer, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer,
            scheduler=scheduler,
        )  # fmt: skip
        self.register_to_config(
            conditioning=conditioning,
            max_frames=max_frames,
            max_tokens=max_tokens,
            guidance_scale=guidance_scale,
        )

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell."""
        return self.vae.config.scale_factor_spatial

    def check_inputs(
        self, prompt, num_views, num_frames, height, width, fixed_view, freeze_time, steps
    ) -> None:
        """Raise ValueError, in one sentence, for anything that cannot work."""
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if len(prompts) != 1 or not prompts[0].strip():
            raise ValueError("the prompt is empty; say what the scene shows and how it moves.")
        if num_views < 1:
            raise ValueError(f"num_views is {num_views}, but at least one view is needed.")
        if steps < 1:
            raise ValueError(f"num_inference_steps is {steps}, but must be at least 1.")
        check_size(height, width, self.spatial_stride * self.transformer.config.patch_size[-1])
        frames = num_latent_frames(num_frames)
        if frames > self.config.max_frames:
            raise ValueError(
                f"num_frames is {num_frames} ({frames} latent frames), but this model was made for "
                f"at most {4 * (self.config.max_frames - 1) + 1}."
            )
        for name, video, count, meaning in (
            ("fixed_view", fixed_view, num_frames, "frames"),
            ("freeze_time", freeze_time, num_views, "views"),
        ):
            if video is None:
                continue
            if video.shape != (count, 3, height, width):
                raise ValueError(
                    f"{name} has shape {tuple(video.shape)}, but {count} {meaning} of 3 x "
                    f"{height} x {width} are needed, as the grid has; resize it or change the grid."
                )
            if not torch.isfinite(video).all():
                raise ValueError(f"{name} holds NaN or infinite values; give pixels in [0, 1].")

    def encode_prompt(self, prompt: str) -> Tensor:
        """Text embeddings [1, max_tokens, D], zeros after the end."""
        return encode_text(self.tokenizer, self.text_encoder, [prompt], self.config.max_tokens)

    def _normalisation(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1, 1, 1, 1)
        mean, std = self.vae.config.latents_mean, self.vae.config.latents_std
        return like.new_tensor(mean).view(shape), like.new_tensor(std).view(shape)

    def encode_views(self, videos: Tensor) -> Tensor:
        """Normalised latents [V, C, F, h, w] of videos [V, T, 3, H, W] in [0, 1], view by view."""
        videos = rearrange(videos * 2 - 1, "v t c h w -> v c t h w").to(self.device, self.vae.dtype)
        latents = torch.cat([self.vae.encode(v[None]).latent_dist.mode() for v in videos]).float()
        mean, std = self._normalisation(latents)
        return (latents - mean) / std

    def decode_views(self, latents: Tensor, progress: Callable | None = None) -> Tensor:
        """Videos [V, T, 3, H, W] in [0, 1] of normalised latents [V, C, F, h, w]."""
        mean, std = self._normalisation(latents)
        videos = []
        for i, view in enumerate((latents * std + mean).to(self.vae.dtype)):
            videos.append(self.vae.decode(view[None], return_dict=False)[0][0].float())
            if progress:
                progress(i + 1, len(latents))
        return (torch.stack(videos).transpose(1, 2) / 2 + 0.5).clamp(0, 1)

    def _references(self, fixed_view, freeze_time, shape) -> tuple[Tensor, Tensor]:
        """Reference latents [1, C, V*F, h, w] (zeros where unknown) and known cells [1, V*F]."""
        views, channels, frames, h, w = shape
        known = reference_mask(views, frames, fixed_view is not None, freeze_time is not None)
        latents = torch.zeros(views, channels, frames, h, w, device=self.device)
        if freeze_time is not None:
            # Latent frame 0 is exactly one pixel frame, so each view is a one-frame video.
            latents[:, :, :1] = self.encode_views(freeze_time[:, None])
        if fixed_view is not None:
            latents[:1] = self.encode_views(fixed_view[None])
        return grid_to_sequence(latents), known.flatten()[None].to(self.device)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str,
        negative_prompt: str | None = None,
        num_views: int = 8,
        num_frames: int = 29,
        height: int = 288,
        width: int = 512,
        fixed_view: Tensor | None = None,
        freeze_time: Tensor | None = None,
        num_inference_steps: int = 40,
        guidance_scale: float | None = None,
        view_strength: float = 1.0,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        output_type: str = "pt",
        backend: str = "auto",
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] = ("latents",),
    ) -> ViewTimeOutput:
        """Generate a grid.

        fixed_view [T, 3, H, W] and freeze_time [V, 3, H, W], in [0, 1], are the first row and the
        first column. num_frames T = 4k + 1; height and width are multiples of the latent cell
        times the patch. guidance_scale defaults to 1 with both references and to the config's
        otherwise; 1 turns it off. view_strength 0 gives independent views. latents
        [V, C, F, h, w] replaces the starting noise. callback_on_step_end is called as
        in diffusers (pipeline, step, timestep, {"latents": [V, C, F, h, w]}). Raises ValueError for
        wrong input before any work.
        """
        # 1. Inputs
        self.check_inputs(
            prompt, num_views, num_frames, height, width, fixed_view, freeze_time,
            num_inference_steps,
        )  # fmt: skip
        if guidance_scale is None:
            both = fixed_view is not None and freeze_time is not None
            guidance_scale = GUIDANCE_BOTH if both else self.config.guidance_scale
        frames = num_latent_frames(num_frames)
        stride = self.spatial_stride
        shape = (num_views, self.vae.config.z_dim, frames, height // stride, width // stride)
        rows, columns = (n // self.transformer.config.patch_size[-1] for n in shape[-2:])

        # 2. Text
        texts = [self.encode_prompt(prompt)]
        if guidance_scale != 1:
            texts.append(self.encode_prompt(negative_prompt or ""))

        # 3. References and noise
        references, known = self._references(fixed_view, freeze_time, shape)
        if latents is None:
            latents = randn_tensor(shape, generator, self.device, torch.float32)
        latents = grid_to_sequence(latents.to(self.device, torch.float32))

        # 4. Denoising
        apply_view_time(
            self.transformer, num_views, frames, max_frames=self.config.max_frames,
            view_strength=view_strength, backend=backend,
        )  # fmt: skip
        self.scheduler.set_timesteps(num_inference_steps, device=self.device)
        cells = known[:, None, :, None, None]
        replace = self.config.conditioning == "replace"
        try:
            for step, timestep in enumerate(self.progress_bar(self.scheduler.timesteps)):
                inputs, timesteps = model_inputs(
                    latents, references, known, timestep[None], self.config.conditioning,
                    rows, columns,
                )  # fmt: skip
                inputs = inputs.to(self.transformer.dtype)
                velocities = [
                    self.transformer(inputs, timesteps, text.to(inputs.dtype)).sample.float()
                    for text in texts
                ]
                velocity = velocities[0]
                if len(velocities) > 1:
                    velocity = velocities[1] + guidance_scale * (velocity - velocities[1])
                latents = self.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
                if replace:
                    latents = torch.where(cells, references, latents)
                if callback_on_step_end is not None:
                    given = {"latents": sequence_to_grid(latents, num_views)}
                    answer = callback_on_step_end(self, step, timestep, given) or {}
                    if "latents" in answer:
                        latents = grid_to_sequence(answer["latents"])
        finally:
            apply_view_time(self.transformer, None)
        latents = sequence_to_grid(latents, num_views)
        if output_type == "latent":
            return ViewTimeOutput(frames=latents)

        # 5. Decoding, and the references as they were given
        grid = self.decode_views(latents).cpu()
        if freeze_time is not None:
            grid[:, 0] = freeze_time.to(grid)
        if fixed_view is not None:
            grid[0] = fixed_view.to(grid)
        return ViewTimeOutput(frames=grid)
