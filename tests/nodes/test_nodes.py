"""The nodes, called beside a real ComfyUI where COMFYUI_PATH is set to a checkout of one.

Else those tests that need no more than comfy_stand_in.py run on that.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fourreal.reconstruction import Reconstructor

from ..comfyui import CHANNELS, COMFYUI, ROOT, copy_pack, needs_comfyui


def test_the_library_and_the_pack_import_without_comfyui():
    """The pack's entrance may be imported by other tools; only its call needs ComfyUI."""
    code = (
        "import sys, importlib.util as u\n"
        "class Block:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('comfy', 'comfy_api', 'folder_paths'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import fourreal, fourreal.grid, fourreal.cameras, fourreal.gaussians, fourreal.weights\n"
        "import fourreal.attention, fourreal.reconstruction, fourreal.rendering\n"
        "heavy = {'diffusers', 'transformers', 'gsplat', 'flash_attn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        f"spec = u.spec_from_file_location('pack', {str(ROOT / '__init__.py')!r})\n"
        "module = u.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "assert callable(module.comfy_entrypoint)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_only_the_nodes_import_comfyui():
    for path in (ROOT / "fourreal").rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        wrong = [line for line in lines if line.startswith(("import comfy", "from comfy"))]
        assert not wrong, (path, wrong)


def test_node_files_are_plain_ascii():
    """ComfyUI on Windows may read them in another code page."""
    for path in [ROOT / "__init__.py", *(ROOT / "nodes").glob("*.py")]:
        assert path.read_bytes().isascii(), path


# ----- on a ComfyUI -----


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
    pack, weights, monkeypatch, given
):
    """As the diffusers pipeline does."""
    import comfy.sample

    nodes = sys.modules["fourreal_pack.nodes"]
    key = sys.modules["fourreal_pack.nodes.view_time"].KEY
    model, clip, vae, _ = nodes.LoadEmbeddedModels.execute().args
    prompt = "a red ball bouncing past a blue box"
    positive, negative = nodes.TextEncode.execute(clip, prompt, "").args
    pipe = diffusers_pipeline(weights)
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
def test_the_stock_ksampler_equals_the_diffusers_pipeline(pack, weights, monkeypatch):
    """Of ComfyUI, with euler, for all references, with and without guidance."""
    import comfy.sample

    from nodes import KSampler

    nodes = sys.modules["fourreal_pack.nodes"]
    model, clip, vae, _ = nodes.LoadEmbeddedModels.execute().args
    prompt, unwanted = "a red ball bouncing past a blue box", "a green box"
    positive, negative = nodes.TextEncode.execute(clip, prompt, unwanted).args
    pipe = diffusers_pipeline(weights)
    assert torch.equal(positive[0][0][0, -1], torch.zeros(128))
    torch.testing.assert_close(positive[0][0], pipe.encode_prompt(prompt), atol=1e-5, rtol=0)

    views, frames, height, width, steps, seed = 3, 5, 32, 48, 4, 7
    exact = torch.rand(views, frames, 3, height, width, generator=torch.Generator().manual_seed(1))
    use_noise_levels_of(model, pipe, steps, monkeypatch)
    for references in ((), ("fixed_view",), ("freeze_time",), ("fixed_view", "freeze_time")):
        given = {"fixed_view": exact[0], "freeze_time": exact[:, 0]}
        given = {name: given[name] for name in references}
        latent = nodes.GridLatent.execute(
            views,
            frames,
            width,
            height,
            vae,
            **{name: images.movedim(1, -1) for name, images in given.items()},
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
            difference = (sampled - expected).abs().max().item()
            assert difference < 1e-4, (references, guidance, difference)
            decoded = vae.decode(sampled).flatten(0, 1)
            frames_expected = pipe.decode_views(expected).flatten(0, 1).movedim(1, -1)
            torch.testing.assert_close(decoded, frames_expected, atol=1e-4, rtol=0)


@needs_comfyui
@torch.inference_mode()
@pytest.mark.parametrize("family", ["add", "replace"])
def test_wan_files_in_comfyuis_loader_sample_as_in_diffusers(pack, family, tmp_path):
    """The layouts of Wan 2.1 and 2.2 without metadata, their latent formats and conditionings."""
    import comfy.sample
    import comfy.samplers
    import comfy.sd
    from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel

    from fourreal.embedded.autoencoder import BlockAutoencoder
    from fourreal.embedded.text import build_text_encoder, build_tokenizer, caption_words
    from fourreal.video.pipeline import ViewTimePipeline
    from fourreal.video.wan_keys import comfy_key

    nodes = sys.modules["fourreal_pack.nodes"]
    channels = {"add": 16, "replace": 48}[family]
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
        conditioning=family,
        max_frames={"add": 21, "replace": 31}[family],
    )
    pipe.set_progress_bar_config(disable=True)
    vae = importlib.import_module("fourreal_pack.nodes.comfy_models").EmbeddedVAE(autoencoder)

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
    torch.testing.assert_close(latents.process_in(sampled), expected, atol=1e-4, rtol=0)


@needs_comfyui
@torch.inference_mode()
def test_without_view_strength_the_views_are_what_stock_sampling_gives(pack, weights):
    """And the patch leaves the MODEL that it was made from as it was."""
    import comfy.sample
    import comfy.samplers

    nodes = sys.modules["fourreal_pack.nodes"]
    model, clip, vae, _ = nodes.LoadEmbeddedModels.execute().args
    positive, negative = nodes.TextEncode.execute(clip, "a red ball", "").args
    noise = torch.randn(3, CHANNELS, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def sample(model, noise):
        return comfy.sample.sample_custom(
            model,
            noise,
            4.0,
            comfy.samplers.sampler_object("euler"),
            torch.tensor([1.0, 0.7, 0.0]),
            positive,
            negative,
            torch.zeros_like(noise),
            disable_pbar=True,
        )

    stock = torch.cat([sample(model, view) for view in noise.split(1)])
    one, three = (nodes.GridLatent.execute(v, 9, 32, 32, vae).args[0] for v in (1, 3))
    patched = nodes.ApplyViewTimeAttention.execute(model, one, 1.0).args[0]
    torch.testing.assert_close(sample(patched, noise[:1]), stock[:1], atol=1e-4, rtol=0)
    # Patched again, for another grid: the last one counts.
    patched = nodes.ApplyViewTimeAttention.execute(patched, three, 0.0).args[0]
    torch.testing.assert_close(sample(patched, noise), stock, atol=1e-4, rtol=0)
    coupled = nodes.ApplyViewTimeAttention.execute(patched, three, 1.0).args[0]
    assert (sample(coupled, noise) - stock).abs().max() > 1e-3
    assert torch.equal(sample(model, noise[:1]), stock[:1])


@torch.inference_mode()
@pytest.mark.parametrize("weights", ["replace"], indirect=True)
def test_wrong_input_is_refused_in_one_sentence(pack, weights):
    nodes = sys.modules["fourreal_pack.nodes"]
    model, clip, vae, reconstructor = nodes.LoadEmbeddedModels.execute().args
    image = torch.rand(5, 32, 32, 3)
    grid = nodes.GridLatent.execute(2, 5, 32, 32, vae, fixed_view=image).args[0]
    foreign = {**grid, "samples": torch.ones(2, 48, 2, 4, 4)}
    image_vae = SimpleNamespace(latent_dim=2)
    parts = {"latent_format": SimpleNamespace(latent_channels=16), "diffusion_model": None}
    stable_diffusion = SimpleNamespace(
        get_model_object=parts.get, get_attachment=lambda _: None, model=type("SD15", (), {})()
    )
    parts = parts | {"diffusion_model": SimpleNamespace(in_dim=36)}
    image_to_video = SimpleNamespace(get_model_object=parts.get)

    def patch(model, latent):
        return nodes.ApplyViewTimeAttention.execute(model, latent, 1.0)

    def sample(model, latent):
        return nodes.ViewTimeSampler.execute(
            model, [], [], latent, 0, 1, 1.0, "euler", "simple", 1.0
        )

    cases = [
        (lambda: nodes.TextEncode.execute(clip, "  ", ""), "prompt is empty"),
        (lambda: nodes.GridLatent.execute(2, 28, 32, 32), "use 25 or 29"),
        (lambda: nodes.GridLatent.execute(2, 5, 32, 100), "height is 100"),
        (lambda: nodes.GridLatent.execute(2, 9, 32, 32, vae, fixed_view=image), "9 frames"),
        (lambda: nodes.GridLatent.execute(2, 5, 32, 32, vae, freeze_time=image), "2 views"),
        (lambda: nodes.GridLatent.execute(2, 5, 32, 32, fixed_view=image), "connect the VAE"),
        (lambda: nodes.GridLatent.execute(2, 5, 32, 32, image_vae), "VAE is for images"),
        (lambda: patch(model, {"samples": torch.zeros(1, 4, 8, 8)}), "not a grid"),
        (lambda: patch(model, {**grid, "samples": grid["samples"][:1]}), "made with 2 x 2"),
        (lambda: patch(stable_diffusion, grid), "this MODEL is SD15, but"),
        (lambda: sample(stable_diffusion, grid), "this MODEL is SD15, but"),
        (lambda: patch(image_to_video, grid), "takes 36 channels, 16 of them latents"),
        (lambda: patch(model, foreign), "references have 48 latent channels"),
        (lambda: sample(model, {**foreign, "noise_mask": None}), "references have 48"),
        (lambda: nodes.PickView.execute(image, 2, 0), "5 images cannot be split into 2 views"),
        (lambda: nodes.PickView.execute(image, 5, 5), "views 0 to 4"),
        (lambda: nodes.PickTime.execute(image, 5, 1), "times 0 to 0"),
        (lambda: nodes.Reconstruct.execute(reconstructor, image, 2, 8.0), "cannot be split"),
        (
            lambda: nodes.Reconstruct.execute(
                reconstructor, image, 5, 8.0, extrinsics=torch.eye(4)[None]
            ),
            "connect both",
        ),
        (
            lambda: nodes.AssembleGrid.execute({"view0": image, "view1": image[:, :16]}),
            "5 frames of 32 x 16, 5 frames of 32 x 32",
        ),
        (lambda: nodes.AssembleGrid.execute({"view0": image, "view1": image[:3]}), "3 frames"),
    ]
    for call, words in cases:
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    for answer, words in (
        (nodes.GridLatent.validate_inputs(28), "use 25 or 29"),
        (nodes.TextEncode.validate_inputs(" "), "prompt is empty"),
        (nodes.RenderSplats.validate_inputs("blue"), "'blue'"),
    ):
        assert words in answer
    assert nodes.GridLatent.validate_inputs(29) is True
    assert nodes.GridLatent.validate_inputs(None) is True  # linked
    (weights / "reconstructor.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks reconstructor\.safetensors"):
        nodes.LoadEmbeddedModels.execute()


@needs_comfyui
@torch.inference_mode()
@pytest.mark.parametrize("weights", ["replace"], indirect=True)
def test_known_cells_stay_the_references_and_other_overrides_keep_their_calls(pack, weights):
    """With stock sampling, a latent format that is not the identity, and another pack's patch."""
    import comfy.latent_formats
    import comfy.sample

    nodes = sys.modules["fourreal_pack.nodes"]
    model, clip, vae, _ = nodes.LoadEmbeddedModels.execute().args
    model.model.latent_format = comfy.latent_formats.Wan21()
    positive, negative = nodes.TextEncode.execute(clip, "a red ball", "").args
    images = torch.rand(3, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    latent = nodes.GridLatent.execute(3, 9, 32, 32, vae, freeze_time=images).args[0]
    lengths = []

    def spy(function, q, k, v, *args, **options):
        lengths.append((q.shape[1], k.shape[1]))
        return function(q, k, v, *args, **options)

    other = model.clone()
    other.model_options["transformer_options"]["optimized_attention_override"] = spy
    patched = nodes.ApplyViewTimeAttention.execute(other, latent, 1.0).args[0]
    noise = comfy.sample.prepare_noise(latent["samples"], 0)
    out = comfy.sample.sample(
        patched,
        noise,
        2,
        1.0,
        "euler",
        "simple",
        positive,
        negative,
        latent["samples"],
        noise_mask=latent["noise_mask"],
        disable_pbar=True,
    )
    torch.testing.assert_close(out[:, :, 0], latent["samples"][:, :, 0], atol=1e-4, rtol=0)
    assert (out[:, :, 1:] - latent["samples"][:, :, 1:]).abs().mean() > 0.1
    # Two steps of two blocks, cross-attention only: 3 x 3 frames of 2 x 2 tokens, 32 words.
    assert lengths == [(36, 32)] * 4


@needs_comfyui
@torch.inference_mode()
@pytest.mark.parametrize("weights", ["replace"], indirect=True)
def test_a_lora_of_the_stock_loader_changes_the_grid_and_leaves_the_model(pack, weights):
    import comfy.sample
    import comfy.sd

    nodes = sys.modules["fourreal_pack.nodes"]
    model, clip, _, _ = nodes.LoadEmbeddedModels.execute().args
    positive, negative = nodes.TextEncode.execute(clip, "a red ball", "").args
    latent = nodes.GridLatent.execute(2, 5, 32, 32).args[0]  # no VAE: fitted by the sampler
    key = "diffusion_model.blocks.0.self_attn.q"
    generator = torch.Generator().manual_seed(0)
    lora = {
        f"{key}.lora_down.weight": torch.randn(4, 256, generator=generator) / 16,
        f"{key}.lora_up.weight": torch.randn(256, 4, generator=generator),
    }
    changed, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)

    def sample(model):
        return nodes.ViewTimeSampler.execute(
            model, positive, negative, latent, 7, 2, 2.0, "euler", "simple", 1.0
        ).args[0]["samples"]

    before, with_lora = sample(model), sample(changed)
    assert before.shape == (2, CHANNELS, 2, 4, 4)
    assert (with_lora - before).abs().max() > 1e-3
    assert torch.equal(sample(model), before)


@needs_comfyui
@torch.inference_mode()
@pytest.mark.parametrize("weights", ["replace"], indirect=True)
def test_easycache_and_fp8_weights_work_under_the_patch(pack, weights, monkeypatch):
    import comfy.sample
    import comfy.samplers
    from comfy_extras.nodes_easycache import EasyCacheHolder, EasyCacheNode

    nodes = sys.modules["fourreal_pack.nodes"]
    model, clip, _, _ = nodes.LoadEmbeddedModels.execute().args
    positive, negative = nodes.TextEncode.execute(clip, "a red ball", "").args
    latent = nodes.GridLatent.execute(2, 5, 32, 32).args[0]
    # It writes into its input, which in half precision is a copy and here is the sampler's own.
    stock = EasyCacheHolder.apply_cache_diff
    monkeypatch.setattr(
        EasyCacheHolder,
        "apply_cache_diff",
        lambda self, x, *rest, **options: stock(self, x.clone(), *rest, **options),
    )
    runs, cell = [], model.model.diffusion_model.patch_embedding
    cell.register_forward_hook(lambda *_: runs.append(1))

    def sample(model):
        runs.clear()
        noise = torch.randn(2, CHANNELS, 2, 4, 4, generator=torch.Generator().manual_seed(0))
        return comfy.sample.sample_custom(
            model,
            noise,
            2.0,
            comfy.samplers.sampler_object("euler"),
            torch.linspace(1, 0, 9),
            positive,
            negative,
            torch.zeros_like(noise),
            disable_pbar=True,
        )

    def patch(model, strength=0.0):
        return nodes.ApplyViewTimeAttention.execute(model, latent, strength).args[0]

    def cache(model):
        return EasyCacheNode.execute(model, 0.5, 0.15, 0.95, False).args[0]

    sample(patch(model))
    assert len(runs) == 8
    # Independent views are a batch of stock videos, and so is what EasyCache makes of them.
    expected = sample(cache(model))
    skipped_to = len(runs)
    for both in (patch(cache(model)), cache(patch(model))):
        torch.testing.assert_close(sample(both), expected, atol=1e-4, rtol=0)
        assert len(runs) == skipped_to < 8

    whole = sample(patch(model, 1.0))
    network = model.model.diffusion_model
    for layer in network.blocks[0].modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight.data = layer.weight.data.to(torch.float8_e4m3fn)
            layer.comfy_cast_weights = True
    small = sample(patch(model, 1.0))
    assert network.blocks[0].self_attn.q.weight.dtype == torch.float8_e4m3fn
    assert 1e-4 < (small - whole).abs().mean() < 0.1 * whole.abs().mean()


@torch.inference_mode()
@pytest.mark.parametrize("weights", ["replace"], indirect=True)
def test_cancel_stops_sampling_within_one_step_and_the_next_run_works(pack, weights, monkeypatch):
    import comfy.model_management as management

    nodes = sys.modules["fourreal_pack.nodes"]
    sampling = sys.modules["fourreal_pack.nodes.sampling"]
    model, clip, _, _ = nodes.LoadEmbeddedModels.execute().args
    positive, negative = nodes.TextEncode.execute(clip, "a red ball", "").args
    latent = nodes.GridLatent.execute(2, 5, 32, 32).args[0]
    steps_done, cancel_at = [], None
    stock = sampling.preview_callback

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

    monkeypatch.setattr(sampling, "preview_callback", watched)
    whole = sample()
    assert steps_done == [0, 1, 2, 3]
    cancel_at = 1
    with pytest.raises(management.InterruptProcessingException):
        sample()
    assert steps_done == [0, 1]
    cancel_at = None
    assert torch.equal(sample(), whole)


@needs_comfyui
@torch.inference_mode()
@pytest.mark.parametrize("weights", ["replace"], indirect=True)
def test_little_memory_offloads_layers_of_the_reconstructor_and_changes_nothing(
    pack, weights, monkeypatch
):
    import comfy.model_management as management

    nodes = sys.modules["fourreal_pack.nodes"]
    reconstructor = nodes.LoadEmbeddedModels.execute().args[3]
    frames = torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    whole = reconstructor(frames)
    layers = [m for m in reconstructor.patcher.model.modules() if hasattr(m, "comfy_cast_weights")]
    assert not any(m.comfy_cast_weights for m in layers)
    management.unload_all_models()

    # As on a GPU whose free memory holds the activations and a part of the weights.
    needed = reconstructor.memory_required(frames, None, None) + management.extra_reserved_memory()
    needed = max(needed, management.minimum_inference_memory())
    free = needed + reconstructor.patcher.model_size() // 2
    monkeypatch.setattr(management, "vram_state", management.VRAMState.NORMAL_VRAM)
    monkeypatch.setattr(management, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(management, "get_free_memory", lambda *_, **__: free)
    less = reconstructor(frames)
    offloaded = [m.comfy_cast_weights for m in layers]
    assert any(offloaded) and not all(offloaded)
    torch.testing.assert_close(less.depth, whole.depth)
    torch.testing.assert_close(less.extrinsics, whole.extrinsics)


@needs_comfyui
def test_a_scene_of_a_gigabyte_counts_as_one_in_the_cache(pack):
    from comfy_execution.caching import CacheKeySetID, RAMPressureCache

    from fourreal.gaussians import Gaussians

    count = 20_000_000
    large = Gaussians(*(torch.empty(count, *n) for n in ((3,), (4,), (3,), (), (1, 3))))
    eye = torch.eye(4)[None, :3]
    scene = sys.modules["fourreal_pack.nodes"].scene.CachedScene(
        Gaussians.empty(), [large], eye, eye[:, :, :3], 64, 64
    )
    cache = RAMPressureCache(CacheKeySetID)
    cache.cache["node"] = SimpleNamespace(outputs=[[scene]])
    cache.used_generation, cache.generation = {"node": 0}, 1
    cache.timestamps = {"node": 0}
    assert cache.ram_release(1 << 60) >= count * 14 * 4


@torch.inference_mode()
@pytest.mark.parametrize("weights", ["replace"], indirect=True)
def test_cancel_stops_a_reconstruction_and_the_next_one_works(pack, weights):
    import comfy.model_management as management

    nodes = sys.modules["fourreal_pack.nodes"]
    reconstructor = nodes.LoadEmbeddedModels.execute().args[3]
    images = torch.rand(2 * 5, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        nodes.Reconstruct.execute(reconstructor, images, 2, 8.0)
    scene, depth, extrinsics, intrinsics = nodes.Reconstruct.execute(
        reconstructor, images, 2, 8.0
    ).args
    assert depth.shape == (10, 64, 64, 3)
    assert extrinsics.shape == (2, 4, 4) and intrinsics.shape == (2, 3, 3)
    held = sum(tensor.nbytes for tensor in scene._comfy_cache_tensors())
    gaussians = len(scene.static) + sum(len(part) for part in scene.dynamic)
    assert gaussians and held == gaussians * (3 + 4 + 3 + 1 + 3) * 4


@torch.inference_mode()
@pytest.mark.parametrize("weights", ["replace"], indirect=True)
def test_the_preview_shows_the_mean_colour_of_every_cell(pack, weights):
    """Of a video that is smooth enough to be exact under the autoencoder."""
    nodes = sys.modules["fourreal_pack.nodes"]
    model, _, vae, _ = nodes.LoadEmbeddedModels.execute().args
    preview = sys.modules["fourreal_pack.nodes.sampling"].grid_preview
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


@needs_comfyui
@torch.inference_mode()
@pytest.mark.parametrize("view", [0, 1])
def test_core_renders_the_splat_of_a_scene_upright_and_in_the_same_place(pack, view):
    from comfy_extras.nodes_gaussian_splat import RenderSplat

    from fourreal.cameras import look_at, pixel_intrinsics
    from fourreal.gaussians import Gaussians, rgb_to_harmonics

    nodes = sys.modules["fourreal_pack.nodes"]
    colours = torch.eye(3)
    moving = Gaussians(
        torch.tensor([[-0.4, -0.5, 2.0], [0.5, 0.3, 3.0], [0.1, 0.4, 1.5]]),
        torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.9, 0.0, 0.0, 0.4], [0.8, 0.6, 0.0, 0.0]]),
        torch.tensor([[0.1, 0.05, 0.05]] * 3),
        torch.full((3,), 0.95),
        rgb_to_harmonics(colours),
    )
    intrinsics = pixel_intrinsics(torch.deg2rad(torch.tensor([60.0, 50.0])), 64, 64)
    eye, target, up = torch.tensor([[0.7, -0.4, -0.3], [0.1, 0.1, 2.0], [0.1, -1.0, 0.2]])
    extrinsics = torch.stack([torch.eye(4)[:3], look_at(eye, target, up)])
    scene = nodes.scene.CachedScene(Gaussians.empty(), [moving], extrinsics, intrinsics, 64, 64)
    camera = nodes.SceneCamera.execute(scene, view).args[0]
    path = nodes.CameraPathNode.execute(scene, "fixed_view", 1, 0, camera=camera).args[0]
    torch.testing.assert_close(path.extrinsics[0], extrinsics[view])
    torch.testing.assert_close(path.intrinsics[0], intrinsics[view])
    ours = nodes.RenderSplats.execute(scene, path, 0, 0, "#000000").args[0][0]
    again = nodes.RenderSplats.execute(
        nodes.SceneToSplat.execute(scene, -1).args[0], path, 0, 0, "#000000"
    ).args[0][0]
    assert torch.equal(again, ours)
    splat = nodes.SceneToSplat.execute(scene, -1).args[0]
    core = RenderSplat.execute(
        splat, 64, 64, 1, 1.0, 1.0, 0.0, 0.0, "color", "#000000", camera_info=camera
    ).args[0][0]
    position = torch.stack(torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij"))
    for channel in range(3):  # one Gaussian each
        centres = [
            (position * image[..., channel]).sum((1, 2)) / image[..., channel].sum()
            for image in (ours, core)
        ]
        # Core puts pixel centres at whole numbers (cx.round() with cx0 = width / 2), half a
        # pixel beside gsplat's and ours.
        assert (centres[1] - centres[0] - 0.5).abs().max() < 0.3, centres


def test_a_camera_path_follows_its_time_schedule_and_refuses_a_camera_it_cannot_use(pack):
    from fourreal.cameras import pixel_intrinsics
    from fourreal.gaussians import Gaussians

    nodes = sys.modules["fourreal_pack.nodes"]
    eye = torch.eye(4)[None, :3].repeat(2, 1, 1)
    intrinsics = pixel_intrinsics(torch.ones(2), 64, 64)
    scene = nodes.scene.CachedScene(
        Gaussians.empty(), [Gaussians.empty()] * 5, eye, intrinsics, 64, 64
    )
    camera = nodes.SceneCamera.execute(scene, 1).args[0]

    def times(*given) -> list[int]:
        return nodes.CameraPathNode.execute(scene, *given).args[0].times.tolist()

    assert times("fixed_view", 0, 0) == [0, 1, 2, 3, 4]
    assert times("freeze_time", 3, 2) == [2, 2, 2]
    assert times("inputs", 9, 0, "ping_pong") == [0, 1, 2, 3, 4, 3, 2, 1, 0]
    with pytest.raises(ValueError, match="choose fixed_view or disconnect"):
        times("orbit", 5, 0, "auto", camera)
    with pytest.raises(ValueError, match="only perspective"):
        times("fixed_view", 5, 0, "auto", camera | {"cameraType": "orthographic"})
    with pytest.raises(ValueError, match="views 0 to 1"):
        nodes.SceneCamera.execute(scene, 2)


def test_help_pages_and_the_english_locale_say_what_the_schemas_say(pack):
    nodes = sys.modules["fourreal_pack.nodes"].NODES
    locale = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    pages = {p.stem: p for p in (ROOT / "nodes" / "web" / "docs").glob("*.md")}
    assert {node.GET_SCHEMA().node_id for node in nodes} == locale.keys() == pages.keys()
    for node in nodes:
        schema = node.GET_SCHEMA()
        said, page = locale[schema.node_id], pages[schema.node_id].read_text(encoding="utf-8")
        assert (said["display_name"], said["description"]) == (
            schema.display_name,
            schema.description,
        )
        assert {k: v["tooltip"] for k, v in said.get("inputs", {}).items()} == {
            i.id: i.tooltip for i in schema.inputs
        }
        assert [v["tooltip"] for v in said["outputs"].values()] == [
            o.tooltip for o in schema.outputs
        ]
        for socket in (*schema.inputs, *schema.outputs):
            assert socket.tooltip in page, (schema.node_id, socket.tooltip)


@torch.inference_mode()
def test_a_reconstructor_file_is_loaded_with_its_licence_shown(pack, tmp_path, monkeypatch, caplog):
    import folder_paths
    from safetensors.torch import save_file

    from ..tiny import tiny_model

    nodes = sys.modules["fourreal_pack.nodes"]
    place = ([str(tmp_path)], folder_paths.supported_pt_extensions)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "geometry_estimation", place)
    model = tiny_model(temporal="none", gaussian_head="none")
    save_file(model.state_dict(), tmp_path / "tiny.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"no")
    options = nodes.LoadReconstructor.define_schema().inputs[0].options
    assert sorted(options) == ["damaged.safetensors", "tiny.safetensors"]

    # What the executor would give: the node's id, to show the licence under it.
    monkeypatch.setattr(nodes.LoadReconstructor, "hidden", SimpleNamespace(unique_id=None))
    load = nodes.LoadReconstructor.execute
    reconstructor, licence = load(file="tiny.safetensors", precision="float32").args
    assert "non-commercial" in licence and licence in caplog.text
    frames = torch.rand(2, 1, 3, 56, 56)
    expected = Reconstructor(model)(frames)
    torch.testing.assert_close(reconstructor(frames).depth, expected.depth)
    with pytest.raises(ValueError, match="not a complete"):
        load(file="damaged.safetensors", precision="auto")
    before = nodes.LoadReconstructor.fingerprint_inputs(file="tiny.safetensors")
    os.utime(tmp_path / "tiny.safetensors", (1, 1))
    assert nodes.LoadReconstructor.fingerprint_inputs(file="tiny.safetensors") != before


@torch.inference_mode()
def test_the_example_scene_is_the_drawn_one_with_its_cameras(pack):
    from fourreal.scenes import make_scene

    nodes = sys.modules["fourreal_pack.nodes"]
    images, caption, extrinsics, intrinsics = nodes.ExampleScene.execute(0, 3, 5, 48, 32).args
    assert images.shape == (15, 32, 48, 3) and images.min() >= 0 and images.max() <= 1
    assert caption
    torch.testing.assert_close(extrinsics[0], torch.eye(4), atol=1e-5, rtol=0)
    assert intrinsics.shape == (3, 3, 3) and intrinsics[0, 0, 2] == 24
    # The test split, which begins at 2 * 2^32.
    exact = make_scene(2 * 2**32, 3, 5, 32, 48).frames
    assert torch.equal(images[1], exact[0, 1].movedim(0, -1))


@needs_comfyui
def test_the_pack_finds_its_library_when_it_is_not_installed(tmp_path):
    """As after a git clone into custom_nodes, under any folder name, with none of the optional
    packages; it is quick, and says nothing."""
    copy_pack(tmp_path / "4real-renamed.1")
    code = (
        "import sys, time, warnings, logging, asyncio, importlib.util as u\n"
        f"sys.path[:] = [{COMFYUI!r}] + [p for p in sys.path if p not in ('', {str(ROOT)!r})]\n"
        "sys.meta_path[:] = [m for m in sys.meta_path if '__editable__' not in repr(m)]\n"
        "assert u.find_spec('fourreal') is None\n"
        "from comfy.cli_args import args; args.cpu = True\n"
        "import nodes, comfy_api.latest\n"
        "class Block:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('gsplat', 'flash_attn', 'peft', 'accelerate'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "said = []\n"
        "warnings.simplefilter('error')\n"
        "logging.getLogger().addFilter(lambda record: said.append(record) or True)\n"
        f"folder = {str(tmp_path / '4real-renamed.1')!r}\n"
        "before, start = set(sys.modules), time.process_time()\n"
        "spec = u.spec_from_file_location('p_x_', folder + '/__init__.py', "
        "submodule_search_locations=[folder])\n"
        "sys.modules['p_x_'] = module = u.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "extension = asyncio.run(module.comfy_entrypoint())\n"
        "found = asyncio.run(extension.get_node_list())\n"
        "schemas = [node.GET_SCHEMA() for node in found]\n"
        "seconds = time.process_time() - start\n"
        "assert seconds < 0.3, seconds\n"
        "assert not said, said\n"
        "assert all(s.description and s.category == '4Real' for s in schemas)\n"
        "assert all(s.search_aliases for s in schemas)\n"
        "assert all(i.tooltip for s in schemas for i in (*s.inputs, *s.outputs))\n"
        "import fourreal\n"
        "assert fourreal.__file__.startswith(folder), fourreal.__file__\n"
        "heavy = {'diffusers', 'transformers', 'gsplat', 'flash_attn'}\n"
        "heavy &= set(sys.modules) - before\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
