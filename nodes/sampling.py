"""Apply View-Time Attention, and the View-Time Sampler that includes it."""

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy_api.latest import io
from PIL import Image

from .view_time import KEY, KNOWN, apply_view_time, conventions, grid_of, noise_mask_of

PREVIEW_SIZE = 512  # pixels of the longer side


def grid_preview(latents: torch.Tensor, latent_format) -> Image.Image | None:
    """Views down, times across, in approximate colours, of latents [V, C, F, h, w]."""
    first = latent_format.latent_rgb_factors
    if first is None:
        return None
    bias = latent_format.latent_rgb_factors_bias or [0.0, 0.0, 0.0]
    # The embedded autoencoder codes the first latent frame by other components than the rest.
    rest, rest_bias = getattr(latent_format, "later_rgb_factors", (first, bias))
    latents = latents.float().cpu()
    parts = [
        torch.einsum("vcfhw,ck->vhfwk", part, torch.tensor(factors)) + torch.tensor(offset)
        for part, factors, offset in (
            (latents[:, :, :1], first, bias),
            (latents[:, :, 1:], rest, rest_bias),
        )
    ]
    sheet = torch.cat(parts, dim=2).flatten(2, 3).flatten(0, 1)  # [V*h, F*w, 3]
    pixels = ((sheet + 1) * 127.5).clamp(0, 255).to(torch.uint8).numpy()
    image = Image.fromarray(pixels)
    factor = max(1, PREVIEW_SIZE // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def preview_callback(model, bar, first_step: int = 0):
    """A sampler callback that moves the progress bar and shows the whole grid."""

    def callback(step, denoised, *_):
        image = grid_preview(denoised, model.get_model_object("latent_format"))
        preview = ("JPEG", image, PREVIEW_SIZE) if image else None
        bar.update_absolute(first_step + step + 1, None, preview)

    return callback


class ApplyViewTimeAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FourReal_ApplyViewTimeAttention",
            display_name="Apply View-Time Attention",
            category="4Real",
            description="Makes a Wan model generate a grid of synchronised views: each token sees "
            "its own view at all times and all views at its own time. Any sampler then samples the "
            "grid LATENT.",
            search_aliases=["4d", "multi-view video", "synchronised videos"],
            inputs=[
                io.Model.Input("model", tooltip="A Wan 2.1 or 2.2 model, or the embedded one."),
                io.Latent.Input(
                    "latent", tooltip="From Grid Latent; the same one must go to the sampler."
                ),
                io.Float.Input(
                    "view_strength",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    advanced=True,
                    tooltip="Weight of the other views: 1 is the method, 0 independent views.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model for this grid, with its references.")],
        )

    @classmethod
    def execute(cls, model, latent, view_strength) -> io.NodeOutput:
        return io.NodeOutput(apply_view_time(model, latent, view_strength))


class ViewTimeSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FourReal_ViewTimeSampler",
            display_name="View-Time Sampler",
            category="4Real",
            description="Generates a grid of synchronised views with fused view-time attention, "
            "and shows it while it grows: views down, times across. The embedded model makes the "
            "references that are missing first: all views of the first time, then the first view.",
            search_aliases=["4d sampler", "multi-view sampler", "ksampler"],
            inputs=[
                io.Model.Input("model", tooltip="A Wan 2.1 or 2.2 model, or the embedded one."),
                io.Conditioning.Input("positive", tooltip="What the scene shows."),
                io.Conditioning.Input("negative", tooltip="What it should not show."),
                io.Latent.Input("latent", tooltip="From Grid Latent, with or without references."),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                    tooltip="Chooses the noise that the grid starts from.",
                ),
                io.Int.Input(
                    "steps", default=20, min=1, max=1000,
                    tooltip="Denoising steps; more are slower and usually cleaner.",
                ),
                io.Float.Input(
                    "cfg", default=5.0, min=0.0, max=100.0, step=0.1, round=0.01,
                    tooltip="How strongly the text guides. With both references 1 is enough, and "
                    "twice as fast.",
                ),
                io.Combo.Input(
                    "sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="euler",
                    tooltip="The rule of a denoising step; lcm suits the embedded model.",
                ),
                io.Combo.Input(
                    "scheduler", options=comfy.samplers.KSampler.SCHEDULERS, default="simple",
                    tooltip="How the noise levels are spread over the steps.",
                ),
                io.Float.Input(
                    "view_strength", default=1.0, min=0.0, max=4.0, step=0.05, advanced=True,
                    tooltip="Weight of the other views: 1 is the method, 0 independent views.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    tooltip="The grid [V, C, F, h, w]; VAE Decode makes V consecutive clips of it."
                )
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        model,
        positive,
        negative,
        latent,
        seed,
        steps,
        cfg,
        sampler_name,
        scheduler,
        view_strength,
    ) -> io.NodeOutput:
        from fourreal.grid import sampling_stages
        from fourreal.video.conditioning import stage_guidance

        conventions(model)  # before anything else is done with a MODEL that is not Wan
        num_views, num_frames, known = grid_of(latent)
        samples = comfy.sample.fix_empty_latent_channels(
            model, latent["samples"], latent.get("downscale_ratio_spacial")
        )
        stages, mask = [(num_views, num_frames)], latent.get("noise_mask")
        if (model.get_attachment(KEY) or {}).get("staged"):
            stages = sampling_stages(known)
        bar = comfy.utils.ProgressBar(steps * len(stages))
        noise = comfy.sample.prepare_noise(samples, seed)
        scales = stage_guidance(cfg, len(stages), bool(known[0, 0]))
        for stage, ((v, f), scale) in enumerate(zip(stages, scales)):
            if stage > 0:  # what the stage before made is a reference
                mask = noise_mask_of(known, samples)
            part = latent | {"samples": samples[:v, :, :f], KNOWN: known[:v, :f]}
            made = comfy.sample.sample(
                apply_view_time(model, part, view_strength),
                noise[:v, :, :f],
                steps,
                scale,
                sampler_name,
                scheduler,
                positive,
                negative,
                part["samples"],
                noise_mask=None if mask is None else mask[:v, :, :f],
                callback=preview_callback(model, bar, steps * stage),
                disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
                seed=seed,
            )
            samples, known = samples.to(made, copy=True), known.clone()
            samples[:v, :, :f], known[:v, :f] = made, True
        out = {k: v for k, v in latent.items() if k != "downscale_ratio_spacial"}
        return io.NodeOutput(out | {"samples": samples})
