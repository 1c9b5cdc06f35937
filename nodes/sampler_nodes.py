"""Apply View-Time Attention, and the View-Time Sampler that includes it."""

from dataclasses import dataclass, replace

import comfy.sample
import comfy.samplers
import comfy.utils
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from fourreal.grid import sampling_stages

from . import types
from .progress import sampler_callback, tell_node

AUTO = "auto"


def model_input() -> io.Model.Input:
    return io.Model.Input(
        "model", tooltip="A Wan 2.1 or 2.2 model, one of Wan VACE, or the embedded one."
    )


def view_strength_input() -> io.Float.Input:
    return io.Float.Input(
        "view_strength",
        default=1.0,
        min=0.0,
        max=4.0,
        step=0.05,
        advanced=True,
        tooltip="Weight of the other views: 1 is the method, 0 independent views.",
    )


@dataclass(frozen=True)
class SamplerSettings:
    """What View-Time Sampler's widgets stand for where they leave the choice to the MODEL."""

    steps: int
    cfg: float
    sampler_name: str
    scheduler: str = "simple"


def settings_of(conventions: dict, known: Tensor) -> SamplerSettings:
    """Settings that suit a MODEL of these conventions, of a grid with known cells [V, F].

    The text hardly matters beside both references (paper, supplement), so cfg is 1 then.
    """
    from fourreal.video.conditioning import GUIDANCE_BOTH, STEPS_BOTH

    both = bool(known[0].all() and known[:, 0].all())

    if "grid" not in conventions:
        found = SamplerSettings(20, 5.0, "uni_pc")  # core's templates of Wan have these
    elif conventions["conditioning"] == "mask":
        found = SamplerSettings(8, conventions["guidance_scale"], "euler")
    else:
        steps = STEPS_BOTH if both else 20
        found = SamplerSettings(steps, conventions["guidance_scale"], "lcm")
    return replace(found, cfg=GUIDANCE_BOTH) if both else found


class ApplyViewTimeAttention(io.ComfyNode):
    """There are no new weights, and the MODEL that comes in is not changed. LoRA, fp8 files,
    offloading, previews and cancel are ComfyUI's.

    The same LATENT must go to the sampler. With a 4D checkpoint or LoRA for this base the views are
    one scene; stock weights have never learnt that.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_ApplyViewTimeAttention",
            display_name="Apply View-Time Attention",
            category=types.GENERATE,
            description="Makes a Wan model generate a grid of synchronised views: each token sees "
            "its own view at all times and all views at its own time. Any sampler then samples the "
            "grid LATENT.",
            search_aliases=["4d", "multi-view video", "synchronised videos"],
            inputs=[
                model_input(),
                io.Latent.Input(
                    "latent",
                    tooltip="From Grid Latent or Grid VACE; the same one must go to the sampler.",
                ),
                view_strength_input(),
            ],
            outputs=[io.Model.Output(tooltip="The model for this grid, with its references.")],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, latent: dict, view_strength: float) -> io.NodeOutput:
        known = types.known_cells(latent)
        from .view_time import check_model_of, patch_for_grid

        check_model_of(latent, model)
        return io.NodeOutput(patch_for_grid(model, known, latent["samples"], view_strength))


class ViewTimeSampler(io.ComfyNode):
    """It is Apply View-Time Attention and a KSampler in one node.

    Left at 0 and *auto*, steps, cfg, sampler and scheduler suit the MODEL: for the embedded one 20
    steps of lcm with cfg 3, for its VACE 8 of euler without, for Wan 20 of uni_pc with cfg 5. The
    timestep shift is the MODEL's own; core's ModelSamplingSD3 changes it.

    With both references cfg 1 is enough and twice as fast. Each reference that the embedded model
    makes takes *steps* steps: all views of the first time with *cfg*, the first view with a greater
    one, for its motion; the rest follows in 4 steps with cfg 1. The result is an ordinary LATENT;
    VAE Decode makes the views one after the other of it.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_ViewTimeSampler",
            display_name="View-Time Sampler",
            category=types.GENERATE,
            description="Generates a grid of synchronised views with fused view-time attention, "
            "and shows it while it grows: views down, times across. The embedded model makes the "
            "references that are missing first: all views of the first time, then the first view.",
            search_aliases=["4d sampler", "multi-view sampler", "ksampler"],
            inputs=[
                model_input(),
                io.Conditioning.Input("positive", tooltip="What the scene shows."),
                io.Conditioning.Input("negative", tooltip="What it should not show."),
                io.Latent.Input(
                    "latent",
                    tooltip="From Grid Latent, with or without references, or from Grid VACE.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Chooses the noise that the grid starts from.",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Denoising steps; more are slower and usually cleaner. 0 for as many "
                    "as suit the MODEL.",
                ),
                io.Float.Input(
                    "cfg",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="How strongly the text guides; 0 for what suits the MODEL. With both "
                    "references 1 is enough, and twice as fast.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=[AUTO, *comfy.samplers.KSampler.SAMPLERS],
                    default=AUTO,
                    tooltip="The rule of a denoising step; auto for what suits the MODEL.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=[AUTO, *comfy.samplers.KSampler.SCHEDULERS],
                    default=AUTO,
                    tooltip="How the noise levels are spread over the steps; auto for what suits "
                    "the MODEL.",
                ),
                view_strength_input(),
            ],
            outputs=[
                io.Latent.Output(
                    tooltip="The grid [V, C, F, h, w]; VAE Decode makes V consecutive clips of it."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        positive: list,
        negative: list,
        latent: dict,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        view_strength: float,
    ) -> io.NodeOutput:
        from fourreal.embedded.limits import size_warning
        from fourreal.video.conditioning import stage_guidance, stage_steps

        from .view_time import check_model_of, conventions_of, patch_for_grid

        conventions = conventions_of(model)  # a MODEL that is not Wan fails here
        # The control of VACE is that of the whole grid.
        staged = conventions.get("staged") and conventions["conditioning"] != "mask"
        known = types.known_cells(latent)
        suited = settings_of(conventions, known)
        steps, cfg = steps or suited.steps, cfg or suited.cfg
        sampler_name = suited.sampler_name if sampler_name == AUTO else sampler_name
        scheduler = suited.scheduler if scheduler == AUTO else scheduler
        views, _, frames, *sides = latent["samples"].shape
        if "grid" in conventions:  # the embedded model
            told = size_warning(views, 4 * frames - 3, *(8 * side for side in sides))
            if told:
                tell_node(told, cls.hidden.unique_id)
        check_model_of(latent, model)
        samples = comfy.sample.fix_empty_latent_channels(
            model, latent["samples"], latent.get("downscale_ratio_spacial")
        )
        noise = comfy.sample.prepare_noise(samples, seed)
        stages = sampling_stages(known) if staged else [tuple(known.shape)]
        scales = stage_guidance(cfg, stages, bool(known[0, 0]))
        counts = stage_steps(steps, len(stages))
        bar = comfy.utils.ProgressBar(sum(counts))
        mask = latent.get("noise_mask")
        for stage, ((v, f), scale, count) in enumerate(zip(stages, scales, counts)):
            if stage > 0:  # what the stage before made is a reference
                mask = types.noise_mask_of(known, samples)
            part = samples[:v, :, :f]
            made = comfy.sample.sample(
                patch_for_grid(model, known[:v, :f], part, view_strength),
                noise[:v, :, :f],
                count,
                scale,
                sampler_name,
                scheduler,
                positive,
                negative,
                part,
                noise_mask=None if mask is None else mask[:v, :, :f],
                callback=sampler_callback(model, bar, sum(counts[:stage])),
                disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
                seed=seed,
            )
            samples, known = samples.to(made, copy=True), known.clone()
            samples[:v, :, :f], known[:v, :f] = made, True
        out = {k: v for k, v in latent.items() if k != "downscale_ratio_spacial"}
        return io.NodeOutput(out | {"samples": samples})
