"""The training loop and the trainers, in a few steps."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from einops import rearrange
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from fourreal import weights
from fourreal.data.cache import SceneCache
from fourreal.data.grids import DataConfig
from fourreal.files.media import read_image
from fourreal.grid import reference_mask
from fourreal.training.loop import Loop, LoopConfig, step_generator
from fourreal.training.train_autoencoder import AutoencoderConfig, guess, train_autoencoder
from fourreal.training.train_reconstructor import ReconstructorConfig, train_reconstructor
from fourreal.training.train_video import VideoConfig, draw_masks, flow_loss, grids_of, train_video
from fourreal.video.architectures import ARCHITECTURES
from fourreal.video.conditioning import model_inputs

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """accelerate keeps the precision of the first trainer for the whole process."""
    from accelerate.state import AcceleratorState

    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def one_validation_grid(monkeypatch):
    monkeypatch.setattr("fourreal.training.train_video.VALIDATION_GRIDS", 1)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Where scenes, latents and texts are kept, once for all tests."""
    return tmp_path_factory.mktemp("scenes")


def fit(out, stop_at=None, **options):
    """Train a line on noise; the losses of all steps that ran."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    config = LoopConfig(out, steps=8, save_every=2, warmup_steps=2, mixed_precision="no", **options)
    loop, losses = Loop(config, model), []

    def loss(step, generator):
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 3, generator=generator)
        value = (model(x) - x.sum(1, keepdim=True)).square().mean()
        losses.append(value.item())
        return {"loss": value}

    loop.run(loss, lambda folder: {"weight": float(model.weight.detach().sum())})
    return losses, model.weight.detach().clone()


def test_a_stopped_run_resumes_to_the_same_losses(tmp_path):
    whole, weight = fit(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "broken", stop_at=5)
    rest, resumed = fit(tmp_path / "broken")
    assert rest == whole[4:]  # the checkpoint of step 4 is the last one
    assert torch.equal(weight, resumed)
    logs = [json.loads((tmp_path / n / "log.json").read_text()) for n in ("whole", "broken")]
    assert [entry["step"] for entry in logs[1]["log"]] == [2, 4, 6, 8]
    assert [e["loss"] for e in logs[0]["log"]] == [e["loss"] for e in logs[1]["log"]]
    assert logs[1]["settings"]["seed"] == 0


def test_a_run_of_other_weights_is_not_resumed(tmp_path):
    fit(tmp_path)
    with pytest.raises(ValueError, match=r"state\.pt is of a run that trained other weights"):
        Loop(LoopConfig(tmp_path, mixed_precision="no"), nn.Linear(4, 1))


def test_each_process_and_step_draws_its_own_examples():
    draws = {
        float(torch.rand((), generator=step_generator(0, step, process)))
        for step in range(20)
        for process in range(8)
    }
    assert len(draws) == 160


def test_a_diverging_run_says_so(tmp_path):
    model = nn.Linear(1, 1)
    loop = Loop(LoopConfig(tmp_path, steps=2, mixed_precision="no"), model)
    with pytest.raises(FloatingPointError, match="loss is nan at step 0"):
        loop.run(lambda *_: {"loss": model.weight.sum() * torch.nan}, lambda _: {})


def test_a_sudden_gradient_counts_like_a_few_usual_ones(tmp_path):
    model = nn.Linear(1, 1, bias=False)
    config = LoopConfig(tmp_path, steps=41, weight_decay=0.0, mixed_precision="no")
    loop, weights = Loop(config, model), []

    def loss(step, _):
        weights.append(model.weight.item())
        return {"loss": model.weight.sum() * (-0.9 if step == 20 else 0.001)}

    loop.run(loss, lambda _: {})
    assert 0.001 < loop.usual_norm < 0.0012
    moves = torch.tensor(weights).diff()
    # Without the limit the weight runs the other way for 15 steps.
    assert (moves[20:30] > 0).sum() <= 3


def test_flow_loss_counts_unknown_cells_only():
    latents, noise = torch.randn(2, 2, 4, 3, 2, 2)
    unknown = torch.tensor([[True, False, True], [True, True, False]])[:, None, :, None, None]
    predicted = torch.where(unknown, noise - latents + 2, torch.full_like(latents, 100.0))
    assert float(flow_loss(predicted, noise, latents, unknown)) == pytest.approx(4, rel=1e-5)


def test_cached_scenes_are_drawn_once(tmp_path):
    cache = SceneCache(tmp_path, "train", 2, 5, 16)
    first = cache.frames(3)
    assert first.shape == (2, 5, 3, 16, 16) and cache.available() == [3]
    assert torch.equal(first, cache.frames(3))


def test_all_trainers_run_and_their_files_load(tmp_path, scenes):
    from fourreal.reconstruction import Reconstructor
    from fourreal.video import load_embedded_pipeline

    out = tmp_path / "weights"
    loop = {"steps": 2, "batch_size": 1, "save_every": 10, "mixed_precision": "no"}
    train_autoencoder(
        AutoencoderConfig(LoopConfig(tmp_path / "autoencoder", **loop), None, scenes, 1, 32)
    )
    out.mkdir()
    (tmp_path / "autoencoder" / "autoencoder.safetensors").rename(out / "autoencoder.safetensors")
    train_video(
        VideoConfig(
            LoopConfig(out, **loop),
            DataConfig(scenes=1, height=32, width=32, cache=scenes),
            autoencoder=out / "autoencoder.safetensors",
            width=128,
            layers=1,
            ffn_width=64,
            text_width=32,
            grids=("2x5",),
            grid_starts=(0.0,),
        )
    )
    pipe = load_embedded_pipeline(out)
    assert pipe.config.conditioning == "replace" and pipe.config.max_frames == 2
    previous = None
    for stage in ("geometry", "static", "dynamic"):
        folder = tmp_path / stage
        train_reconstructor(
            ReconstructorConfig(LoopConfig(folder, **loop), stage, previous, size=32, num_times=2)
        )
        previous = folder / "reconstructor.safetensors"
    reconstructor = Reconstructor.from_file(previous)
    assert reconstructor.model.aggregator.temporal_is_trained()
    with pytest.raises(ValueError, match="needs --start-from"):
        train_reconstructor(ReconstructorConfig(LoopConfig(tmp_path / "x"), "static"))


def test_an_autoencoder_without_decoder_is_the_linear_transform_alone(tmp_path, scenes, capsys):
    from fourreal.embedded.autoencoder import load_autoencoder

    loop = LoopConfig(tmp_path, mixed_precision="no")
    train_autoencoder(AutoencoderConfig(loop, None, scenes, 1, 32, decoder_width=0))
    path = tmp_path / "autoencoder.safetensors"
    vae = load_autoencoder(path)
    assert vae.neighbours is None and not list(vae.parameters())
    basis, mean = vae.first_basis, vae.first_mean
    torch.testing.assert_close(basis.T @ basis, torch.eye(16), atol=1e-3, rtol=0)
    picture = read_image(tmp_path / "samples.png") * 2 - 1
    sides = "c (n h i) (t side w j) -> side t n h w (c i j)"
    exact, shown = rearrange(picture, sides, n=8, t=3, side=2, i=8, j=8)[:, 0]  # of time 0
    projected = (exact - mean) @ basis @ basis.T + mean
    torch.testing.assert_close(shown, projected.clamp(-1, 1), atol=0.02, rtol=0)
    assert "validation_psnr" in capsys.readouterr().out


@pytest.mark.parametrize("decoder_width", [0, 8])
def test_only_the_main_process_writes_an_autoencoder(
    tmp_path, scenes, monkeypatch, capsys, decoder_width
):
    monkeypatch.setattr("accelerate.Accelerator.is_main_process", property(lambda _: False))
    loop = LoopConfig(tmp_path, steps=1, batch_size=1, mixed_precision="no")
    train_autoencoder(AutoencoderConfig(loop, None, scenes, 1, 32, decoder_width=decoder_width))
    assert not list(tmp_path.iterdir()) and not capsys.readouterr().out


def test_two_processes_draw_different_examples_and_stay_one_model(tmp_path):
    script = Path(__file__).with_name("two_processes.py")
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*launch, script, tmp_path], env=environment, check=True, capture_output=True)
    first, second = (json.loads((tmp_path / f"{n}.json").read_text()) for n in range(2))
    assert not set(first["seen"]) & set(second["seen"])
    assert first["weight"] == second["weight"]
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == 3 and state["model"]["weight"].flatten().tolist() == first["weight"]


def test_static_scenes_get_no_fixed_view_and_something_is_left_to_learn():
    kinds, columns = torch.tensor([0, 1, 2, 3, 1, 3, 2]), torch.tensor([1, 1, 1, 1, 2, 2, 2])
    masks = draw_masks(kinds, columns, [False] * 4 + [True] * 2 + [False], 3, 4)
    expected = [(False, 0), (True, 0), (False, 1), (True, 1)]
    expected += [(False, 0), (False, 2)]  # static: the same without the row
    expected += [(False, 2)]
    for mask, references in zip(masks, expected):
        assert torch.equal(mask.view(3, 4), reference_mask(3, 4, *references))
    ones = torch.ones(2, dtype=torch.long)
    # A reference that would be the whole grid is none.
    for views, frames in ((1, 4), (4, 1), (1, 1)):
        for kind in (1, 2, 3):
            mask = draw_masks(torch.tensor([kind] * 2), ones, [False] * 2, views, frames)[0]
            given = (kind in (1, 3) and views > 1) or (kind in (2, 3) and frames > 1)
            assert mask.tolist() == [given, False, False, False][: len(mask)]


def test_grids_are_drawn_by_odds_and_a_model_of_small_ones_makes_its_references(
    tmp_path, scenes, monkeypatch
):
    """And its guesses train a decoder."""
    from fourreal.video import load_embedded_pipeline

    drawn = set()

    def recorded(kinds, columns, static, views, frames):
        drawn.add((views, frames))
        return draw_masks(kinds, columns, static, views, frames)

    monkeypatch.setattr("fourreal.training.train_video.draw_masks", recorded)

    def train(grids, odds):
        train_video(
            VideoConfig(
                LoopConfig(tmp_path / grids[0], steps=8, batch_size=1),
                DataConfig(scenes=1, height=32, width=32, cache=scenes),
                start_from=weights.folder(),
                grids=grids,
                grid_odds=odds,
            )
        )
        shutil.copy(weights.folder() / "autoencoder.safetensors", tmp_path / grids[0])
        return load_embedded_pipeline(tmp_path / grids[0])

    assert not train(("1x5", "2x5"), (0.5, 0.5)).config.staged
    assert drawn == {(1, 2), (2, 2)}
    assert train(("2x1", "1x5", "2x5"), (0.3, 0.3, 0.4)).config.staged
    assert drawn == {(2, 1), (1, 2), (2, 2)}
    with pytest.raises(ValueError, match=r"3 grids and 1 grid odds"):
        grids_of(VideoConfig(grids=("2x1", "1x5", "2x5"), grid_odds=(1.0,)))
    loop = LoopConfig(tmp_path / "decoder", steps=4, batch_size=2, save_every=10)
    train_autoencoder(
        AutoencoderConfig(
            loop,
            weights.folder() / "autoencoder.safetensors",
            scenes,
            1,
            32,
            video=tmp_path / "2x1",
        )
    )
    before = load_file(weights.folder() / "autoencoder.safetensors")
    after = load_file(tmp_path / "decoder" / "autoencoder.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("neighbours.") for name in changed)


def test_guesses_of_a_video_model_are_near_the_latents(scenes):
    from fourreal.video import load_embedded_pipeline
    from fourreal.video.transformer import apply_view_time

    pipe = load_embedded_pipeline()
    cache = SceneCache(scenes, "validation", 8, 29, 64)
    exact = pipe.encode_views(cache.frames(0))
    apply_view_time(pipe.transformer, 8, 8, max_frames=8)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        made = guess(pipe, exact, cache.caption(0), generator)
        assert made.shape == exact.shape
        assert (made - exact).square().mean() < 0.5 * exact.var() and not torch.equal(made, exact)


def test_each_grid_may_have_reference_odds_of_its_own(tmp_path, scenes, monkeypatch):
    drawn = {}

    def recorded(kinds, columns, static, views, frames):
        drawn.setdefault((views, frames), set()).update(kinds.tolist())
        return draw_masks(kinds, columns, static, views, frames)

    monkeypatch.setattr("fourreal.training.train_video.draw_masks", recorded)
    train_video(
        VideoConfig(
            LoopConfig(tmp_path, steps=12, batch_size=1, save_every=100),
            DataConfig(scenes=1, height=32, width=32, cache=scenes),
            start_from=weights.folder(),
            grids=("2x1", "1x5", "2x5"),
            grid_odds=(0.4, 0.3, 0.3),
            reference_odds=(1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0),
        )
    )
    assert drawn == {(2, 1): {0}, (1, 2): {2}, (2, 2): {3}}


def test_wrong_training_options_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"5 reference odds; give four, or four for each"):
        grids_of(VideoConfig(reference_odds=(0.2,) * 5))
    with pytest.raises(ValueError, match=r"4 grids and 1 grid starts"):
        grids_of(VideoConfig(grid_starts=(0.0,)))
    with pytest.raises(ValueError, match=r"use 9 or 13"):
        grids_of(VideoConfig(grids=("2x10",), grid_starts=(0.0,)))
    with pytest.raises(ValueError, match=r"must be VIEWSxFRAMES, such as 8x29"):
        grids_of(VideoConfig(grids=("8-29",), grid_starts=(0.0,)))
    with pytest.raises(ValueError, match=r"a LoRA needs a model"):
        train_video(VideoConfig(tune="lora"))
    with pytest.raises(ValueError, match=r"tune is 'some'"):
        train_video(VideoConfig(tune="some"))
    options = {"data": DataConfig(scenes=1, cache=tmp_path), "start_from": tmp_path / "none"}
    with pytest.raises(ValueError, match=r"none does not exist"):
        train_video(VideoConfig(**options))


def test_grids_with_both_references_have_a_timestep_shift_of_their_own(
    tmp_path, scenes, monkeypatch
):
    seen = []

    def recorded(noised, references, known, timestep, *rest):
        seen.extend(zip(known.sum(1).tolist(), timestep.tolist()))
        return model_inputs(noised, references, known, timestep, *rest)

    monkeypatch.setattr("fourreal.training.train_video.model_inputs", recorded)
    train_video(
        VideoConfig(
            LoopConfig(tmp_path, steps=1, batch_size=12),
            DataConfig(scenes=1, height=32, width=32, cache=scenes),
            start_from=weights.folder(),
            grids=("2x5",),
            grid_starts=(0.0,),
            reference_odds=(0.5, 0.0, 0.0, 0.5),
            continuation=0.0,
            shift=1.0,
            both_shift=1e6,
        )
    )
    both = [timestep for known, timestep in seen if known == 3]  # of 2 x 2 cells of latents
    none = [timestep for known, timestep in seen if known == 0]
    assert len(both) + len(none) == 12 and both and none
    assert min(both) > 999 and max(none) < 999


def tune_embedded(out, scenes, tune="lora", steps=4, architecture=None):
    """Tune the embedded model on one procedural scene in bf16; the losses by step."""
    losses = []

    class Recorded(Loop):
        def run(self, loss, sample):
            def recorded(step, generator):
                losses.append(loss(step, generator))
                return losses[-1]

            super().run(recorded, lambda folder: {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fourreal.training.train_video.Loop", Recorded)
        train_video(
            VideoConfig(
                LoopConfig(out, steps, None, 1, 1e-2, warmup_steps=1, save_every=2),
                DataConfig(scenes=1, height=32, width=32, cache=scenes, draws=4),
                start_from=weights.folder(),
                tune=tune,
                lora_rank=4,
                architecture=architecture,
                grids=("1x5", "2x5"),
                grid_starts=(0.0, 0.5),
                gradient_checkpointing=True,
            )
        )
    return [value["loss"].item() for value in losses]


def test_a_stopped_tuning_run_resumes_to_the_same_losses(tmp_path, scenes):
    whole = tune_embedded(tmp_path / "whole", scenes)
    with pytest.MonkeyPatch.context() as patch:
        saved = Loop._save

        def stop(self):
            saved(self)
            raise KeyboardInterrupt

        patch.setattr(Loop, "_save", stop)
        with pytest.raises(KeyboardInterrupt):
            tune_embedded(tmp_path / "broken", scenes)
    assert tune_embedded(tmp_path / "broken", scenes) == whole[2:]
    first, second = (
        load_file(tmp_path / name / "lora.safetensors") for name in ("whole", "broken")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_lora_loads_through_diffusers_and_gives_the_tuned_model(tmp_path, scenes):
    from diffusers import WanPipeline

    from fourreal.video.wan_files import load_transformer
    from fourreal.video.wan_keys import comfy_key

    tune_embedded(tmp_path, scenes)
    path = tmp_path / "lora.safetensors"
    tensors = load_file(path)
    down, up = (
        f"diffusion_model.blocks.0.self_attn.q.lora_{part}.weight" for part in ("down", "up")
    )
    assert tensors[down].shape[0] == tensors[up].shape[1] == 4
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["fourreal"])
    assert metadata["conditioning"] == "replace" and metadata["grid"] == [2, 5]

    model, _ = load_transformer(weights.folder() / "transformer.safetensors", torch.float32)
    inputs = (
        torch.randn(1, model.config.in_channels, 2, 4, 4, generator=step_generator(0, 0)),
        torch.tensor([500.0]),
        torch.zeros(1, 8, model.config.text_dim),
    )
    # The second way to the same weights: W + alpha / r * up @ down, by ComfyUI's keys.
    merged = copy.deepcopy(model)
    state = {comfy_key(k): v for k, v in merged.state_dict().items()}
    for key in {k.rsplit(".", 2)[0] for k in tensors if "lora" in k}:
        pair = [tensors[f"{key}.lora_{part}.weight"].float() for part in ("up", "down")]
        scale = float(tensors[f"{key}.alpha"]) / len(pair[1])
        state[f"{key.removeprefix('diffusion_model.')}.weight"] += scale * pair[0] @ pair[1]
    with torch.no_grad():
        plain, expected = (m(*inputs).sample for m in (model, merged))
        WanPipeline.load_lora_into_transformer(WanPipeline.lora_state_dict(path), model)
        loaded = model(*inputs).sample
    assert float((loaded - plain).abs().max()) > 1e-3
    assert torch.allclose(loaded, expected, atol=1e-4)


def test_tuning_attention_changes_nothing_else(tmp_path, scenes):
    tune_embedded(tmp_path, scenes, "attention", 2)
    before = load_file(weights.folder() / "transformer.safetensors")
    after = load_file(tmp_path / "transformer.safetensors")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed and all(".self_attn." in key for key in changed)
    assert {key.split(".")[3] for key in changed} == {"q", "k", "v", "o", "norm_q", "norm_k"}


@pytest.mark.parametrize("architecture", ARCHITECTURES[1:])
def test_other_architectures_train_by_one_flag_and_load_as_such(tmp_path, scenes, architecture):
    from fourreal.video.pipeline import ViewTimePipeline

    tune_embedded(tmp_path, scenes, "attention", 2, architecture)
    trained = load_file(tmp_path / "transformer.safetensors")
    base = load_file(weights.folder() / "transformer.safetensors")
    added = {key.split(".")[2] for key in set(trained) - set(base)}
    assert added == ({"view_time_sync"} if "parallel" in architecture else set())
    pipe = ViewTimePipeline.from_single_files(
        tmp_path / "transformer.safetensors",
        weights.folder() / "autoencoder.safetensors",
        weights.folder() / "text_encoder.safetensors",
    )
    assert pipe.config.architecture == architecture
    assert len(pipe.transformer.state_dict()) == len(trained)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared is absent")
def test_an_ordinary_video_trains_as_pseudo_4d_and_has_a_sheet(tmp_path):
    data = DataConfig(
        video=(SHARED / "data" / "great_wall.mp4",),
        caption="the great wall",
        scenes=0,
        height=32,
        width=48,
        cache=tmp_path,
    )
    options = {"grid_starts": (0.0,), "start_from": weights.folder(), "tune": "attention"}
    loop = LoopConfig(tmp_path, steps=1, batch_size=1)
    train_video(VideoConfig(loop, data, check_data=True, grids=("8x29",), **options))
    sheet = read_image(tmp_path / "data.png")[:, : 8 * 34 - 2]
    views = torch.stack([sheet[:, 34 * v : 34 * v + 32, :48] for v in range(8)])
    for dim in (-1, -2):
        lines = views.mean((1, dim))  # rows, then columns
        for edge, inside in ((0, 3), (-1, -4)):
            assert bool((lines[:, edge] > 0.6 * lines[:, inside]).all())  # no black border
    between = (views[1:] - views[:-1]).abs().mean((1, 2, 3))
    assert float(between.max()) < 0.6 * float((views[-1] - views[0]).abs().mean()) + 0.05
    train_video(VideoConfig(loop, data, grids=("2x5",), **options))
    log = json.loads((tmp_path / "log.json").read_text())["log"]
    assert log[-1]["validation_psnr"] > 10
