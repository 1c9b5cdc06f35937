"""ViewTimePipeline: text and references to a grid of synchronised videos (paper, section 3).

A diffusers pipeline on Wan's parts. The views are one long sequence for the transformer, whose
self-attention is the fused view-time attention; each view is encoded and decoded on its own.
"""

import inspect
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    DiffusionPipeline,
    FirstBlockCacheConfig,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.loaders import WanLoraLoaderMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from einops import rearrange
from torch import Tensor

from fourreal.files.tensors import read_safetensors
from fourreal.grid import (
    TEMPORAL_STRIDE,
    check_size,
    grid_to_sequence,
    num_latent_frames,
    reference_mask,
    sampling_stages,
    sequence_to_grid,
)
from fourreal.video.conditioning import (
    CONDITIONINGS,
    GUIDANCE_BOTH,
    WAN_DEFAULTS,
    model_inputs,
    stage_guidance,
)
from fourreal.video.text import WAN_TOKENS, encode_text, load_text_encoder
from fourreal.video.transformer import apply_view_time
from fourreal.video.wan_files import check_parts, load_transformer, load_vae, name_of
from fourreal.video.windows import fade_joint, time_windows

logger = logging.getLogger(__name__)


@dataclass
class ViewTimeOutput(BaseOutput):
    """frames [V, T, 3, H, W] in [0, 1] on the CPU, or with output_type="latent" the latents
    [V, C, F, h, w]; and the mean time of a denoising step."""

    frames: Tensor
    seconds_per_step: float


class ViewTimePipeline(DiffusionPipeline, WanLoraLoaderMixin):
    """Generates a grid of num_views x num_frames frames.

    transformer: WanTransformer3DModel; vae: AutoencoderKLWan (or the embedded autoencoder);
    text_encoder, tokenizer: UMT5; scheduler: flow matching. conditioning says how the checkpoint
    takes references (add or replace), max_frames is T_max in latent frames (defaults: those of
    Wan 2.1 and 2.2), guidance_scale is the default of a call without both references, architecture
    is the one that the checkpoint was trained with (apply_view_time), staged is the default of a
    call: whether the checkpoint knows grids of one view and of one time as well.

    from_pretrained also reads the folders of Wan 2.1 T2V and Wan 2.2 TI2V in diffusers' layout.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _callback_tensor_inputs = ["latents", "denoised"]  # noqa: RUF012
    _lora_loadable_modules = ["transformer"]  # noqa: RUF012

    def __init__(
        self,
        transformer,
        vae,
        text_encoder,
        tokenizer,
        scheduler,
        conditioning: str | None = None,
        max_frames: int | None = None,
        max_tokens: int = WAN_TOKENS,
        guidance_scale: float = 5.0,
        architecture: str = "fused",
        staged: bool = False,
    ):
        super().__init__()
        check_parts(transformer, vae, text_encoder)
        defaults = WAN_DEFAULTS[transformer.config.in_channels]
        conditioning = conditioning or defaults["conditioning"]
        if conditioning not in CONDITIONINGS:
            raise ValueError(f"conditioning is {conditioning!r}, but must be add or replace.")
        self.register_modules(
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
        )
        self.register_to_config(
            conditioning=conditioning,
            max_frames=max_frames or defaults["max_frames"],
            max_tokens=max_tokens,
            guidance_scale=guidance_scale,
            architecture=architecture,
            staged=staged,
        )

    @classmethod
    def from_single_files(
        cls,
        transformer: str | Path,
        vae: str | Path,
        text_encoder: str | Path,
        tokenizer: str | Path | None = None,
        torch_dtype: torch.dtype | None = None,
    ) -> "ViewTimePipeline":
        """The pipeline of three files as ComfyUI has them, or of this project's own, offline.

        Wan 2.1 T2V 1.3B or 14B with the Wan 2.1 VAE, or Wan 2.2 TI2V 5B with the Wan 2.2 VAE, and
        UMT5-XXL, as fp16, bf16 or fp8_scaled. tokenizer (spiece.model or a folder) is needed only
        where the text encoder's file does not hold one. torch_dtype None keeps the files' types,
        bfloat16 for fp8. Raises ValueError that names what was found and what was expected.
        """
        network, settings = load_transformer(Path(transformer), torch_dtype)
        autoencoder = load_vae(Path(vae), torch_dtype)
        check_parts(network, autoencoder)  # before the next large file is read
        if "shift" in settings:
            # Fresh noise at each step: a small model's mistakes do not add up from step to step.
            scheduler = FlowMatchEulerDiscreteScheduler(
                shift=settings["shift"], stochastic_sampling=True
            )
        else:  # Wan's own
            scheduler = UniPCMultistepScheduler(
                prediction_type="flow_prediction",
                use_flow_sigmas=True,
                flow_shift=WAN_DEFAULTS[network.config.in_channels]["shift"],
            )
        tokens, encoder = load_text_encoder(Path(text_encoder), tokenizer, torch_dtype)
        options = (
            "conditioning",
            "max_frames",
            "max_tokens",
            "guidance_scale",
            "architecture",
            "staged",
        )
        given = {name: settings[name] for name in options if name in settings}
        return cls(network, autoencoder, encoder, tokens, scheduler, **given)

    def load_lora_weights(self, weights, adapter_name: str | None = None, **options) -> None:
        """As in diffusers: a LoRA in the key forms of diffusers, ComfyUI or musubi-tuner.

        A file of this project also sets the conditioning and max_frames that it notes about itself.
        Raises ValueError for a file that is damaged or does not fit the transformer.
        """
        settings = {}
        if str(weights).endswith(".safetensors"):
            settings = json.loads(read_safetensors(weights)[1].get("fourreal", "{}"))
            weights = str(weights)
        try:
            super().load_lora_weights(weights, adapter_name, **options)
        # torch's list of sizes, one line for each tensor; a layer that diffusers looks for in vain
        except (RuntimeError, KeyError) as error:
            raise ValueError(
                f"the LoRA {weights} does not fit {name_of(self.transformer)}; use one that was "
                "trained on this transformer."
            ) from error
        names = ("conditioning", "max_frames", "guidance_scale", "staged")
        self.register_to_config(**{k: settings[k] for k in names if k in settings})

    def enable_vae_slicing(self) -> None:
        """As in diffusers. Views are always encoded and decoded one by one."""
        self.vae.enable_slicing()

    def enable_vae_tiling(self, **tiles) -> None:
        """Encode and decode in overlapping tiles, whose sizes the VAE's enable_tiling takes."""
        self.vae.enable_tiling(**tiles)

    def compile(self, **options) -> None:
        """torch.compile the transformer's repeated block (compile_repeated_blocks of diffusers)."""
        self.transformer.compile_repeated_blocks(**options)

    def enable_first_block_cache(self, threshold: float = 0.05) -> None:
        """Skip the blocks after the first where its output changes less than `threshold` (relative)
        from step to step. transformer.disable_cache() undoes it."""
        self.transformer.enable_cache(FirstBlockCacheConfig(threshold))

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell."""
        return self.vae.config.scale_factor_spatial

    @property
    def num_timesteps(self) -> int:
        """Denoising steps of the current or last call, over all its windows and stages."""
        return self._num_timesteps

    def check_inputs(
        self,
        prompt,
        num_views,
        num_frames,
        height,
        width,
        fixed_view,
        freeze_time,
        steps,
        image=None,
        view_strength=1.0,
        window_frames=None,
        window_overlap=1,
    ) -> None:
        """Raise ValueError, in one sentence, for anything that cannot work."""
        if prompt is not None and not prompt.strip():
            raise ValueError("the prompt is empty; say what the scene shows and how it moves.")
        if num_views < 1:
            raise ValueError(f"num_views is {num_views}, but at least one view is needed.")
        if steps < 1:
            raise ValueError(f"num_inference_steps is {steps}, but must be at least 1.")
        if view_strength < 0:
            raise ValueError(f"view_strength is {view_strength}, but must be at least 0.")
        check_size(height, width, self.spatial_stride * self.transformer.config.patch_size[-1])
        num_latent_frames(num_frames)
        window, overlap = self._window(window_frames), num_latent_frames(window_overlap)
        if window > self.config.max_frames:
            raise ValueError(
                f"window_frames is {window_frames}, but this model was made for at most "
                f"{TEMPORAL_STRIDE * (self.config.max_frames - 1) + 1} frames at a time."
            )
        if overlap >= window:
            raise ValueError(
                f"window_overlap is {window_overlap}, but must be shorter than a window of "
                f"{TEMPORAL_STRIDE * (window - 1) + 1} frames."
            )
        positions = self.transformer.config.rope_max_seq_len
        if num_views * self.config.max_frames > positions:
            raise ValueError(
                f"num_views is {num_views}, but this model has positions for at most "
                f"{positions // self.config.max_frames} views."
            )
        for name, video, shape in (
            ("fixed_view", fixed_view, (num_frames, 3, height, width)),
            ("freeze_time", freeze_time, (num_views, 3, height, width)),
            ("image", image, (3, height, width)),
        ):
            if video is None:
                continue
            if video.shape != shape:
                raise ValueError(
                    f"{name} has shape {tuple(video.shape)}, but {shape} is needed, as the grid "
                    "has; resize it or change the grid."
                )
            if not torch.isfinite(video).all():
                raise ValueError(f"{name} holds NaN or infinite values; give pixels in [0, 1].")
        if image is not None and (fixed_view is not None or freeze_time is not None):
            raise ValueError(
                "image is the grid's first cell, which fixed_view and freeze_time hold already; "
                "give either image or those."
            )

    def _window(self, window_frames: int | None) -> int:
        """Latent frames of a window of so many pixel frames."""
        return num_latent_frames(window_frames) if window_frames else self.config.max_frames

    def encode_prompt(self, prompt: str) -> Tensor:
        """Text embeddings [1, max_tokens, D], zeros after the end."""
        return encode_text(
            self.tokenizer,
            self.text_encoder,
            [prompt],
            self.config.max_tokens,
            self._execution_device,
        )

    def _normalisation(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1, 1, 1, 1)
        mean, std = self.vae.config.latents_mean, self.vae.config.latents_std
        return like.new_tensor(mean).view(shape), like.new_tensor(std).view(shape)

    def encode_views(self, videos: Tensor) -> Tensor:
        """Normalised latents [V, C, F, h, w] of videos [V, T, 3, H, W] in [0, 1], view by view."""
        device = self._execution_device
        latents = torch.cat(
            [
                self.vae.encode(
                    rearrange(view * 2 - 1, "t c h w -> 1 c t h w").to(device, self.vae.dtype)
                ).latent_dist.mode()
                for view in videos
            ]
        ).float()
        mean, std = self._normalisation(latents)
        return (latents - mean) / std

    def decode_views(self, latents: Tensor) -> Tensor:
        """Videos [V, T, 3, H, W] in [0, 1], on the CPU, of normalised latents [V, C, F, h, w]."""
        return torch.stack([self._decode_view(view) for view in latents])

    def _decode_view(self, latents: Tensor) -> Tensor:
        """decode_views of one view, [C, F, h, w] to [T, 3, H, W]."""
        mean, std = self._normalisation(latents)
        view = (latents[None] * std + mean).to(self.vae.dtype)
        video = self.vae.decode(view, return_dict=False)[0][0].float()
        return (video.transpose(0, 1) / 2 + 0.5).clamp(0, 1).cpu()

    def _references(self, fixed_view, columns, image, shape) -> Tensor:
        """Reference latents [V, C, F, h, w], zeros where there are none.

        fixed_view [T, 3, H, W]; columns [V, n, 3, H, W], the first n pixel frames; image
        [3, H, W].
        """
        latents = torch.zeros(shape, device=self._execution_device)
        if columns is not None:
            latents[:, :, : num_latent_frames(columns.shape[1])] = self.encode_views(columns)
        if image is not None:
            # Latent frame 0 is exactly one pixel frame, so an image is a one-frame video.
            latents[:1, :, :1] = self.encode_views(image[None, None])
        if fixed_view is not None:
            latents[:1] = self.encode_views(fixed_view[None])
        return latents

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        num_views: int = 8,
        num_frames: int = 29,
        height: int = 288,
        width: int = 512,
        fixed_view: Tensor | None = None,
        freeze_time: Tensor | None = None,
        image: Tensor | None = None,
        num_inference_steps: int = 40,
        guidance_scale: float | None = None,
        view_strength: float = 1.0,
        window_frames: int | None = None,
        window_overlap: int = 1,
        staged: bool | None = None,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "pt",
        backend: str = "auto",
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] = ("latents",),
    ) -> ViewTimeOutput:
        """Generate a grid.

        fixed_view [T, 3, H, W] and freeze_time [V, 3, H, W], in [0, 1], are the first row and the
        first column; image [3, H, W] is the first cell alone. num_frames T = 4k + 1; height and
        width are multiples of the latent cell times the patch. guidance_scale defaults to 1 with
        both references and to the config's otherwise; 1 turns it off. view_strength 0 gives
        independent views. latents [V, C, F, h, w] replaces the starting noise, prompt_embeds and
        negative_prompt_embeds [1, L, D] (encode_prompt) replace the texts. staged (default: the
        config's) generates the references that are missing before the rest: the first column, then
        the first row, then the other cells, each with its stage_guidance.

        More than window_frames (4k + 1; default and limit: what the model was made for) are
        generated in windows that begin with the last window_overlap frames (4k + 1) of the one
        before, in the memory of one window.

        callback_on_step_end is called as in diffusers (pipeline, step, timestep, tensors). The
        tensors are those named, [V, C, F, h, w] of the current window and stage: latents, and
        denoised, the model's guess of the result, which decode_views turns into a preview. Raises
        ValueError for wrong input before any work.
        """
        # 1. Inputs
        self.check_inputs(
            prompt,
            num_views,
            num_frames,
            height,
            width,
            fixed_view,
            freeze_time,
            num_inference_steps,
            image,
            view_strength,
            window_frames,
            window_overlap,
        )
        both = fixed_view is not None and freeze_time is not None
        if guidance_scale is None:
            guidance_scale = GUIDANCE_BOTH if both else self.config.guidance_scale
        if staged is None:
            staged = self.config.staged
        frames, overlap = num_latent_frames(num_frames), num_latent_frames(window_overlap)
        windows = time_windows(frames, self._window(window_frames), overlap)
        if output_type == "latent" and len(windows) > 1:
            raise ValueError(
                f"{num_frames} frames need {len(windows)} windows, whose latents do not join to "
                'one video; use output_type="pt" or fewer frames.'
            )
        stride = self.spatial_stride
        shape = (num_views, self.vae.config.z_dim, frames, height // stride, width // stride)
        plans = []  # of each window: known cells, and the sizes of what is sampled one after other
        for index, (start, stop) in enumerate(windows):
            shown = overlap if index else int(freeze_time is not None)
            known = reference_mask(num_views, stop - start, fixed_view is not None, shown)
            known[0, 0] |= index == 0 and image is not None
            stages = sampling_stages(known) if staged else [(num_views, stop - start)]
            plans.append((known, stages))
        self._num_timesteps = num_inference_steps * sum(len(stages) for _, stages in plans)

        # 2. Text and noise
        device = self._execution_device
        given = {"cond": (prompt, prompt_embeds)}
        if guidance_scale != 1:
            given["uncond"] = (negative_prompt or "", negative_prompt_embeds)
        texts = {
            name: self.encode_prompt(text) if embeds is None else embeds.to(device)
            for name, (text, embeds) in given.items()
        }
        if latents is None:
            latents = randn_tensor(shape, generator, device, torch.float32)

        # 3. Windows: references, denoising, decoding, joining, the references as they were given
        grid = torch.empty(num_views, num_frames, 3, height, width)
        done, seconds, steps = 0, 0.0, 0
        columns = None if freeze_time is None else freeze_time[:, None]
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        for index, ((start, stop), (known, stages)) in enumerate(zip(windows, plans)):
            first, last = TEMPORAL_STRIDE * start, TEMPORAL_STRIDE * (stop - 1) + 1
            row = None if fixed_view is None else fixed_view[first:last]
            window_shape = (*shape[:2], stop - start, *shape[3:])
            window = self._references(row, columns, image, window_shape)
            noise, known = latents[:, :, start:stop].to(device, torch.float32), known.to(device)
            begun = time.perf_counter()
            scales = stage_guidance(guidance_scale, len(stages), bool(known[0, 0]))
            for (v, f), scale in zip(stages, scales):
                window[:v, :, :f] = self._denoise(
                    noise[:v, :, :f],
                    window[:v, :, :f],
                    known[:v, :f],
                    texts,
                    scale,
                    num_inference_steps,
                    steps,
                    {"view_strength": view_strength, "backend": backend},
                    callback_on_step_end,
                    callback_on_step_end_tensor_inputs,
                    generator,
                )
                known[:v, :f] = True
                steps += num_inference_steps
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds += time.perf_counter() - begun
            if output_type == "latent":
                grid = window
                break
            for view, view_latents in enumerate(window):
                grid[view, done:last] = self._decode_view(view_latents)[done - first :]
            if index:
                grid[:, done : done + TEMPORAL_STRIDE] = fade_joint(grid, done)
            if index == 0 and freeze_time is not None:
                grid[:, 0] = freeze_time.to(grid)
            if image is not None:
                grid[0, 0] = image.to(grid)
            if fixed_view is not None:
                grid[0, :last] = fixed_view[:last].to(grid)
            done, image = last, None
            columns = grid[:, last - window_overlap : last]
        self.maybe_free_model_hooks()
        seconds_per_step = seconds / self._num_timesteps
        peak = f", {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB at most" * (
            device.type == "cuda"
        )
        logger.info(
            "%d views of %d frames in %d window(s), %d steps: %.2f s per step%s.",
            num_views,
            num_frames,
            len(windows),
            steps,
            seconds_per_step,
            peak,
        )
        return ViewTimeOutput(frames=grid, seconds_per_step=seconds_per_step)

    def _denoise(
        self,
        latents,
        references,
        known,
        texts,
        guidance_scale,
        num_inference_steps,
        first_step,
        attention,
        callback,
        callback_tensors,
        generator=None,
    ) -> Tensor:
        """Latents [V, C, F, h, w] of noise and references of that shape, known [V, F]. first_step
        is added to the steps that callbacks see; attention holds apply_view_time's options."""
        num_views, _, frames, height, width = latents.shape
        rows, columns = (n // self.transformer.config.patch_size[-1] for n in (height, width))
        if guidance_scale == 1:
            texts = {"cond": texts["cond"]}
        latents, references = grid_to_sequence(latents), grid_to_sequence(references)
        known = known.flatten()[None]
        cells = known[:, None, :, None, None]
        replace = self.config.conditioning == "replace"
        self.scheduler.set_timesteps(num_inference_steps, device=latents.device)
        options = {"return_dict": False}
        if "generator" in inspect.signature(self.scheduler.step).parameters:
            options["generator"] = generator
        self.transformer._reset_stateful_cache()  # of the first-block cache
        apply_view_time(
            self.transformer,
            num_views,
            frames,
            max_frames=self.config.max_frames,
            architecture=self.config.architecture,
            **attention,
        )
        try:
            for step, timestep in enumerate(self.progress_bar(self.scheduler.timesteps)):
                inputs, timesteps = model_inputs(
                    latents,
                    references,
                    known,
                    timestep[None],
                    self.config.conditioning,
                    rows,
                    columns,
                )
                inputs = inputs.to(self.transformer.dtype)
                velocities = {}
                for name, text in texts.items():
                    with self.transformer.cache_context(name):
                        sample = self.transformer(inputs, timesteps, text.to(inputs.dtype)).sample
                    velocities[name] = sample.float()
                velocity = velocities["cond"]
                if "uncond" in velocities:
                    uncond = velocities["uncond"]
                    velocity = uncond + guidance_scale * (velocity - uncond)
                noise = timestep / self.scheduler.config.num_train_timesteps
                denoised = latents - noise * velocity
                latents = self.scheduler.step(velocity, timestep, latents, **options)[0]
                if replace:
                    latents = torch.where(cells, references, latents)
                    denoised = torch.where(cells, references, denoised)
                if callback is not None:
                    tensors = {"latents": latents, "denoised": denoised}
                    given = {k: sequence_to_grid(tensors[k], num_views) for k in callback_tensors}
                    answer = callback(self, first_step + step, timestep, given) or {}
                    if "latents" in answer:
                        latents = grid_to_sequence(answer["latents"])
        finally:
            apply_view_time(self.transformer, None)
        return sequence_to_grid(latents, num_views)
