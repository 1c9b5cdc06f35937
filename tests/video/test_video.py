"""The 4D transformer and pipeline against diffusers' own model and plain loops."""

import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from einops import rearrange

from fourreal.attention import view_time_mask
from fourreal.embedded.autoencoder import BlockAutoencoder
from fourreal.embedded.edges import smooth_edges
from fourreal.scenes import make_scene, scene_seed
from fourreal.training.train_autoencoder import NoisyDecoding, decoding_loss
from fourreal.video import ViewTimePipeline, apply_view_time
from fourreal.video.conditioning import stage_guidance
from fourreal.video.text import (
    build_text_encoder,
    build_tokenizer,
    caption_words,
    encode_text,
    load_text_encoder,
    save_text_encoder,
)
from fourreal.video.wan_keys import load_single_file, save_single_file, transformer_key
from fourreal.video.windows import fade_joint


def tiny_transformer(channels=16):
    torch.manual_seed(0)
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=channels,
        out_channels=channels,
        text_dim=32,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
    ).eval()


def tiny_vae():
    torch.manual_seed(1)
    return AutoencoderKLWan(
        base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, attn_scales=[]
    ).eval()


def tiny_pipeline(conditioning="replace", vae=None):
    tokenizer = build_tokenizer(caption_words())
    torch.manual_seed(2)
    return ViewTimePipeline(
        tiny_transformer(),
        vae or tiny_vae(),
        build_text_encoder(len(tokenizer), 32).eval(),
        tokenizer,
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        conditioning=conditioning,
        max_frames=8,
        max_tokens=32,
    )


def model_args(frames, channels=16):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, channels, frames, 4, 4, generator=generator)
    return x, torch.tensor([500.0]), torch.randn(1, 7, 32, generator=generator)


def test_one_view_equals_the_stock_model_and_keys_stay():
    model, args = tiny_transformer(), model_args(5)
    keys = list(model.state_dict())
    with torch.no_grad():
        stock = model(*args).sample
        apply_view_time(model, 1, 5, max_frames=8)
        assert (model(*args).sample - stock).abs().max() <= 1e-5
        assert list(model.state_dict()) == keys
        apply_view_time(model, 4, 5, max_frames=8)
        apply_view_time(model, None)
        assert torch.equal(model(*args).sample, stock)


def test_grid_equals_stock_attention_with_the_mask(monkeypatch):
    """Second source: diffusers' own processor and rotary embedding on the flattened video, its
    self-attention given the dense mask (T_max = F makes the positions consecutive)."""
    model, args = tiny_transformer(), model_args(6)
    mask = view_time_mask(3, 2, 4)
    from diffusers.models.transformers import transformer_wan

    dispatch = transformer_wan.dispatch_attention_fn

    def masked(query, key, value, attn_mask=None, **options):
        own = mask if key.shape[1] == query.shape[1] else None
        return dispatch(query, key, value, attn_mask=own, **options)

    with torch.no_grad():
        with monkeypatch.context() as patch:
            patch.setattr(transformer_wan, "dispatch_attention_fn", masked)
            expected = model(*args).sample
        for backend in ("merge", "dense"):
            apply_view_time(model, 3, 2, max_frames=2, backend=backend)
            assert (model(*args).sample - expected).abs().max() < 1e-5


def test_strength_zero_equals_independent_stock_runs():
    model = tiny_transformer()
    x, timestep, text = model_args(6)
    with torch.no_grad():
        apply_view_time(model, 3, 2, max_frames=2, view_strength=0.0)
        together = model(x, timestep, text).sample
        apply_view_time(model, None)
        alone = [model(part, timestep, text).sample for part in x.chunk(3, dim=2)]
    # Rotary attention sees only differences of positions, so a view's offset changes nothing.
    assert (together - torch.cat(alone, 2)).abs().max() < 1e-4


@pytest.mark.parametrize("conditioning", ["add", "replace"])
@pytest.mark.parametrize("given", ["none", "fixed_view", "freeze_time", "both"])
def test_pipeline_keeps_references_and_is_reproducible(conditioning, given):
    pipe = tiny_pipeline(conditioning)
    pipe.set_progress_bar_config(disable=True)
    row, column = torch.rand(5, 3, 32, 32), torch.rand(3, 3, 32, 32)
    column[0] = row[0]

    def run(seed):
        return pipe(
            "a red ball",
            num_views=3,
            num_frames=5,
            height=32,
            width=32,
            num_inference_steps=2,
            fixed_view=row if given in ("fixed_view", "both") else None,
            freeze_time=column if given in ("freeze_time", "both") else None,
            generator=torch.Generator().manual_seed(seed),
        ).frames

    frames = run(0)
    assert frames.shape == (3, 5, 3, 32, 32) and frames.min() >= 0 and frames.max() <= 1
    assert torch.equal(frames, run(0)) and not torch.equal(frames, run(1))
    if given in ("fixed_view", "both"):
        assert torch.equal(frames[0], row)
    if given in ("freeze_time", "both"):
        assert torch.equal(frames[:, 0], column)


@pytest.mark.parametrize("conditioning", ["add", "replace"])
def test_stages_are_grids_of_one_time_and_of_one_view_and_then_the_rest(conditioning, monkeypatch):
    pipe = tiny_pipeline(conditioning)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(3, 16, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    options = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "latent"}
    given, seen = [], []
    denoise = type(pipe)._denoise

    def keep(pipeline, noise, references, known, texts, guidance_scale, *rest):
        given.append((references.clone(), known.clone(), guidance_scale))
        return denoise(pipeline, noise, references, known, texts, guidance_scale, *rest)

    def watch(pipeline, step, *_):
        seen.append((step, pipeline.num_timesteps))

    monkeypatch.setattr(type(pipe), "_denoise", keep)
    grid = pipe(
        "a red ball",
        num_views=3,
        num_frames=5,
        latents=noise,
        staged=True,
        guidance_scale=3.0,
        callback_on_step_end=watch,
        **options,
    ).frames
    assert seen == [(step, 6) for step in range(6)]
    assert [scale for _, _, scale in given] == [3.0, 2.0, 1.0]
    column, row, both = given
    assert not column[1].any() and row[1].tolist() == [[True, False]]
    assert both[1].tolist() == [[True, True], [True, False], [True, False]]
    alone = pipe(
        "a red ball",
        num_views=3,
        num_frames=1,
        latents=noise[:, :, :1],
        guidance_scale=3.0,
        **options,
    ).frames
    assert torch.equal(row[0][:, :, 0], alone[:1, :, 0])
    assert torch.equal(both[0][1:, :, :1], alone[1:]) and not both[0][1:, :, 1:].any()
    if conditioning == "replace":
        assert torch.equal(grid[:, :, 0], both[0][:, :, 0]) and torch.equal(grid[0], both[0][0])


def test_guidance_goes_down_with_the_references_that_a_stage_has():
    assert stage_guidance(5.0, 1, True) == stage_guidance(5.0, 1, False) == [5.0]
    assert stage_guidance(5.0, 3, False) == [5.0, 3.0, 1.0]
    assert stage_guidance(5.0, 3, True) == [3.0, 3.0, 1.0]  # an image
    assert stage_guidance(5.0, 2, True) == [3.0, 1.0]
    assert stage_guidance(1.0, 3, False) == [1.0, 1.0, 1.0]


def test_fresh_noise_of_a_step_comes_from_the_generator():
    pipe = tiny_pipeline()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=True)
    pipe.set_progress_bar_config(disable=True)

    def run(seed, steps):
        return pipe(
            "a red ball",
            num_views=2,
            num_frames=5,
            height=32,
            width=32,
            num_inference_steps=steps,
            latents=torch.zeros(2, 16, 2, 4, 4),
            generator=torch.Generator().manual_seed(seed),
        ).frames

    assert torch.equal(run(0, 2), run(0, 2)) and not torch.equal(run(0, 2), run(1, 2))
    assert torch.equal(run(0, 1), run(1, 1))  # the last step adds none


def test_replace_feeds_clean_references_with_timestep_zero(monkeypatch):
    pipe = tiny_pipeline("replace")
    pipe.set_progress_bar_config(disable=True)
    seen = []
    forward = pipe.transformer.forward
    monkeypatch.setattr(
        pipe.transformer, "forward", lambda *a, **k: (seen.append(a), forward(*a, **k))[1]
    )
    row = torch.rand(5, 3, 32, 32)
    pipe(
        "a red ball",
        num_views=3,
        num_frames=5,
        height=32,
        width=32,
        fixed_view=row,
        num_inference_steps=2,
        guidance_scale=1.0,
    )
    latents = pipe.encode_views(row[None])[0]
    for inputs, timesteps, _ in seen:
        assert torch.allclose(inputs[0, :, :2], latents)
        per_frame = timesteps.view(6, -1)
        assert (per_frame[:2] == 0).all() and (per_frame[2:] > 0).all()


def test_add_is_the_sum_of_patch_embeddings_up_to_the_bias(monkeypatch):
    """Paper: the references' patch embeddings are added to the noised tokens."""
    from fourreal.video.conditioning import model_inputs

    embed = tiny_transformer().patch_embedding
    noised, reference = torch.randn(2, 1, 16, 4, 8, 8).unbind(0)
    known = torch.tensor([[True, False, True, False]])
    inputs, timestep = model_inputs(noised, reference, known, torch.tensor([7.0]), "add", 4)
    bias = embed.bias.view(1, -1, 1, 1, 1)
    expected = embed(noised) + known[:, None, :, None, None] * (embed(reference) - bias)
    assert torch.allclose(embed(inputs), expected, atol=1e-5) and timestep.tolist() == [7.0]


def test_views_are_encoded_on_their_own():
    pipe = tiny_pipeline()
    videos = torch.rand(3, 5, 3, 32, 32)
    together = pipe.encode_views(videos)
    assert torch.allclose(together[1:2], pipe.encode_views(videos[1:2]), atol=1e-6)
    assert torch.allclose(together[:, :, :1], pipe.encode_views(videos[:, :1]), atol=1e-5)


def test_pipeline_saves_and_loads(tmp_path):
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path)
    again = ViewTimePipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert again.config.conditioning == "replace" and again.config.max_frames == 8
    options = {"num_views": 2, "num_frames": 5, "height": 32, "width": 32, "num_inference_steps": 1}
    runs = [
        p("a box", generator=torch.Generator().manual_seed(0), **options).frames
        for p in (pipe, again)
    ]
    assert torch.allclose(*runs, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_frames": 28}, "num_frames is 28.*use 25 or 29"),
        ({"height": 100}, "height is 100.*use 96 or 112"),
        ({"prompt": "  "}, "prompt is empty"),
        ({"window_frames": 33}, "window_frames is 33.*at most 29"),
        ({"window_frames": 5, "window_overlap": 5}, "window_overlap is 5.*shorter than a window"),
        ({"num_frames": 33, "output_type": "latent"}, "2 windows, whose latents do not join"),
        ({"num_views": 0}, "num_views is 0"),
        ({"num_views": 200}, "positions for at most 128 views"),
        ({"view_strength": -1.0}, "view_strength is -1.0"),
        ({"image": torch.zeros(3, 16, 16)}, "image has shape"),
        ({"image": torch.zeros(3, 32, 32), "freeze_time": torch.zeros(3, 3, 32, 32)}, "first cell"),
        ({"fixed_view": torch.zeros(5, 3, 16, 16)}, "fixed_view has shape"),
        ({"freeze_time": torch.full((3, 3, 32, 32), torch.nan)}, "NaN"),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(change, sentence):
    options = {"prompt": "a red ball", "num_views": 3, "num_frames": 5, "height": 32, "width": 32}
    with pytest.raises(ValueError, match=sentence) as error:
        tiny_pipeline()(**(options | change))
    assert "\n" not in str(error.value)


def test_block_autoencoder_is_causal_and_orthogonal():
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(6, 3, 3, 4, 4), (9, 32, 32)) * 2 - 1
    vae = BlockAutoencoder(z_dim=192)
    vae.fit([smooth])
    latents = vae.encode(smooth).latent_dist.mean
    assert latents.shape == (6, 192, 3, 4, 4)
    # 192 components are all there are in a first frame: it comes back exactly.
    assert torch.allclose(vae.decode(latents).sample[:, :, 0], smooth[:, :, 0], atol=1e-4)
    assert torch.allclose(vae.encode(smooth[:, :, :5]).latent_dist.mean, latents[:, :, :2])


def test_neighbours_decode_better_than_blocks_alone():
    """They begin without effect, and learn what a block's own 16 numbers do not tell."""
    torch.manual_seed(0)
    clips = make_scene(scene_seed("train", 0), 4, 9, 64, 64).frames.transpose(1, 2) * 2 - 1
    plain, vae = BlockAutoencoder(16), BlockAutoencoder(16, 32)
    plain.fit([clips])
    vae.load_state_dict(plain.state_dict(), strict=False)
    latents = vae.encode(clips).latent_dist.mean
    assert torch.equal(latents, plain.encode(clips).latent_dist.mean)
    assert not any(correction.any() for correction in vae.neighbours(latents))
    before = vae.decode(latents).sample
    optimizer = torch.optim.Adam(vae.parameters(), 3e-3)
    for step in range(30):
        decoded = NoisyDecoding(vae)(clips, torch.Generator().manual_seed(step))
        loss = decoding_loss(decoded, clips)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = vae.decode(latents).sample
    for other in (before, plain.decode(latents).sample):
        assert (after - clips).square().mean() < 0.8 * (other - clips).square().mean()
    assert vae.decode(latents[:, :, :1]).sample.shape == (4, 3, 1, 64, 64)


def test_text_encoder_file_round_trip(tmp_path):
    tokenizer = build_tokenizer(caption_words())
    encoder = build_text_encoder(len(tokenizer), 32).half().float().eval()
    save_text_encoder(encoder, tokenizer, tmp_path / "text.safetensors")
    again = load_text_encoder(tmp_path / "text.safetensors")
    texts = ["A red ball, bouncing", "an unheardof word"]
    with torch.no_grad():
        expected = encode_text(tokenizer, encoder, texts)
        assert torch.allclose(encode_text(*again, texts), expected, atol=1e-3)
    assert (expected[0, 6:] == 0).all() and (expected[0, :6] != 0).any()


def test_single_file_round_trip_and_damage(tmp_path):
    model, path = tiny_transformer(), tmp_path / "model.safetensors"
    save_single_file(model, path, transformer_key, {"conditioning": "add"})
    again, metadata = load_single_file(WanTransformer3DModel, path, transformer_key)
    assert metadata == {"conditioning": "add"}
    for key, value in model.state_dict().items():
        assert torch.allclose(again.state_dict()[key], value, atol=2e-3), key
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        ValueError, match=r"model\.safetensors is not a complete \.safetensors file"
    ):
        load_single_file(WanTransformer3DModel, path, transformer_key)


def test_an_image_is_the_first_cell_and_leaves_the_rest_free():
    pipe = tiny_pipeline("replace")
    pipe.set_progress_bar_config(disable=True)
    image, seen = torch.rand(3, 32, 32), []
    options = {"num_views": 2, "num_frames": 5, "height": 32, "width": 32, "num_inference_steps": 2}

    def keep(pipeline, step, timestep, tensors):
        seen.append(tensors["latents"])

    frames = pipe("a box", image=image, callback_on_step_end=keep, **options).frames
    assert torch.equal(frames[0, 0], image)
    expected = pipe.encode_views(image[None, None])[0, :, 0]
    for latents in seen:
        assert torch.allclose(latents[0, :, 0], expected)
        assert not torch.allclose(latents[1, :, 0], expected)


def test_callbacks_see_previews_and_can_change_the_latents():
    """Second source: x0 = x_t - sigma v, and one Euler step of a single-step schedule is x0."""
    pipe = tiny_pipeline("add")
    pipe.set_progress_bar_config(disable=True)
    options = {
        "num_views": 2,
        "num_frames": 5,
        "height": 32,
        "width": 32,
        "output_type": "latent",
        "num_inference_steps": 1,
    }
    names, seen = ("latents", "denoised"), []

    def change(pipeline, step, timestep, tensors):
        seen.append(tensors)
        return {"latents": torch.zeros_like(tensors["latents"])}

    answer = pipe(
        "a box", callback_on_step_end=change, callback_on_step_end_tensor_inputs=names, **options
    )
    assert (answer.frames == 0).all() and answer.seconds_per_step > 0
    assert set(seen[0]) == set(names)
    assert torch.allclose(seen[0]["denoised"], seen[0]["latents"], atol=1e-5)
    assert pipe.decode_views(seen[0]["denoised"]).shape == (2, 5, 3, 32, 32)


def test_the_negative_prompt_is_what_guidance_leads_away_from():
    """Second source: guidance w from the two unguided velocities of a one-step run."""
    pipe = tiny_pipeline("add")
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 16, 2, 4, 4, generator=torch.Generator().manual_seed(5))

    def run(prompt, **options):
        return pipe(
            prompt,
            num_views=2,
            num_frames=5,
            height=32,
            width=32,
            latents=noise,
            output_type="latent",
            num_inference_steps=1,
            **options,
        ).frames

    wanted, unwanted = (run(text, guidance_scale=1.0) for text in ("a red ball", "a blue box"))
    guided = run("a red ball", negative_prompt="a blue box", guidance_scale=3.0)
    assert not torch.allclose(wanted, unwanted, atol=1e-3)
    assert torch.allclose(guided, unwanted + 3 * (wanted - unwanted), atol=1e-4)


def test_grid_order_is_view_major():
    from fourreal.grid import grid_to_sequence, sequence_to_grid

    grid = torch.arange(2 * 3 * 4).view(2, 1, 3, 2, 2)
    sequence = grid_to_sequence(grid)
    assert torch.equal(sequence, rearrange(grid, "v c f h w -> 1 c (v f) h w"))
    assert torch.equal(sequence_to_grid(sequence, 2), grid)


def test_edges_are_smoothed_and_motion_is_kept():
    steady = torch.arange(12.0)[:, None] * torch.tensor([2.0, -1.0, 0.0])
    assert torch.allclose(smooth_edges(steady, 0, range(1, 12, 4)), steady)
    jump = steady.clone()
    jump[5:] += 10
    smooth = smooth_edges(jump, 0, [5]) - steady
    wanted = torch.tensor([0, 0, 0, 1, 2.5, 7.5, 9, 10, 10, 10, 10, 10])
    assert torch.allclose(smooth, wanted[:, None].expand(-1, 3), atol=1e-5)
    other = smooth_edges(jump.T[None], 2, [5])[0].T
    assert torch.equal(other, smooth_edges(jump, 0, [5]))
    # At edge 1 nothing is before; at the ends there is no edge.
    first = torch.tensor([0.0, 10, 10, 10])[:, None]
    assert smooth_edges(first, 0, [0, 1, 3])[:, 0].tolist() == [2.5, 7.5, 9, 10]
    assert torch.equal(smooth_edges(first[:1], 0, [1]), first[:1])


def test_the_jump_of_a_window_fades():
    steady = torch.linspace(0, 0.4, 9)[None, :, None, None, None].expand(2, 9, 3, 4, 4)
    assert torch.allclose(fade_joint(steady, 5), steady[:, 5:])
    jump = steady.clone()
    jump[:, 5:] += 0.5
    faded = fade_joint(jump, 5) - steady[:, 5:]
    wanted = 0.5 * torch.tensor([0.2, 0.4, 0.6, 0.8])
    assert torch.allclose(faded, wanted[:, None, None, None].expand_as(faded), atol=1e-6)


def test_the_trained_decoder_smooths_the_edges_between_its_blocks():
    torch.manual_seed(0)
    vae = BlockAutoencoder(16, 32)
    latents = torch.randn(1, 16, 3, 4, 4)
    vae.fit([torch.rand(2, 3, 9, 32, 32)])
    smooth = vae.unclamped(latents)
    vae.neighbours = None
    plain = vae.unclamped(latents)
    for dim, edges in ((2, [1, 5]), (3, [8, 16, 24]), (4, [8, 16, 24])):
        at = torch.tensor(edges)
        jumps = [
            (v.index_select(dim, at) - v.index_select(dim, at - 1)).square().mean()
            for v in (plain, smooth)
        ]
        assert jumps[1] < 0.6 * jumps[0]
