"""Grids with holes on ComfyUI's own VACE network: Grid VACE, and the patch with a control.

On the stand-in, and beside a real ComfyUI where COMFYUI_PATH is set to a checkout of one.
"""

import importlib
from types import SimpleNamespace

import pytest
import torch

from ..comfyui import needs_comfyui, one_conditioning
from ..tiny import PROMPT, tiny_pipeline, tiny_vace, tiny_vae
from .test_sampling import use_noise_levels_of

TEXT = [[torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(n)), {}] for n in (1, 2)]
NOISE = torch.randn(3, 16, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def comfy_vace(transformer):
    """A MODEL as core's loader makes it of a file with these weights."""
    from fourreal.video.wan_keys import comfy_key

    config: dict = dict(transformer.config)
    supported = importlib.import_module("comfy.supported_models").WAN21_Vace(
        {
            "image_model": "wan2.1",
            "model_type": "vace",
            "patch_size": (1, 2, 2),
            "in_dim": config["in_channels"],
            "out_dim": config["out_channels"],
            "dim": config["num_attention_heads"] * config["attention_head_dim"],
            "num_heads": config["num_attention_heads"],
            "num_layers": config["num_layers"],
            "ffn_dim": config["ffn_dim"],
            "freq_dim": config["freq_dim"],
            "text_dim": config["text_dim"],
            "eps": config["eps"],
            "vace_layers": len(config["vace_layers"]),
            "vace_in_dim": config["vace_in_channels"],
        }
    )
    supported.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    model = supported.get_model({}, "", device=cpu)
    tensors = {comfy_key(k): v.clone() for k, v in transformer.state_dict().items()}
    model.diffusion_model.load_state_dict(tensors)
    return importlib.import_module("comfy.model_patcher").CoreModelPatcher(model, cpu, cpu)


def controlled(contexts: int, frames: int, views: slice = slice(None)) -> list:
    """positive and negative of 3 views that are shown several videos, or of some of the views."""
    generator = torch.Generator().manual_seed(5)
    shown = [torch.randn(3, 32, frames, 4, 4, generator=generator) for _ in range(contexts)]
    masks = [torch.rand(3, 64, frames, 4, 4, generator=generator) for _ in range(contexts)]
    values = {
        "vace_frames": [part[views] for part in shown],
        "vace_mask": [part[views] for part in masks],
        "vace_strength": [1.0, 0.6][:contexts],
    }
    return [[[text, values]] for text, _ in TEXT]


def sample(model, noise, texts, cfg=3.0):
    import comfy.sample

    return comfy.sample.sample(
        model, noise, 2, cfg, "euler", "simple", *texts, torch.zeros_like(noise), disable_pbar=True
    )


@torch.inference_mode()
@pytest.mark.parametrize("contexts", [1, 2])
@pytest.mark.parametrize("frames", [2, 3], ids=["no reference", "a reference"])
def test_without_view_strength_the_views_are_what_stock_sampling_gives(nodes, contexts, frames):
    """A reference image is one latent frame more, for the patch as for the network."""
    model = comfy_vace(tiny_vace())
    noise = torch.randn(3, 16, frames, 4, 4, generator=torch.Generator().manual_seed(0))
    stock = torch.cat(
        [
            sample(model, noise[v : v + 1], controlled(contexts, frames, slice(v, v + 1)))
            for v in range(3)
        ]
    )

    def patched(views, strength):
        latent = {"samples": torch.zeros(views, 16, frames, 4, 4), nodes.types.CONTROLLED: True}
        return nodes.ApplyViewTimeAttention.execute(model, latent, strength).args[0]

    one = sample(patched(1, 1.0), noise[:1], controlled(contexts, frames, slice(1)))
    torch.testing.assert_close(one, stock[:1], atol=1e-4, rtol=0)
    texts = controlled(contexts, frames)
    torch.testing.assert_close(sample(patched(3, 0.0), noise, texts), stock, atol=1e-4, rtol=0)
    coupled = sample(patched(3, 1.0), noise, texts)
    assert (coupled - stock).abs().max() > 1e-3


@torch.inference_mode()
@pytest.mark.parametrize("words", [9, 24], ids=["fewer words", "as many words as tokens"])
def test_other_overrides_keep_the_calls_of_cross_attention(nodes, words):
    """Of main and VACE blocks, even where the text has as many tokens as the grid."""
    model = comfy_vace(tiny_vace())
    lengths = []

    def spy(function, q, k, v, *args, **options):
        lengths.append((q.shape[1], k.shape[1]))
        return function(q, k, v, *args, **options)

    text = torch.randn(1, words, 32, generator=torch.Generator().manual_seed(4))
    texts = [[[text, values]] for ((_, values),) in controlled(2, 2)]
    results = []
    for strength, override in ((1.0, None), (1.0, spy), (0.0, spy)):
        other = model.clone()
        if override is not None:
            other.model_options["transformer_options"]["optimized_attention_override"] = override
        latent = {"samples": torch.zeros_like(NOISE)}
        patched = nodes.ApplyViewTimeAttention.execute(other, latent, strength).args[0]
        results.append(sample(patched, NOISE, texts, cfg=1.0))
    # Two runs of two steps: four main blocks, and two VACE blocks for each of two contexts.
    assert lengths == [(24, words)] * 2 * 2 * (4 + 2 * 2)
    assert torch.equal(results[0], results[1])
    assert (results[0] - results[2]).abs().max() > 1e-4


@torch.inference_mode()
def test_a_model_that_is_shown_nothing_is_refused_references_of_grid_latent(nodes):
    model = comfy_vace(tiny_vace())
    conventions = nodes.view_time.conventions_of(model)
    assert (conventions["conditioning"], conventions["max_frames"]) == ("mask", 21)
    known = torch.tensor([[True, False]] * 3)
    with pytest.raises(ValueError, match="connect Grid VACE in the place of Grid Latent"):
        nodes.ApplyViewTimeAttention.execute(
            model, {"samples": torch.zeros_like(NOISE), nodes.types.KNOWN: known}, 1.0
        )


def seen(num_views: int = 2, num_frames: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """An IMAGE grid and a MASK grid with a hole in all views but the first."""
    generator = torch.Generator().manual_seed(5)
    images = torch.rand(num_views * num_frames, 32, 32, 3, generator=generator)
    mask = torch.zeros(num_views, num_frames, 32, 32)
    for time in range(num_frames):
        mask[1:, time, 5 + time : 21, 3:19] = 1
    return images, mask.flatten(0, 1)


def comfy_vae(autoencoder):
    """core's VAE of a file of the Wan 2.1 VAE with these weights."""
    import comfy.sd

    from fourreal.video.wan_keys import vae_to_diffusers

    from ..tiny import key_list

    names = vae_to_diffusers({key: key for key in key_list("wan2.1_vae")})
    tensors = autoencoder.state_dict()
    return comfy.sd.VAE(sd={key: tensors[name] for name, key in names.items()}, dtype=torch.float32)


@needs_comfyui
@torch.inference_mode()
@pytest.mark.parametrize("with_reference", [False, True])
def test_stock_nodes_give_the_frames_of_the_pipeline(nodes, monkeypatch, with_reference):
    """Grid VACE, then core's KSampler, TrimVideoLatent and VAE Decode, against diffusers' parts."""
    import comfy.sample
    from comfy_extras.nodes_wan import TrimVideoLatent

    from nodes import KSampler

    autoencoder = tiny_vae()
    pipe = tiny_pipeline(transformer=tiny_vace(), vae=autoencoder, max_frames=21)
    model, vae = comfy_vace(pipe.transformer), comfy_vae(autoencoder)
    texts = [[[pipe.encode_prompt(words), {}]] for words in (PROMPT, "")]
    images, mask = seen()
    reference = torch.rand(1, 24, 16, 3, generator=torch.Generator().manual_seed(6))
    reference = reference if with_reference else None
    positive, negative, latent, trim = nodes.GridVACE.execute(
        *texts, vae, images, 2, mask, 0.8, reference
    ).args
    assert trim == int(with_reference)
    patched = nodes.ApplyViewTimeAttention.execute(model, latent, 1.0).args[0]
    use_noise_levels_of(patched, pipe, 3, monkeypatch)
    (out,) = KSampler().sample(patched, 7, 3, 3.0, "euler", "simple", positive, negative, latent)
    out = TrimVideoLatent.execute(out, trim).args[0]
    frames = vae.decode(out["samples"]).flatten(0, 1)
    expected = pipe(
        PROMPT,
        "",
        2,
        5,
        32,
        32,
        video=nodes.vace_nodes.images_to_frames(images, 2),
        mask=mask.unflatten(0, (2, 5))[:, :, None],
        reference_images=[reference[0].movedim(-1, 0)] if with_reference else [],
        conditioning_scale=0.8,
        num_inference_steps=3,
        guidance_scale=3.0,
        latents=comfy.sample.prepare_noise(latent["samples"], 7),
    ).frames
    torch.testing.assert_close(frames, expected.flatten(0, 1).movedim(1, -1), atol=1e-3, rtol=0)


@needs_comfyui
@torch.inference_mode()
@pytest.mark.parametrize("with_reference", [False, True])
def test_one_view_is_shown_what_cores_own_node_shows(nodes, with_reference):
    from comfy_extras.nodes_wan import WanVaceToVideo

    vae, (images, mask) = comfy_vae(tiny_vae()), seen(2, 5)
    images, mask = images[5:], mask[5:]  # the view with a hole
    reference = torch.rand(1, 32, 32, 3) if with_reference else None
    texts = [[TEXT[0]], [TEXT[1]]]
    ours = nodes.GridVACE.execute(*texts, vae, images, 1, mask, 0.8, reference).args
    stock = WanVaceToVideo.execute(*texts, vae, 32, 32, 5, 1, 0.8, images, mask, reference).args
    assert ours[3] == stock[3] and ours[2]["samples"].shape == stock[2]["samples"].shape
    for own, theirs in zip(ours[:2], stock[:2]):
        given, expected = own[0][1], theirs[0][1]
        assert given["vace_strength"] == expected["vace_strength"] == [0.8]
        for name in ("vace_frames", "vace_mask"):
            torch.testing.assert_close(given[name], expected[name], atol=1e-5, rtol=0)


@torch.inference_mode()
@one_conditioning
def test_a_second_grid_vace_shows_a_second_video(nodes, embedded):
    images, mask = seen()
    texts = [[TEXT[0]], [TEXT[1]]]
    for contexts in (1, 2):
        positive, negative, latent, trim = nodes.GridVACE.execute(
            *texts, embedded.vae, images, 2, mask, 1.0
        ).args
        texts = positive, negative
        for text in texts:
            assert [part.shape for part in text[0][1]["vace_frames"]] == [
                (2, 32, 2, 4, 4)
            ] * contexts
            assert text[0][1]["vace_strength"] == [1.0] * contexts
    assert latent["samples"].shape == (2, 16, 2, 4, 4) and trim == 0
    model = comfy_vace(tiny_vace())
    out = nodes.ViewTimeSampler.execute(
        model, positive, negative, latent, 0, 2, 3.0, "euler", "simple", 1.0
    ).args[0]
    assert out["samples"].isfinite().all() and out["samples"].std() > 0.1


@needs_comfyui
@torch.inference_mode()
def test_two_vace_models_take_turns_in_two_stages(nodes):
    """As with the two of Wan 2.2 VACE-Fun A14B: each is patched, and strength 0 stays stock."""
    import comfy.sample
    import comfy.samplers

    high, low = comfy_vace(tiny_vace()), comfy_vace(tiny_vace(head_size=48))
    sigmas = torch.tensor([1.0, 0.9, 0.5, 0.0])

    def in_two_stages(models, noise, texts):
        latents = torch.zeros_like(noise)
        for model, part in zip(models, (sigmas[:3], sigmas[2:])):
            latents = comfy.sample.sample_custom(
                model,
                noise if model is models[0] else torch.zeros_like(noise),
                3.0,
                comfy.samplers.sampler_object("euler"),
                part,
                *texts,
                latents,
                disable_pbar=True,
            )
        return latents

    latent = {"samples": torch.zeros_like(NOISE), nodes.types.CONTROLLED: True}
    patched = [nodes.ApplyViewTimeAttention.execute(m, latent, 0.0).args[0] for m in (high, low)]
    stock = [
        in_two_stages((high, low), NOISE[v : v + 1], controlled(1, 2, slice(v, v + 1)))
        for v in range(3)
    ]
    together = in_two_stages(patched, NOISE, controlled(1, 2))
    torch.testing.assert_close(together, torch.cat(stock), atol=1e-4, rtol=0)


VAE_OF_THE_5B = SimpleNamespace(latent_dim=3, latent_channels=48)
IMAGE_VAE = SimpleNamespace(latent_dim=2, latent_channels=16)
IMAGES, MASK = seen()


@torch.inference_mode()
@one_conditioning
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mask": MASK[:, :16]}, "the mask is 10 x 16 x 32, but the 10 images of 32 x 32 pixels"),
        ({"mask": MASK[:5]}, "the mask is 5 x 32 x 32"),
        ({"num_views": 3}, "10 images cannot be split into 3 views"),
        ({"num_views": 5}, "num_frames is 2, but .* use 1 or 5"),
        ({"images": IMAGES[:, :24], "mask": MASK[:, :24]}, "height is 24"),
        ({"images": IMAGES * torch.nan}, "hold NaN or infinity"),
        ({"vae": VAE_OF_THE_5B}, "this VAE has 48 channels, but Wan VACE models need the Wan 2.1"),
        ({"vae": IMAGE_VAE}, "this VAE is for images"),
    ],
)
def test_grid_vace_refuses_wrong_input_in_one_sentence(nodes, embedded, change, words):
    given = {
        "positive": [],
        "negative": [],
        "vae": embedded.vae,
        "images": IMAGES,
        "num_views": 2,
        "mask": MASK,
        "strength": 1.0,
    }
    with pytest.raises(ValueError, match=words) as caught:
        nodes.GridVACE.execute(**(given | change))
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


@torch.inference_mode()
@one_conditioning
def test_what_grid_vace_shows_goes_to_vace_models_only(nodes, embedded):
    positive, negative, latent, _ = nodes.GridVACE.execute(
        [TEXT[0]], [TEXT[1]], embedded.vae, IMAGES, 2, MASK, 1.0
    ).args
    plain = {"samples": latent["samples"]}

    def sampled(model, given):
        nodes.ViewTimeSampler.execute(
            model, positive, negative, given, 0, 1, 1.0, "euler", "simple", 1.0
        )

    vace = comfy_vace(tiny_vace())
    wrong = {
        "this LATENT shows a video to a VACE model, which this MODEL is not": lambda: (
            nodes.ApplyViewTimeAttention.execute(embedded.model, latent, 1.0)
        ),
        "this CONDITIONING shows a video": lambda: sampled(embedded.model, plain),
        "shows 2 views of 2 latent frames, but this LATENT has 3 x 2": lambda: sampled(
            vace, {"samples": torch.zeros(3, 16, 2, 4, 4)}
        ),
        "the control has 2 latent frames, but this grid has 3": lambda: sample(
            nodes.ApplyViewTimeAttention.execute(
                vace, {"samples": torch.zeros(2, 16, 3, 4, 4)}, 1.0
            ).args[0],
            torch.zeros(2, 16, 3, 4, 4),
            (positive, negative),
        ),
    }
    for words, call in wrong.items():
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
