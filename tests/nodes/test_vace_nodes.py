"""Grid VACE: what it shows to ComfyUI's own VACE network, and the embedded VACE.

On the stand-in, and beside a real ComfyUI where COMFYUI_PATH is set to a checkout of one.
"""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from fourreal.embedded.text import build_text_encoder, build_tokenizer, caption_words
from fourreal.video.wan_files import load_transformer, save_transformer
from fourreal.video.wan_keys import comfy_key

from ..comfyui import needs_comfyui, one_conditioning
from ..tiny import PROMPT, tiny_pipeline, tiny_vace, tiny_vae
from .test_sampling import use_noise_levels_of
from .vace_models import TEXT, comfy_vace, sample


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


def vace_file(folder):
    """A small VACE transformer in the layout of the public files, which core knows the sizes of."""
    torch.manual_seed(0)
    network = type(tiny_vace())(
        num_attention_heads=1,
        attention_head_dim=128,
        text_dim=4096,
        ffn_dim=128,
        num_layers=4,
        vace_layers=[0, 2],
    )
    tensors = {comfy_key(k): v.contiguous() for k, v in network.state_dict().items()}
    save_file(tensors, folder / "wan2.1_vace_fp32.safetensors")
    return folder / "wan2.1_vace_fp32.safetensors"


@needs_comfyui
@torch.inference_mode()
@pytest.mark.parametrize("with_reference", [False, True])
def test_stock_nodes_give_the_frames_of_the_pipeline(nodes, monkeypatch, tmp_path, with_reference):
    """Grid VACE, then core's KSampler, TrimVideoLatent and VAE Decode, against diffusers' parts;
    each reads the same single file."""
    import comfy.sample
    import comfy.sd
    from comfy_extras.nodes_wan import TrimVideoLatent

    from nodes import KSampler

    file, autoencoder, tokenizer = vace_file(tmp_path), tiny_vae(), caption_words()
    tokenizer = build_tokenizer(tokenizer)
    pipe = tiny_pipeline(
        transformer=load_transformer(file)[0],
        vae=autoencoder,
        tokenizer=tokenizer,
        text_encoder=build_text_encoder(len(tokenizer), 4096).eval(),
        max_frames=21,
    )
    model = comfy.sd.load_diffusion_model(str(file), model_options={"dtype": torch.float32})
    vae = comfy_vae(autoencoder)
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


@torch.inference_mode()
@one_conditioning
@pytest.mark.parametrize("steps", [1, 4], ids=["the views", "a clip through the views"])
def test_a_first_time_that_was_made_before_is_known_in_all_views(nodes, embedded, steps):
    images, mask = seen(3)
    clip = torch.rand(2 * steps + 1, 32, 32, 3, generator=torch.Generator().manual_seed(8))

    def shown(images, mask, **given):
        texts = [[TEXT[0]], [TEXT[1]]]
        values = nodes.GridVACE.execute(*texts, embedded.vae, images, 3, mask, 1.0, **given).args
        return values[0][0][1]["vace_frames"][0], values[0][0][1]["vace_mask"][0]

    column = images.unflatten(0, (3, 5)).clone()
    holes = mask.unflatten(0, (3, 5)).clone()
    column[:, 0], holes[:, 0] = clip[::steps], 0
    expected = shown(column.flatten(0, 1), holes.flatten(0, 1))
    for ours, theirs in zip(shown(images, mask, freeze_time=clip), expected):
        assert torch.equal(ours, theirs)


@torch.inference_mode()
def test_the_embedded_vace_is_a_model_for_grid_vace(nodes, weights, monkeypatch):
    """In the file that load_transformer reads, with what it notes about itself."""
    load, path = nodes.LoadEmbeddedModels.execute, weights / "vace.safetensors"
    path.unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"lacks vace\.safetensors; install the pack again"):
        load("VACE")
    base, _ = load_transformer(weights / "transformer.safetensors", torch.float32)
    sizes = dict(base.config) | {"vace_layers": [0, 1], "vace_in_channels": 96}
    torch.manual_seed(0)
    network = type(tiny_vace()).from_config(sizes)
    noted = {"conditioning": "mask", "max_frames": 8, "shift": 3.0, "max_tokens": 32}
    save_transformer(path, network.state_dict(), network.config, noted)
    model, clip, vae, _ = load("VACE").args
    assert nodes.view_time.conventions_of(model).items() >= noted.items()
    texts = nodes.TextEncode.execute(clip, "a red ball", "").args
    positive, negative, latent, _ = nodes.GridVACE.execute(*texts, vae, *GRID, 1.0).args
    made = [
        nodes.ViewTimeSampler.execute(
            model, positive, negative, latent, 0, 2, 1.0, "euler", "simple", strength
        ).args[0]["samples"]
        for strength in (0.0, 1.0)
    ]
    assert made[0].isfinite().all() and (made[0] - made[1]).abs().max() > 1e-4
    again, _ = load_transformer(path, torch.float32)
    own = model.model.diffusion_model.vace_blocks[1].after_proj.weight
    assert torch.equal(again.vace_blocks[1].proj_out.weight, own)
    save_transformer(path, network.state_dict(), sizes | {"vace_layers": [0, 2]}, noted)
    with pytest.raises(ValueError, match=r"at the layers \[0, 2\], but they must be at equal"):
        load("VACE")


VAE_OF_THE_5B = SimpleNamespace(latent_dim=3, latent_channels=48)
IMAGE_VAE = SimpleNamespace(latent_dim=2, latent_channels=16)
IMAGES, MASK = seen()
GRID = IMAGES, 2, MASK


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
        ({"freeze_time": IMAGES[:1]}, "freeze_time has 1 images of 32 x 32 pixels, but needs 2"),
        ({"freeze_time": IMAGES[:2, :16]}, "has 2 images of 32 x 16 pixels"),
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
        "but the LATENT has 3 views of 2 latent frames of 4 x 4": lambda: sampled(
            vace, {"samples": torch.zeros(3, 16, 2, 4, 4)}
        ),
        "but the LATENT has 2 views of 2 latent frames of 4 x 6": lambda: sampled(
            vace, {"samples": torch.zeros(2, 16, 2, 6, 4)}
        ),
        "shows 2 views of 2 latent frames of 4 x 4, but the LATENT has 2 views of 3": lambda: (
            sample(
                nodes.ApplyViewTimeAttention.execute(
                    vace, {"samples": torch.zeros(2, 16, 3, 4, 4)}, 1.0
                ).args[0],
                torch.zeros(2, 16, 3, 4, 4),
                (positive, negative),
            )
        ),
    }
    for words, call in wrong.items():
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
