"""One scheduler and two samplers."""

from itertools import pairwise

import torch

from .models import throw_exception_if_processing_interrupted

SAMPLERS = ["euler", "lcm"]


def prepare_noise(latent_image, seed, noise_inds=None):
    return torch.randn(latent_image.size(), generator=torch.manual_seed(seed))


def fix_empty_latent_channels(model, latent_image, downscale_ratio_spacial=None):
    channels = model.get_model_object("latent_format").latent_channels
    if latent_image.shape[1] == channels or latent_image.count_nonzero():
        return latent_image
    return latent_image[:, :1].repeat(1, channels, 1, 1, 1)


def conditioning_set_values(conditioning, values, append=False):
    def changed(given):
        return given | {k: given.get(k, []) + v if append else v for k, v in values.items()}

    return [[text, changed(given)] for text, given in conditioning]


def calculate_sigmas(model_sampling, scheduler_name, steps):
    assert scheduler_name == "simple", scheduler_name
    level = torch.tensor([(1000 - int(i * 1000 / steps)) / 1000 for i in range(steps)])
    shift = model_sampling.shift
    return torch.cat([shift * level / (1 + (shift - 1) * level), torch.zeros(1)])


def sample(
    model,
    noise,
    steps,
    cfg,
    sampler_name,
    scheduler,
    positive,
    negative,
    latent_image,
    **options,
):
    """Euler's rule, or fresh noise at each step (lcm), with classifier-free guidance and a mask (1
    where to generate). options: noise_mask, callback, seed."""
    assert sampler_name in SAMPLERS, sampler_name
    base, noise_mask, callback = model.model, options.get("noise_mask"), options.get("callback")
    patches = model.model_options["transformer_options"] | {"wrappers": model.wrappers}
    latent = base.process_latent_in(latent_image)
    fresh = torch.Generator().manual_seed((options.get("seed") or 0) + 1)
    sigmas = calculate_sigmas(base.model_sampling, scheduler, steps)
    mask = torch.ones(1) if noise_mask is None else noise_mask
    change_mask = model.model_options.get("denoise_mask_function")
    if change_mask is not None and noise_mask is not None:
        mask = change_mask(sigmas[0], mask)
    texts = [positive] if cfg == 1.0 else [positive, negative]
    context = torch.cat([text[0][0].repeat(len(noise), 1, 1) for text in texts])
    x = sigmas[0] * noise + (1 - sigmas[0]) * latent
    with model._patched():
        shown = [base.extra_conds(noise=noise, cross_attn=t[0][0], **t[0][1]) for t in texts]
        control = dict(shown[0])
        if control:
            control["vace_context"] = torch.cat([part["vace_context"] for part in shown])
        for step, (sigma, following) in enumerate(pairwise(sigmas)):
            throw_exception_if_processing_interrupted()
            seen = x * mask + base._known(sigma, noise, latent) * (1 - mask)
            batch = seen.repeat(len(texts), 1, 1, 1, 1)
            level = (1000 * sigma).expand(len(batch))
            out = base.diffusion_model(
                batch, level, context, transformer_options=patches, **control
            )
            parts = (batch - sigma * out).chunk(len(texts))
            denoised = parts[-1] + cfg * (parts[0] - parts[-1]) if len(parts) > 1 else parts[0]
            denoised = denoised * mask + latent * (1 - mask)
            if callback is not None:
                callback(step, denoised, x, steps)
            direction = (x - denoised) / sigma
            if sampler_name == "lcm":
                direction = torch.randn(x.shape, generator=fresh) - denoised
            x = denoised + following * direction
    return base.process_latent_out(x)
