"""ViewTimePipeline: text and references to a grid of synchronised videos (paper, section 3).

A diffusers pipeline on Wan's parts. The views are one long sequence for the transformer, whose
self-attention is the fused view-time attention; each view is encoded and decoded on its own.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers.hooks import FirstBlockCacheConfig
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.outputs import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from fourreal import weights
from fourreal.embedded.autoencoder import BlockAutoencoder
from fourreal.embedded.limits import size_warning
from fourreal.grid import num_latent_frames
from fourreal.video.architectures import WanTransformer
from fourreal.video.conditioning import CONDITIONINGS, GUIDANCE_BOTH, WAN_CONVENTIONS
from fourreal.video.denoising import Sampler, sample_window
from fourreal.video.latents import Vae, decode_view, encode_views, reference_latents
from fourreal.video.lora_adapters import LoraMixin
from fourreal.video.request import GridLimits, GridRequest, TextRequest
from fourreal.video.umt5 import encode_text, load_text_encoder, text_length
from fourreal.video.vace import control_scales, sample_vace_window
from fourreal.video.wan_files import (
    build_scheduler,
    check_parts,
    load_transformer,
    load_vae,
)
from fourreal.video.windows import JoinedFrames, Window, plan_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

logger = logging.getLogger(__name__)

NOTED = ("conditioning", "max_frames", "guidance_scale", "architecture", "staged")


@dataclass
class ViewTimeOutput(BaseOutput):
    """frames [V, T, 3, H, W] in [0, 1] on the CPU, or with output_type="latent" the latents
    [V, C, F, h, w]."""

    frames: Tensor


class ViewTimePipeline(DiffusionPipeline, LoraMixin):
    """Generates a grid of num_views x num_frames frames.

    transformer: WanTransformer3DModel, or WanVACETransformer3DModel, which can be shown a video
    with holes; vae: AutoencoderKLWan (or the embedded autoencoder);
    text_encoder, tokenizer: UMT5, or None where every call gives embeddings; scheduler: flow
    matching. conditioning says how the checkpoint takes references (add or replace; mask for VACE
    and only for it), max_frames is
    T_max in latent frames (defaults: WAN_CONVENTIONS), guidance_scale is the default of a call
    without both references, architecture is the one that the checkpoint was trained with
    (apply_view_time), staged is the default of a call: whether the checkpoint knows grids of one
    view and of one time as well.

    from_pretrained also reads the folders of Wan 2.1 T2V, VACE and Wan 2.2 TI2V of diffusers.
    """

    model_cpu_offload_seq: Any = "text_encoder->transformer->vae"
    _callback_tensor_inputs = ["latents", "denoised"]  # noqa: RUF012
    _lora_loadable_modules = ["transformer"]  # noqa: RUF012
    _optional_components = ["text_encoder", "tokenizer"]  # noqa: RUF012

    transformer: WanTransformer
    vae: Vae
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    config: Any

    def __init__(
        self,
        transformer: WanTransformer,
        vae: Vae,
        text_encoder: "UMT5EncoderModel | None",
        tokenizer: "PreTrainedTokenizerBase | None",
        scheduler: Any,
        conditioning: str | None = None,
        max_frames: int | None = None,
        guidance_scale: float = 5.0,
        architecture: str = "fused",
        staged: bool = False,
    ):
        super().__init__()
        self._num_timesteps, self._told = 0, set[str]()
        check_parts(transformer, vae, text_encoder)
        conventions = WAN_CONVENTIONS[transformer.config["in_channels"]]
        vace = isinstance(transformer, WanVACETransformer3DModel)
        conditioning = conditioning or ("mask" if vace else conventions.conditioning)
        if conditioning not in CONDITIONINGS or vace != (conditioning == "mask"):
            raise ValueError(
                f"conditioning is {conditioning!r}, but must be "
                f"{'mask, as this is a VACE transformer' if vace else 'add or replace'}."
            )
        self.register_modules(
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
        )
        self.register_to_config(
            conditioning=conditioning,
            max_frames=max_frames or conventions.max_frames,
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

        Wan 2.1 T2V or VACE 1.3B or 14B with the Wan 2.1 VAE, or Wan 2.2 TI2V 5B with the Wan 2.2
        VAE, and UMT5-XXL, as fp16, bf16 or fp8_scaled. tokenizer (spiece.model or a folder) is
        needed only where the text encoder's file holds none. torch_dtype None keeps the files'
        types, bfloat16 for fp8. Raises ValueError that names what was found and what was expected.
        """
        network, settings = load_transformer(Path(transformer), torch_dtype)
        autoencoder = load_vae(Path(vae), torch_dtype)
        check_parts(network, autoencoder)  # before the next large file is read
        scheduler = build_scheduler(network, settings)
        tokens, encoder = load_text_encoder(Path(text_encoder), tokenizer, torch_dtype)
        given = {name: settings[name] for name in NOTED if name in settings}
        return cls(network, autoencoder, encoder, tokens, scheduler, **given)

    def enable_vae_tiling(self, **tiles: int) -> None:
        """Encode and decode in overlapping tiles, whose sizes AutoencoderKLWan's enable_tiling
        takes. Raises ValueError for the embedded autoencoder."""
        if not isinstance(self.vae, AutoencoderKLWan):
            raise ValueError(
                "the embedded autoencoder has no tiles, and needs none: it works block by block; "
                "leave VAE tiling out, or use it with a VAE of Wan."
            )
        self.vae.enable_tiling(**tiles)

    def compile(self, **options: Any) -> None:
        """torch.compile the transformer's repeated block (compile_repeated_blocks of diffusers)."""
        self.transformer.compile_repeated_blocks(**options)

    def enable_first_block_cache(self, threshold: float = 0.05) -> None:
        """Skip the blocks after the first where its output changes less than `threshold` (relative)
        from step to step. transformer.disable_cache() undoes it. Raises ValueError for VACE, whose
        hints would be added to skipped blocks once more."""
        if isinstance(self.transformer, WanVACETransformer3DModel):
            raise ValueError(
                "the first-block cache does not work with VACE transformers, which add to what "
                "each block gives; leave it out."
            )
        self.transformer.enable_cache(FirstBlockCacheConfig(threshold))

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell."""
        return self.vae.config["scale_factor_spatial"]

    @property
    def num_timesteps(self) -> int:
        """Denoising steps of the current or last call, over all its windows and stages."""
        return self._num_timesteps

    @property
    def max_tokens(self) -> int:
        """Tokens of a text's embeddings (see text_length)."""
        return text_length(self.tokenizer)

    def encode_prompt(self, prompt: str) -> Tensor:
        """Text embeddings [1, L, D], zeros after the end."""
        return encode_text(self.tokenizer, self.text_encoder, [prompt], self._execution_device)

    def encode_views(self, videos: Tensor, at_once: int = 1) -> Tensor:
        """Normalised latents [V, C, F, h, w] of videos [V, T, 3, H, W] in [0, 1], view by view, or
        some of them at once."""
        return encode_views(self.vae, videos, self._execution_device, at_once)

    def decode_views(self, latents: Tensor) -> Tensor:
        """Videos [V, T, 3, H, W] in [0, 1], on the CPU, of normalised latents [V, C, F, h, w]."""
        return torch.stack([decode_view(self.vae, view) for view in latents])

    def check_inputs(
        self,
        request: GridRequest,
        text: TextRequest,
        num_inference_steps: int,
        view_strength: float,
    ) -> None:
        """Raise ValueError, in one sentence, for anything that cannot work."""
        config: Any = self.transformer.config
        text.check(config.text_dim, self.text_encoder is not None)
        if num_inference_steps < 1:
            raise ValueError(
                f"num_inference_steps is {num_inference_steps}, but must be at least 1."
            )
        if view_strength < 0:
            raise ValueError(f"view_strength is {view_strength}, but must be at least 0.")
        multiple = self.spatial_stride * config.patch_size[-1]
        size = request.num_views, request.num_frames, request.height, request.width
        warning = size_warning(*size) if isinstance(self.vae, BlockAutoencoder) else None
        if warning:
            self._tell_once(logging.WARNING, warning)
        limits = multiple, self.config.max_frames, config.rope_max_seq_len
        request.check(GridLimits(*limits, vace=self.config.conditioning == "mask"))

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
        video: Tensor | None = None,
        mask: Tensor | None = None,
        reference_images: Sequence[Tensor] = (),
        conditioning_scale: float | Sequence[float] | Tensor = 1.0,
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
        callback_on_step_end: Callable[..., dict[str, Tensor] | None] | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] = ("latents",),
    ) -> ViewTimeOutput:
        """Generate a grid. Raises ValueError for wrong input before any work.

        fixed_view [T, 3, H, W] and freeze_time [V, 3, H, W], in [0, 1], are the first row and the
        first column; image [3, H, W] is the first cell alone. num_frames T = 4k + 1; height and
        width are multiples of the latent cell times the patch. guidance_scale defaults to 1 with
        both references and to the config's otherwise; 1 turns it off. view_strength 0 gives
        independent views. latents [V, C, F, h, w] replaces the starting noise, prompt_embeds and
        negative_prompt_embeds [1, L, D] (encode_prompt) replace the texts. staged (default: the
        config's) generates missing references first: the first column, then the first row, then
        the other cells, each with its stage_guidance. More than window_frames (4k + 1; default and
        limit: what the model was made for) are generated in windows that start with the last
        window_overlap frames (4k + 1) of the previous one, in the memory of one window.

        With a VACE transformer, video [V, T, 3, H, W] in [0, 1] is generated where mask
        [V, T, 1, H, W] is 1 (default: everywhere), and nearly kept where it is 0; reference_images
        [3, h, w] in [0, 1] show things; conditioning_scale weighs it all, or for each VACE layer.

        callback_on_step_end is called as in diffusers (pipeline, step, timestep, tensors). The
        tensors are those named, [V, C, F, h, w] of the current window and stage: latents, and
        denoised, the model's guess of the result, which decode_views turns into a preview.
        """
        # 1. What is asked for
        size, references = (num_views, num_frames, height, width), (fixed_view, freeze_time, image)
        shown = video, mask, tuple(reference_images)
        request = GridRequest(*size, *references, window_frames, window_overlap, *shown)
        if guidance_scale is None:
            guidance_scale = self._default_guidance(request)
        embeds, guided = (prompt_embeds, negative_prompt_embeds), guidance_scale != 1
        text = TextRequest(prompt, negative_prompt, *embeds, guided)
        self.check_inputs(request, text, num_inference_steps, view_strength)
        windows = self._plan(request, staged, num_inference_steps, output_type)

        # 2. Text and noise
        sampler = Sampler(
            num_inference_steps,
            guidance_scale,
            view_strength,
            backend,
            self._encode_texts(text),
            generator,
            callback_on_step_end,
            callback_on_step_end_tensor_inputs,
            control_scales(self.transformer, conditioning_scale),
        )
        noise = self._starting_noise(request, generator, latents)

        # 3. Windows
        frames = self._generate(request, windows, sampler, noise, output_type)
        self.maybe_free_model_hooks()
        return ViewTimeOutput(frames=frames)

    def _default_guidance(self, request: GridRequest) -> float:
        """Guidance scale of a call that names none; no public VACE has learnt both references."""
        both = request.has_both_references and self.config.conditioning != "mask"
        return GUIDANCE_BOTH if both else self.config.guidance_scale

    def _plan(
        self, request: GridRequest, staged: bool | None, num_steps: int, output_type: str
    ) -> list[Window]:
        """The windows of a request; sets num_timesteps."""
        staged = self.config.staged if staged is None else staged
        windows = plan_windows(request, self.config.max_frames, staged)
        if output_type == "latent" and len(windows) > 1:
            raise ValueError(
                f"{request.num_frames} frames need {len(windows)} windows, whose latents do not "
                'join to one video; use output_type="pt" or fewer frames.'
            )
        self._num_timesteps = sum(w.num_steps(num_steps, self.config.conditioning) for w in windows)
        grid = f"{request.num_views} views of {request.num_frames} frames"
        sampled = f"{grid} in {len(windows)} window(s), {self._num_timesteps} steps."
        self._tell_once(logging.INFO, sampled)
        return windows

    def _tell_once(self, level: int, sentence: str) -> None:
        """Log a sentence, but not again for each of many grids."""
        if sentence not in self._told:
            self._told.add(sentence)
            logger.log(level, "%s", sentence)

    def _encode_texts(self, text: TextRequest) -> dict[str, Tensor]:
        """Embeddings [1, L, D] by the names of Sampler.texts."""
        given = {"cond": (text.prompt, text.prompt_embeds)}
        if text.guided:
            given["uncond"] = text.negative_prompt, text.negative_prompt_embeds
        return {
            name: self.encode_prompt(words or "") if embeds is None else embeds
            for name, (words, embeds) in given.items()
        }

    def _starting_noise(
        self, request: GridRequest, generator: torch.Generator | None, latents: Tensor | None
    ) -> Tensor:
        """Noise [V, C, F, h, w], float32, or the latents given in its place."""
        device, stride = self._execution_device, self.spatial_stride
        if latents is not None:
            return latents.to(device, torch.float32)
        frames = num_latent_frames(request.num_frames)
        cells = request.height // stride, request.width // stride
        frames += len(request.reference_images)
        shape = (request.num_views, self.vae.config["z_dim"], frames, *cells)
        return randn_tensor(shape, generator, device, torch.float32)

    def _generate(
        self,
        request: GridRequest,
        windows: list[Window],
        sampler: Sampler,
        noise: Tensor,
        output_type: str,
    ) -> Tensor:
        """Frames of the grid, or the latents of its only window: references, denoising, decoding
        and joining of one window after the other."""
        joined, step, before = JoinedFrames(request), 0, len(request.reference_images)
        for window in windows:
            part = noise[:, :, before + window.start : before + window.stop]
            columns = joined.next_columns()
            if self.config.conditioning == "mask":
                part = torch.cat([noise[:, :, :before], part], dim=2)
                latents = sample_vace_window(self, sampler, request, window, columns, part, step)
            else:
                references = reference_latents(self.encode_views, request, window, columns, part)
                latents = sample_window(self, sampler, window, part, references, step)
            if output_type == "latent":
                return latents
            joined.add(window, (decode_view(self.vae, view) for view in latents))
            step += window.num_steps(sampler.num_inference_steps, self.config.conditioning)
        return joined.frames


def load_embedded_pipeline(
    folder: Path | None = None, transformer: Path | None = None
) -> ViewTimePipeline:
    """The pipeline of transformer, autoencoder and text encoder in `folder` (default: the package),
    or of another transformer file, such as a VACE, with the others.

    Raises ValueError in one sentence when a file is missing or damaged.
    """
    folder = Path(folder or weights.folder())
    return ViewTimePipeline.from_single_files(
        transformer or folder / "transformer.safetensors",
        folder / "autoencoder.safetensors",
        folder / "text_encoder.safetensors",
        torch_dtype=torch.float32,
    )
