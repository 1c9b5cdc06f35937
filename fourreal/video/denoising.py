"""The denoising loop: noise and references of a grid to its latents (paper, section 3).

Flow matching and classifier-free guidance as in diffusers' pipelines; `conditioning.py` says what
the model sees of the references.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from diffusers.hooks import HookRegistry
from torch import Tensor

from fourreal.grid import grid_to_sequence, sequence_to_grid
from fourreal.video.architectures import WanTransformer
from fourreal.video.conditioning import model_inputs, stage_guidance, stage_steps
from fourreal.video.transformer import apply_view_time
from fourreal.video.windows import Window

if TYPE_CHECKING:
    from fourreal.video.pipeline import ViewTimePipeline


@dataclass(frozen=True)
class Sampler:
    """How the latents of a call are sampled, in all of its windows and stages.

    texts: embeddings [1, L, D] by name, "cond" and, where guidance is used, "uncond". callback is
    called after each step with those of latents and denoised that callback_tensors names.
    control_scales [layers] weighs the hints of each VACE layer.
    """

    num_inference_steps: int
    guidance_scale: float
    view_strength: float
    backend: str
    texts: dict[str, Tensor]
    generator: torch.Generator | None = None
    callback: Callable[..., dict[str, Tensor] | None] | None = None
    callback_tensors: tuple[str, ...] = ("latents",)
    control_scales: Tensor | None = None


def sample_window(
    pipeline: "ViewTimePipeline",
    sampler: Sampler,
    window: Window,
    noise: Tensor,
    references: Tensor,
    first_step: int,
) -> Tensor:
    """Latents [V, C, F, h, w] of a window, of noise and references of that shape.

    Stage by stage: what one has made is a reference of the next. first_step is the number of the
    window's first step, which callbacks see.
    """
    latents, known = references.clone(), window.known.clone()
    scales = stage_guidance(sampler.guidance_scale, window.stages, bool(known[0, 0]))
    counts = stage_steps(sampler.num_inference_steps, len(window.stages))
    for (v, f), scale, count in zip(window.stages, scales, counts):
        part = noise[:v, :, :f], latents[:v, :, :f], known[:v, :f]
        used = replace(sampler, num_inference_steps=count)
        latents[:v, :, :f] = denoise(pipeline, used, *part, scale, first_step)
        known[:v, :f] = True
        first_step += count
    return latents


def denoise(
    pipeline: "ViewTimePipeline",
    sampler: Sampler,
    noise: Tensor,
    references: Tensor,
    known: Tensor,
    guidance_scale: float,
    first_step: int,
    control: Tensor | None = None,
) -> Tensor:
    """Latents [V, C, F, h, w] of noise and references of that shape, known [V, F].

    control [V, K, F, h, w] is what a VACE transformer is shown (vace_control). The transformer has
    view-time attention meanwhile, and afterwards none.
    """
    num_views, _, num_frames, height, width = noise.shape
    transformer, scheduler, config = pipeline.transformer, pipeline.scheduler, pipeline.config
    rows, columns = (n // transformer.config["patch_size"][-1] for n in (height, width))
    latents, references = grid_to_sequence(noise), grid_to_sequence(references)
    known = known.flatten()[None]
    cells = known[:, None, :, None, None].to(noise.device)
    names = ("cond",) if guidance_scale == 1 else ("cond", "uncond")
    texts = {name: sampler.texts[name].to(noise.device, transformer.dtype) for name in names}
    shown: dict[str, Tensor] = {}
    if control is not None and sampler.control_scales is not None:
        shown["control_hidden_states"] = grid_to_sequence(control).to(texts["cond"])
        shown["control_hidden_states_scale"] = sampler.control_scales.to(texts["cond"])

    scheduler.set_timesteps(sampler.num_inference_steps, device=latents.device)
    scheduler.set_begin_index(0)  # else it looks for the first timestep on the device, and waits
    options: dict[str, Any] = {"return_dict": False}
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = sampler.generator
    # The first-block cache compares with the step before. diffusers forgets it at the end of a
    # pipeline's call, but here every stage is a run of its own, of another size.
    HookRegistry.check_if_exists_or_initialize(transformer).reset_stateful_hooks()
    apply_view_time(
        transformer,
        num_views,
        num_frames,
        max_frames=config.max_frames,
        view_strength=sampler.view_strength,
        backend=sampler.backend,
        architecture=config.architecture,
    )
    bar = pipeline.progress_bar(total=pipeline.num_timesteps)  # goes on from that before
    bar.n = bar.initial = bar.last_print_n = first_step
    try:
        for step, timestep in enumerate(scheduler.timesteps):
            inputs, timesteps = model_inputs(
                latents, references, known, timestep[None], config.conditioning, rows, columns
            )
            inputs = inputs.to(transformer.dtype)
            velocity = guided_velocity(transformer, inputs, timesteps, texts, guidance_scale, shown)
            level = timestep / scheduler.config.num_train_timesteps
            denoised = latents - level * velocity
            latents = scheduler.step(velocity, timestep, latents, **options)[0]
            if config.conditioning == "replace":
                latents = torch.where(cells, references, latents)
                denoised = torch.where(cells, references, denoised)
            if sampler.callback is not None:
                tensors = {"latents": latents, "denoised": denoised}
                given = {
                    n: sequence_to_grid(tensors[n], num_views) for n in sampler.callback_tensors
                }
                answer = sampler.callback(pipeline, first_step + step, timestep, given) or {}
                if "latents" in answer:
                    latents = grid_to_sequence(answer["latents"])
            bar.update()
    finally:
        bar.close()
        apply_view_time(transformer, None)
    return sequence_to_grid(latents, num_views)


def guided_velocity(
    transformer: WanTransformer,
    inputs: Tensor,
    timesteps: Tensor,
    texts: dict[str, Tensor],
    guidance_scale: float,
    shown: dict[str, Tensor],
) -> Tensor:
    """Velocity [B, C, N, h, w], float32: of the text "cond" alone, or led away from "uncond".

    shown are more of the transformer's inputs: the control of a VACE transformer.
    """
    velocities = {}
    for name, text in texts.items():
        with transformer.cache_context(name):
            velocities[name] = transformer(inputs, timesteps, text, **shown).sample.float()
    if "uncond" not in velocities:
        return velocities["cond"]
    return velocities["uncond"] + guidance_scale * (velocities["cond"] - velocities["uncond"])
