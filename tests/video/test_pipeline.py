"""ViewTimePipeline: references, texts, guidance, callbacks, files and refusals."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from fourreal.video import ViewTimePipeline, load_embedded_pipeline
from fourreal.video import denoising as loop

from ..tiny import PROMPT, sample_grid, tiny_pipeline


def noise(num_views=2, seed=0):
    return torch.randn(num_views, 16, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("conditioning", ["add", "replace"])
@pytest.mark.parametrize("given", ["none", "fixed_view", "freeze_time", "both"])
def test_references_are_kept_and_a_seed_gives_the_same_grid(conditioning, given):
    pipe = tiny_pipeline(conditioning=conditioning)
    row, column = torch.rand(5, 3, 32, 32), torch.rand(3, 3, 32, 32)
    column[0] = row[0]
    references = {
        "fixed_view": row if given in ("fixed_view", "both") else None,
        "freeze_time": column if given in ("freeze_time", "both") else None,
    }

    def run(seed):
        return sample_grid(pipe, seed, num_views=3, **references)

    frames = run(0)
    assert frames.shape == (3, 5, 3, 32, 32) and frames.min() >= 0 and frames.max() <= 1
    assert torch.equal(frames, run(0)) and not torch.equal(frames, run(1))
    if given in ("fixed_view", "both"):
        assert torch.equal(frames[0], row)
    if given in ("freeze_time", "both"):
        assert torch.equal(frames[:, 0], column)


@pytest.mark.parametrize("conditioning", ["add", "replace"])
def test_stages_are_grids_of_one_time_and_of_one_view_and_then_the_rest(conditioning, monkeypatch):
    pipe = tiny_pipeline(conditioning=conditioning)
    options = {"num_views": 3, "guidance_scale": 3.0, "output_type": "latent"}
    given, seen = [], []
    denoise = loop.denoise

    def keep(pipeline, sampler, noise, references, known, guidance_scale, first_step):
        given.append((references.clone(), known.clone(), guidance_scale))
        return denoise(pipeline, sampler, noise, references, known, guidance_scale, first_step)

    def watch(pipeline, step, *_):
        seen.append((step, pipeline.num_timesteps))

    monkeypatch.setattr(loop, "denoise", keep)
    grid = sample_grid(pipe, latents=noise(3), staged=True, callback_on_step_end=watch, **options)
    assert seen == [(step, 6) for step in range(6)]
    assert [scale for _, _, scale in given] == [3.0, 5.0, 1.0]
    column, row, both = given
    assert not column[1].any() and row[1].tolist() == [[True, False]]
    assert both[1].tolist() == [[True, True], [True, False], [True, False]]
    alone = sample_grid(pipe, num_frames=1, latents=noise(3)[:, :, :1], **options)
    assert torch.equal(row[0][:, :, 0], alone[:1, :, 0])
    assert torch.equal(both[0][1:, :, :1], alone[1:]) and not both[0][1:, :, 1:].any()
    if conditioning == "replace":
        assert torch.equal(grid[:, :, 0], both[0][:, :, 0]) and torch.equal(grid[0], both[0][0])


def test_fresh_noise_of_a_step_comes_from_the_generator():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=True)
    pipe = tiny_pipeline(scheduler=scheduler)

    def run(seed, steps):
        return sample_grid(pipe, seed, num_inference_steps=steps, latents=noise() * 0)

    assert torch.equal(run(0, 2), run(0, 2)) and not torch.equal(run(0, 2), run(1, 2))
    assert torch.equal(run(0, 1), run(1, 1))  # the last step adds none


def test_the_model_sees_clean_references_with_timestep_zero(monkeypatch):
    pipe = tiny_pipeline(conditioning="replace")
    seen = []
    forward = pipe.transformer.forward
    monkeypatch.setattr(
        pipe.transformer, "forward", lambda *a, **k: (seen.append(a), forward(*a, **k))[1]
    )
    row = torch.rand(5, 3, 32, 32)
    sample_grid(pipe, num_views=3, fixed_view=row, guidance_scale=1.0)
    latents = pipe.encode_views(row[None])[0]
    assert len(seen) == 2
    for inputs, timesteps, _ in seen:
        assert torch.allclose(inputs[0, :, :2], latents)
        per_frame = timesteps.view(6, -1)
        assert (per_frame[:2] == 0).all() and (per_frame[2:] > 0).all()


def test_views_are_encoded_on_their_own():
    pipe = tiny_pipeline()
    videos = torch.rand(3, 5, 3, 32, 32)
    together = pipe.encode_views(videos)
    assert torch.allclose(together[1:2], pipe.encode_views(videos[1:2]), atol=1e-6)
    assert torch.allclose(together[:, :, :1], pipe.encode_views(videos[:, :1]), atol=1e-5)


def test_an_image_is_the_first_cell_and_leaves_the_rest_free():
    pipe = tiny_pipeline(conditioning="replace")
    image, seen = torch.rand(3, 32, 32), []

    def keep(pipeline, step, timestep, tensors):
        seen.append(tensors["latents"])

    frames = sample_grid(pipe, image=image, callback_on_step_end=keep)
    assert torch.equal(frames[0, 0], image)
    expected = pipe.encode_views(image[None, None])[0, :, 0]
    assert len(seen) == 2
    for latents in seen:
        assert torch.allclose(latents[0, :, 0], expected)
        assert not torch.allclose(latents[1, :, 0], expected)


def test_callbacks_see_previews_and_can_change_the_latents():
    """Second source: x0 = x_t - sigma v, and one Euler step of a single-step schedule is x0."""
    pipe = tiny_pipeline(conditioning="add")
    names, seen = ("latents", "denoised"), []

    def change(pipeline, step, timestep, tensors):
        seen.append(tensors)
        return {"latents": torch.zeros_like(tensors["latents"])}

    latents = sample_grid(
        pipe,
        output_type="latent",
        num_inference_steps=1,
        callback_on_step_end=change,
        callback_on_step_end_tensor_inputs=names,
    )
    assert (latents == 0).all()
    assert set(seen[0]) == set(names)
    assert torch.allclose(seen[0]["denoised"], seen[0]["latents"], atol=1e-5)
    assert pipe.decode_views(seen[0]["denoised"]).shape == (2, 5, 3, 32, 32)


def test_the_negative_prompt_is_what_guidance_leads_away_from():
    """Second source: guidance w from the two unguided velocities of a one-step run."""
    pipe = tiny_pipeline(conditioning="add")

    def run(prompt, **options):
        options |= {"latents": noise(seed=5), "output_type": "latent", "num_inference_steps": 1}
        return sample_grid(pipe, prompt=prompt, **options)

    wanted, unwanted = (run(text, guidance_scale=1.0) for text in ("a red ball", "a blue box"))
    guided = run("a red ball", negative_prompt="a blue box", guidance_scale=3.0)
    assert not torch.allclose(wanted, unwanted, atol=1e-3)
    assert torch.allclose(guided, unwanted + 3 * (wanted - unwanted), atol=1e-4)


def test_embeddings_take_the_place_of_texts_and_of_the_text_encoder():
    pipe = tiny_pipeline()
    options = {"guidance_scale": 3.0, "output_type": "latent"}
    expected = sample_grid(pipe, negative_prompt="a blue box", **options)
    with torch.no_grad():
        wanted, unwanted = (pipe.encode_prompt(text) for text in (PROMPT, "a blue box"))
    embeds = {"prompt": None, "prompt_embeds": wanted, "negative_prompt_embeds": unwanted}
    without = tiny_pipeline(text_encoder=None, tokenizer=None)
    assert torch.equal(sample_grid(pipe, **embeds, **options), expected)
    assert torch.equal(sample_grid(without, **embeds, **options), expected)
    with pytest.raises(ValueError, match="no text encoder, so it needs negative_prompt_embeds"):
        sample_grid(without, **(embeds | {"negative_prompt_embeds": None}), **options)
    unguided = embeds | {"negative_prompt_embeds": None}
    assert sample_grid(without, **unguided, guidance_scale=1.0).shape == (2, 5, 3, 32, 32)


@pytest.mark.parametrize("with_text", [True, False])
def test_a_saved_pipeline_comes_back_as_it_was(tmp_path, with_text):
    parts = {} if with_text else {"text_encoder": None, "tokenizer": None}
    noted = {"conditioning": "replace", "guidance_scale": 2.5, "staged": True}
    pipe = tiny_pipeline(**noted, **parts)
    pipe.save_pretrained(tmp_path)
    again = ViewTimePipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert dict(again.config).items() >= (noted | {"max_frames": 8}).items()
    embeds = tiny_pipeline().encode_prompt(PROMPT)
    text = {} if with_text else {"prompt": None, "prompt_embeds": embeds, "guidance_scale": 1.0}
    assert torch.allclose(sample_grid(pipe, **text), sample_grid(again, **text), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_frames": 28}, "num_frames is 28.*use 25 or 29"),
        ({"height": 100}, "height is 100.*use 96 or 112"),
        ({"prompt": "  "}, "prompt is empty"),
        ({"prompt": None}, "give either prompt or prompt_embeds"),
        ({"prompt_embeds": torch.zeros(1, 8, 32)}, "give either prompt or prompt_embeds"),
        ({"prompt": None, "prompt_embeds": torch.zeros(1, 8, 9)}, r"embeddings \[1, L, 32\]"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"window_frames": 33}, "window_frames is 33.*at most 29"),
        ({"window_frames": 5, "window_overlap": 5}, "window_overlap is 5.*shorter than a window"),
        ({"num_frames": 33, "output_type": "latent"}, "2 windows, whose latents do not join"),
        ({"num_views": 0}, "num_views is 0"),
        ({"num_views": 200}, "positions for at most 128 views"),
        ({"view_strength": -1.0}, "view_strength is -1.0"),
        ({"image": torch.zeros(3, 16, 16)}, "image has shape"),
        ({"image": torch.zeros(3, 32, 32), "freeze_time": torch.zeros(2, 3, 32, 32)}, "first cell"),
        ({"fixed_view": torch.zeros(5, 3, 16, 16)}, "fixed_view has shape"),
        ({"freeze_time": torch.full((2, 3, 32, 32), torch.nan)}, "NaN"),
    ],
)
def test_a_grid_that_cannot_be_made_is_refused_in_one_sentence(change, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        sample_grid(tiny_pipeline(), **change)
    assert "\n" not in str(error.value)


def test_a_sentence_is_told_once_for_many_grids(caplog):
    pipe = load_embedded_pipeline()
    caplog.set_level("INFO", "fourreal.video.pipeline")
    for frames in (1, 1, 5):
        pipe("a red ball", None, 1, frames, height=32, width=32, num_inference_steps=1)
    told = [record.message for record in caplog.records]
    assert len(told) == len(set(told)) == 4  # the size and the plan of two grids
    assert sum("was made for up to 8 views" in sentence for sentence in told) == 2
