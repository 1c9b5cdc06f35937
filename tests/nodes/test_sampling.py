"""Sampling a grid in ComfyUI: the numbers of the diffusers pipeline, staged and not, and cancel.

On the stand-in, and beside a real ComfyUI where COMFYUI_PATH is set to a checkout of one.
"""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from ..comfyui import CHANNELS, needs_comfyui, one_conditioning, write_random_weights


def diffusers_pipeline(folder: Path):
    from diffusers import FlowMatchEulerDiscreteScheduler

    from fourreal.video.pipeline import ViewTimePipeline
    from fourreal.video.umt5 import load_text_encoder
    from fourreal.video.wan_files import load_transformer, load_vae

    transformer, noted = load_transformer(folder / "transformer.safetensors", torch.float32)
    vae = load_vae(folder / "autoencoder.safetensors", torch.float32)
    tokenizer, encoder = load_text_encoder(folder / "text_encoder.safetensors")
    pipe = ViewTimePipeline(
        transformer,
        vae,
        encoder,
        tokenizer,
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        conditioning=noted["conditioning"],
        max_frames=noted["max_frames"],
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def use_noise_levels_of(model, pipe, steps: int, monkeypatch) -> None:
    """Those of ComfyUI's scheduler also for diffusers, which would shift them again."""
    import comfy.samplers
    from diffusers import FlowMatchEulerDiscreteScheduler

    sigmas = comfy.samplers.calculate_sigmas(
        model.get_model_object("model_sampling"), "simple", steps
    )
    pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    spread = pipe.scheduler.set_timesteps
    monkeypatch.setattr(
        pipe.scheduler,
        "set_timesteps",
        lambda _, device: spread(sigmas=sigmas[:-1].tolist(), device=device),
    )


@torch.inference_mode()
@pytest.mark.parametrize("given", [(), ("fixed_view",), ("freeze_time",)])
def test_the_sampler_makes_missing_references_first_where_the_model_is_for_it(
    nodes, embedded, monkeypatch, given
):
    """As the diffusers pipeline does."""
    import comfy.sample

    key = nodes.view_time.KEY
    model, vae = embedded.model, embedded.vae
    prompt = "a red ball bouncing past a blue box"
    positive, negative = embedded.text(prompt)
    pipe = diffusers_pipeline(embedded.folder)
    views, frames, size, steps, seed = 3, 5, 32, 3, 7
    exact = torch.rand(views, frames, 3, size, size, generator=torch.Generator().manual_seed(1))
    references = {"fixed_view": exact[0], "freeze_time": exact[:, 0]}
    references = {name: references[name] for name in given}
    latent = nodes.GridLatent.execute(
        views,
        frames,
        size,
        size,
        vae,
        **{name: images.movedim(1, -1) for name, images in references.items()},
    ).args[0]
    use_noise_levels_of(model, pipe, steps, monkeypatch)
    expected = pipe(
        prompt,
        None,
        views,
        frames,
        size,
        size,
        num_inference_steps=steps,
        guidance_scale=3.0,
        latents=comfy.sample.prepare_noise(latent["samples"], seed),
        output_type="latent",
        staged=True,
        **references,
    ).frames

    def sample(model):
        return nodes.ViewTimeSampler.execute(
            model, positive, negative, latent, seed, steps, 3.0, "euler", "simple", 1.0
        ).args[0]["samples"]

    together = sample(model)
    model.set_attachments(key, model.get_attachment(key) | {"staged": True})
    assert (sample(model) - expected).abs().max() < 1e-4
    assert (together - expected).abs().max() > 1e-2


@torch.inference_mode()
@pytest.mark.parametrize(
    "references",
    [(), ("fixed_view",), ("freeze_time",), ("fixed_view", "freeze_time")],
    ids=lambda names: " and ".join(names) or "no references",
)
def test_the_stock_ksampler_equals_the_diffusers_pipeline(nodes, embedded, monkeypatch, references):
    """Of ComfyUI, with euler, with and without guidance."""
    import comfy.sample

    from nodes import KSampler

    model, vae = embedded.model, embedded.vae
    prompt, unwanted = "a red ball bouncing past a blue box", "a green box"
    positive, negative = embedded.text(prompt, unwanted)
    pipe = diffusers_pipeline(embedded.folder)
    assert torch.equal(positive[0][0][0, -1], torch.zeros(128))
    torch.testing.assert_close(positive[0][0], pipe.encode_prompt(prompt), atol=1e-5, rtol=0)

    views, frames, height, width, steps, seed = 3, 5, 32, 48, 4, 7
    exact = torch.rand(views, frames, 3, height, width, generator=torch.Generator().manual_seed(1))
    use_noise_levels_of(model, pipe, steps, monkeypatch)
    given = {"fixed_view": exact[0], "freeze_time": exact[:, 0]}
    given = {name: given[name] for name in references}
    latent = nodes.GridLatent.execute(
        views, frames, width, height, vae, **{k: v.movedim(1, -1) for k, v in given.items()}
    ).args[0]
    noise = comfy.sample.prepare_noise(latent["samples"], seed)
    patched = nodes.ApplyViewTimeAttention.execute(model, latent, 1.0).args[0]
    for guidance in (1.0, 4.0):
        expected = pipe(
            prompt,
            unwanted,
            views,
            frames,
            height,
            width,
            num_inference_steps=steps,
            guidance_scale=guidance,
            latents=noise,
            output_type="latent",
            **given,
        ).frames
        (out,) = KSampler().sample(
            patched, seed, steps, guidance, "euler", "simple", positive, negative, latent
        )
        sampled = out["samples"]
        assert (sampled - expected).abs().max() < 1e-4, guidance
        decoded = vae.decode(sampled).flatten(0, 1)
        frames_expected = pipe.decode_views(expected).flatten(0, 1).movedim(1, -1)
        torch.testing.assert_close(decoded, frames_expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("conditioning", "channels"), [(None, 16), (None, 48), ("replace", 16), ("add", 48)]
)
def test_a_file_has_the_same_conventions_in_comfyui_and_in_diffusers(
    nodes, tmp_path, monkeypatch, conditioning, channels
):
    """Those that it notes about itself, and Wan's own where it notes nothing."""
    from fourreal.video import load_embedded_pipeline

    write_random_weights(tmp_path, conditioning, channels)
    monkeypatch.setenv("FOURREAL_WEIGHTS", str(tmp_path))
    noted = nodes.view_time.conventions_of(nodes.LoadEmbeddedModels.execute().args[0])
    pipe = load_embedded_pipeline(tmp_path)
    theirs = pipe.config | pipe.scheduler.config
    theirs["shift"] = theirs["flow_shift"] if conditioning is None else theirs["shift"]
    names = ("conditioning", "max_frames", "shift")
    assert {name: noted[name] for name in names} == {name: theirs[name] for name in names}
    assert noted["max_frames"] == (8 if conditioning else {16: 21, 48: 31}[channels])


def untrained_wan(channels: int) -> tuple:
    """A MODEL as core's loader makes it of a public file without metadata, and a pipeline of it."""
    import comfy.sd
    from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel

    from fourreal.embedded.autoencoder import BlockAutoencoder
    from fourreal.embedded.text import build_text_encoder, build_tokenizer, caption_words
    from fourreal.video.pipeline import ViewTimePipeline
    from fourreal.video.wan_keys import comfy_key

    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=1,
        attention_head_dim=128,
        in_channels=channels,
        out_channels=channels,
        text_dim=4096,
        ffn_dim=128,
        num_layers=2,
    )
    tensors = {comfy_key(k): v.clone() for k, v in transformer.state_dict().items()}
    model = comfy.sd.load_diffusion_model_state_dict(
        tensors, model_options={"dtype": torch.float32}
    )
    latents = model.get_model_object("latent_format")
    autoencoder = BlockAutoencoder(
        z_dim=channels,
        latents_mean=tuple(latents.latents_mean.flatten().tolist()),
        latents_std=tuple(latents.latents_std.flatten().tolist()),
    )
    autoencoder.fit([torch.rand(40, 3, 9, 16, 16) * 2 - 1])
    tokenizer = build_tokenizer(caption_words())
    pipe = ViewTimePipeline(
        transformer.eval(),
        autoencoder,
        build_text_encoder(len(tokenizer), 4096),
        tokenizer,
        FlowMatchEulerDiscreteScheduler(shift=8.0),
    )
    pipe.set_progress_bar_config(disable=True)
    return model, pipe


@needs_comfyui
@torch.inference_mode()
@pytest.mark.parametrize(("channels", "conditioning"), [(16, "add"), (48, "replace")])
def test_wan_files_in_comfyuis_loader_sample_as_in_diffusers(nodes, channels, conditioning):
    """The layouts of Wan 2.1 and 2.2 without metadata, their latent formats and conditionings."""
    import comfy.sample
    import comfy.samplers

    model, pipe = untrained_wan(channels)
    assert pipe.config.conditioning == conditioning
    vae = importlib.import_module("fourreal_pack.nodes.embedded_models").EmbeddedVAE(pipe.vae)

    exact, noise = torch.rand(2, 5, 3, 32, 32), torch.randn(2, channels, 2, 4, 4)
    given = {"fixed_view": exact[0], "freeze_time": exact[:, 0]}
    expected = pipe(
        "a red ball",
        "a box",
        2,
        5,
        32,
        32,
        num_inference_steps=2,
        guidance_scale=4.0,
        latents=noise,
        output_type="latent",
        **given,
    ).frames
    latent = nodes.GridLatent.execute(
        2, 5, 32, 32, vae, **{name: images.movedim(1, -1) for name, images in given.items()}
    ).args[0]
    text = [[[pipe.encode_prompt(words), {}]] for words in ("a red ball", "a box")]
    patched = nodes.ApplyViewTimeAttention.execute(model, latent, 1.0).args[0]
    sampled = comfy.sample.sample_custom(
        patched,
        noise,
        4.0,
        comfy.samplers.sampler_object("euler"),
        pipe.scheduler.sigmas,
        *text,
        latent["samples"],
        noise_mask=latent["noise_mask"],
        disable_pbar=True,
    )
    seen = model.get_model_object("latent_format").process_in(sampled)
    torch.testing.assert_close(seen, expected, atol=1e-4, rtol=0)


@torch.inference_mode()
@one_conditioning
def test_cancel_stops_sampling_within_one_step_and_the_next_run_works(nodes, embedded, monkeypatch):
    import comfy.model_management as management

    model = embedded.model
    positive, negative = embedded.text()
    latent = nodes.GridLatent.execute(2, 5, 32, 32).args[0]
    steps_done, cancel_at = [], None
    stock = nodes.sampler_nodes.sampler_callback

    def watched(*args):
        callback = stock(*args)

        def watch(step, *rest):
            steps_done.append(step)
            if step == cancel_at:
                management.interrupt_current_processing(True)
            callback(step, *rest)

        return watch

    def sample():
        steps_done.clear()
        return nodes.ViewTimeSampler.execute(
            model, positive, negative, latent, 7, 4, 2.0, "euler", "simple", 1.0
        ).args[0]["samples"]

    monkeypatch.setattr(nodes.sampler_nodes, "sampler_callback", watched)
    whole = sample()
    assert steps_done == [0, 1, 2, 3]
    cancel_at = 1
    with pytest.raises(management.InterruptProcessingException):
        sample()
    assert steps_done == [0, 1]
    cancel_at = None
    assert torch.equal(sample(), whole)


@torch.inference_mode()
@one_conditioning
def test_the_preview_shows_the_mean_colour_of_every_cell(nodes, embedded):
    """Of a video that is smooth enough to be exact under the autoencoder."""
    model, vae = embedded.model, embedded.vae
    preview = nodes.progress.latent_preview
    generator = torch.Generator().manual_seed(3)
    latents = 0.1 * torch.randn(2, CHANNELS, 3, 4, 4, generator=generator)
    videos = vae.decode(latents)  # [V, T, H, W, 3]
    image = preview(latents, model.get_model_object("latent_format"))
    pixels = torch.from_numpy(np.array(image)).float() / 255
    factor = image.width // 12
    pixels = pixels[::factor, ::factor].unflatten(0, (2, 4)).unflatten(2, (3, 4))  # [V, h, F, w, 3]
    blocks = videos.unflatten(3, (4, 8)).unflatten(2, (4, 8)).mean(dim=(3, 5))  # [V, T, h, w, 3]
    first, rest = blocks[:, :1], blocks[:, 1:].unflatten(1, (2, 4)).mean(dim=2)
    expected = torch.cat([first, rest], dim=1).transpose(1, 2)
    torch.testing.assert_close(pixels, expected, atol=0.02, rtol=0)
