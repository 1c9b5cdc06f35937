"""VACE with views, against diffusers' own VACE transformer and pipeline."""

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanVACEPipeline
from PIL import Image
from safetensors.torch import save_file

from fourreal.video import apply_view_time, vace
from fourreal.video.vace import vace_control

from ..tiny import PROMPT, sample_grid, tiny_pipeline, tiny_vace, tiny_vae


def model_args(frames: int) -> dict:
    generator = torch.Generator().manual_seed(3)
    return {
        "hidden_states": torch.randn(1, 16, frames, 4, 4, generator=generator),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 7, 32, generator=generator),
        "control_hidden_states": torch.randn(1, 96, frames, 4, 4, generator=generator),
        "control_hidden_states_scale": torch.tensor([1.0, 0.7]),
    }


def seen(num_views: int = 2, num_frames: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """A video [V, T, 3, 32, 32] and a mask with a hole that moves; view 0 is known."""
    video = torch.rand(num_views, num_frames, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    mask = torch.zeros(num_views, num_frames, 1, 32, 32)
    for view in range(1, num_views):
        for time in range(num_frames):
            mask[view, time, :, 5 + time : 21, 3 * view : 19] = 1
    return video, mask


def test_one_view_equals_the_stock_model_and_keys_stay():
    model, args = tiny_vace(), model_args(5)
    keys = list(model.state_dict())
    with torch.no_grad():
        stock = model(**args).sample
        apply_view_time(model, 1, 5, max_frames=8)
        assert (model(**args).sample - stock).abs().max() <= 1e-5
        assert list(model.state_dict()) == keys
        apply_view_time(model, 4, 5, max_frames=8)
        apply_view_time(model, None)
        assert torch.equal(model(**args).sample, stock)


def test_strength_zero_equals_independent_stock_runs():
    model, args = tiny_vace(), model_args(6)
    folded = ("hidden_states", "control_hidden_states")
    with torch.no_grad():
        apply_view_time(model, 3, 2, max_frames=8, view_strength=0.0)
        together = model(**args).sample
        apply_view_time(model, 3, 2, max_frames=8)
        assert (model(**args).sample - together).abs().max() > 1e-3
        apply_view_time(model, None)
        alone = []
        for view in range(3):
            own = {name: args[name].chunk(3, dim=2)[view] for name in folded}
            alone.append(model(**(args | own)).sample)
    assert (together - torch.cat(alone, 2)).abs().max() < 1e-4


def test_other_architectures_are_refused():
    with pytest.raises(ValueError, match="parallel-soft is not made for VACE transformers"):
        apply_view_time(tiny_vace(), 2, 2, architecture="parallel-soft")


def stock_pipeline(pipe) -> WanVACEPipeline:
    """diffusers' pipeline of the same parts."""
    scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    parts = {"vae": pipe.vae, "scheduler": scheduler, "transformer": pipe.transformer}
    stock = WanVACEPipeline(tokenizer=pipe.tokenizer, text_encoder=pipe.text_encoder, **parts)
    stock.set_progress_bar_config(disable=True)
    return stock


def picture(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("with_reference", [False, True])
def test_one_view_gives_the_latents_of_diffusers_pipeline(guidance_scale, with_reference):
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    pipe = tiny_pipeline(transformer=tiny_vace(), scheduler=scheduler)
    video, mask = (part[1:] for part in seen(2, 9))
    noise = torch.randn(1, 16, 3 + with_reference, 4, 4)
    with torch.no_grad():
        text, negative = pipe.encode_prompt(PROMPT), pipe.encode_prompt("")
    options = {
        "num_frames": 9,
        "guidance_scale": guidance_scale,
        "num_inference_steps": 3,
        "output_type": "latent",
        "prompt": None,
        "prompt_embeds": text,
        "negative_prompt_embeds": negative,
        "latents": noise,
        "conditioning_scale": [1.0, 0.6],
    }
    image = picture(24, 16) if with_reference else None
    with torch.no_grad():
        stock = stock_pipeline(pipe)(
            **options,
            height=32,
            width=32,
            video=video.clone(),
            mask=mask.expand(-1, -1, 3, -1, -1).clone(),
            reference_images=image,
        ).frames
    images = [torch.from_numpy(np.array(image) / 255).permute(2, 0, 1).float()] if image else []
    ours = sample_grid(
        pipe, num_views=1, video=video, mask=mask, reference_images=images, **options
    )
    assert (ours - stock[:, :, len(images) :]).abs().max() < 1e-4


def test_views_are_shown_each_its_own_control():
    vae, (video, mask) = tiny_vae(), seen(3, 5)
    reference = torch.rand(3, 16, 32)
    with torch.no_grad():
        control = vace_control(vae, video, mask, [reference])
        assert control.shape == (3, 96, 3, 4, 4)
        for view in range(3):
            own = slice(view, view + 1)
            alone = vace_control(vae, video[own], mask[own], [reference])
            assert torch.allclose(control[own], alone, atol=1e-5)
    # Known pixels are in the first latents alone, missing ones in the second alone.
    changed = torch.where(mask > 0.5, 1 - video, video)
    with torch.no_grad():
        differs = (vace_control(vae, changed, mask) != control[:, :, 1:]).flatten(2).any(2)
    assert not differs[:, :16].any() and differs[1:, 16:32].any() and not differs[:, 32:].any()


def test_the_default_generates_everywhere_and_references_of_the_grid_are_known(monkeypatch):
    pipe = tiny_pipeline(transformer=tiny_vace())
    shown = []
    forward = pipe.transformer.forward

    def keep(*args, **options):
        shown.append((args, options["control_hidden_states"]))
        return forward(*args, **options)

    monkeypatch.setattr(pipe.transformer, "forward", keep)
    row, column = torch.rand(5, 3, 32, 32), torch.rand(3, 3, 32, 32)
    column[0] = row[0]
    options = {"num_views": 3, "guidance_scale": 1.0, "num_inference_steps": 1}
    sample_grid(pipe, **options)
    assert (shown[-1][1][:, 32:] == 1).all()
    frames = sample_grid(pipe, fixed_view=row, freeze_time=column, **options)
    args, control = shown[-1]
    assert args[1].shape == (1,)  # all at one noise level
    views = control[0].unflatten(1, (3, 2)).movedim(0, 1)  # [V, 96, F, h, w]
    assert (views[0, 32:] == 0).all() and (views[1:, 32:, 1] == 1).all()
    with torch.no_grad():
        assert torch.allclose(views[:1, :16], pipe.encode_views(row[None]), atol=1e-5)
        first = pipe.encode_views(column[:, None])
    assert torch.allclose(views[:, :16, :1], first, atol=1e-5)
    assert torch.equal(frames[0], row) and torch.equal(frames[:, 0], column)


def test_what_a_stage_has_made_is_known_to_the_next(monkeypatch):
    pipe = tiny_pipeline(transformer=tiny_vace())
    given = []

    def keep(vae, video, mask, *rest):
        given.append((video.clone(), mask.clone()))
        return vace_control(vae, video, mask, *rest)

    monkeypatch.setattr(vace, "vace_control", keep)
    video, mask = seen(3, 5)
    options = {"num_views": 3, "guidance_scale": 1.0, "num_inference_steps": 1}
    sample_grid(pipe, video=video, mask=mask, staged=True, **options)
    (column, holes), (grid, rest) = given  # no stage for the first view, which is known already
    assert torch.equal(column, video[:, :1]) and torch.equal(holes, mask[:, :1])
    assert not rest[:, 0].any() and torch.equal(rest[:, 1:], mask[:, 1:])
    assert torch.equal(grid[:, 1:], video[:, 1:])
    hole = holes.expand_as(column) > 0
    assert torch.equal(grid[:, :1][~hole], column[~hole])
    assert not torch.allclose(grid[:, :1][hole], column[hole], atol=0.05)


@pytest.mark.parametrize("references", [0, 1])
@pytest.mark.parametrize("overlap", [1, 5])
def test_longer_videos_come_in_windows_that_know_the_end_of_the_last(
    monkeypatch, references, overlap
):
    """Of three latent frames at most, one of them for a reference image."""
    given = []

    def keep(vae, video, mask, *rest):
        given.append((video.clone(), mask.clone()))
        return vace_control(vae, video, mask, *rest)

    monkeypatch.setattr(vace, "vace_control", keep)
    pipe = tiny_pipeline(transformer=tiny_vace(), max_frames=3 + references)
    video, mask = seen(2, 17)
    images = [torch.rand(3, 32, 32)] * references
    options = {"window_overlap": overlap, "reference_images": images, "num_frames": 17}
    frames = sample_grid(pipe, video=video, mask=mask, **options)
    assert frames.shape == (2, 17, 3, 32, 32) and torch.isfinite(frames).all()
    begin = 0
    for number, (known, holes) in enumerate(given):
        end, shown = begin + known.shape[1], overlap if number else 0
        assert torch.equal(known[:, shown:], video[:, begin + shown : end])
        assert torch.equal(holes[:, shown:], mask[:, begin + shown : end])
        assert torch.equal(known[:, :shown], frames[:, begin : begin + shown])
        assert not holes[:, :shown].any()
        begin = end - overlap
    assert end == 17 and len(given) == {1: 2, 5: 3}[overlap]


def lora(rank: int = 2) -> dict[str, torch.Tensor]:
    """Of two layers of a text-to-video model, in ComfyUI's names."""
    generator = torch.Generator().manual_seed(0)
    return {
        f"diffusion_model.blocks.{block}.self_attn.q.lora_{part}.weight": torch.randn(
            shape, generator=generator
        )
        for block in (0, 1)
        for part, shape in (("A", (rank, 48)), ("B", (48, rank)))
    }


@pytest.mark.slow
def test_a_lora_of_the_text_to_video_model_works_on_vace_and_keeps_its_conditioning(tmp_path):
    pipe = tiny_pipeline(transformer=tiny_vace())
    before = sample_grid(pipe, output_type="latent")
    save_file(lora(), tmp_path / "4d.safetensors", {"fourreal": '{"conditioning": "add"}'})
    pipe.load_lora_weights(tmp_path / "4d.safetensors")
    assert pipe.config.conditioning == "mask"
    assert (sample_grid(pipe, output_type="latent") - before).abs().max() > 1e-3
    pipe.unload_lora_weights()
    assert torch.equal(sample_grid(pipe, output_type="latent"), before)


@pytest.mark.parametrize(
    "key",
    [
        "diffusion_model.{}.self_attn.q.lora_{}.weight",
        "transformer.{}.attn1.to_q.lora_{}.weight",
        "lora_unet_{}_self_attn_q.lora_{}.weight",
    ],
    ids=["ComfyUI", "diffusers", "kohya"],
)
def test_a_lora_changes_the_vace_blocks_that_it_names_and_no_others(key):
    """Second source: the weights themselves, changed by the product of the factors."""
    pipe, flat = tiny_pipeline(transformer=tiny_vace()), key.startswith("lora_unet")
    tensors = {}
    for seed, block in enumerate(("blocks.0", "vace_blocks.1")):
        generator = torch.Generator().manual_seed(seed)
        down, up = (torch.randn(shape, generator=generator) for shape in ((2, 48), (48, 2)))
        names = ("down", "up") if flat else ("A", "B")
        for name, factor in zip(names, (down, up)):
            tensors[key.format(block.replace(".", "_") if flat else block, name)] = factor
        weight = pipe.transformer.get_submodule(block).attn1.to_q.weight
        weight.data += up @ down
    expected = sample_grid(pipe, output_type="latent")
    for block in ("blocks.0", "vace_blocks.1"):
        fresh = tiny_vace().get_submodule(block).attn1.to_q.weight
        pipe.transformer.get_submodule(block).attn1.to_q.weight.data = fresh.data
    plain = sample_grid(pipe, output_type="latent")
    pipe.load_lora_weights(tensors)
    found = sample_grid(pipe, output_type="latent")
    assert (found - expected).abs().max() < 1e-3 < (expected - plain).abs().max()


def test_a_lora_for_vace_is_refused_by_a_text_to_video_model(tmp_path):
    save_file(lora(), tmp_path / "vace.safetensors", {"fourreal": '{"conditioning": "mask"}'})
    with pytest.raises(ValueError, match=r"vace\.safetensors is for a VACE transformer, but this"):
        tiny_pipeline().load_lora_weights(tmp_path / "vace.safetensors")


VIDEO, MASK = seen()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"video": VIDEO[:1]}, "video has shape"),
        ({"video": VIDEO, "mask": MASK[..., :16]}, "mask has shape"),
        ({"video": VIDEO, "mask": MASK[:, :1]}, "mask has shape"),
        ({"video": VIDEO, "mask": MASK.expand(-1, -1, 3, -1, -1)}, "mask has shape"),
        ({"video": VIDEO, "mask": MASK * torch.nan}, "mask holds NaN"),
        ({"video": VIDEO / 0}, "video holds NaN"),
        ({"mask": MASK}, "give video too"),
        ({"conditioning_scale": [1.0, 1.0, 1.0]}, "has 3 numbers, but .* 2 VACE layers"),
        ({"reference_images": [torch.zeros(4, 8, 8)]}, r"a reference image has shape \(4, 8, 8\)"),
        ({"reference_images": [torch.zeros(3, 8, 8)] * 8}, "8 reference images"),
        ({"reference_images": [torch.zeros(3, 8, 8)], "window_frames": 29}, "at most 25 frames"),
    ],
)
def test_what_a_vace_model_cannot_be_shown_is_refused_in_one_sentence(change, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        sample_grid(tiny_pipeline(transformer=tiny_vace()), **change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "given", [{"video": VIDEO, "mask": MASK}, {"reference_images": [torch.zeros(3, 8, 8)]}]
)
def test_other_transformers_are_shown_no_video(given):
    names = " and ".join(given)
    with pytest.raises(ValueError, match=f"{names} can be shown to a VACE transformer only"):
        sample_grid(tiny_pipeline(), **given)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"transformer": tiny_vace(), "conditioning": "add"}, "'add', but must be mask, as"),
        ({"conditioning": "mask"}, "'mask', but must be add or replace"),
    ],
)
def test_the_conditioning_mask_belongs_to_vace(parts, sentence):
    with pytest.raises(ValueError, match=sentence):
        tiny_pipeline(**parts)
