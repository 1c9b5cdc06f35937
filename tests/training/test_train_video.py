"""The video trainer: grids, references, timestep shifts, pseudo-4D, wrong options."""

import json
import shutil
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file

from fourreal import weights
from fourreal.data.grids import DataConfig, GridData
from fourreal.files.media import read_image, write_video
from fourreal.training.draws import step_generator
from fourreal.training.train_video import VideoConfig, VideoTraining, train_video
from fourreal.training.video_config import Architecture, Conditioning, grids_of
from fourreal.training.video_examples import VideoBatch, VideoExample
from fourreal.video import load_embedded_pipeline
from fourreal.video.architectures import ARCHITECTURES
from fourreal.video.conditioning import CONDITIONINGS, model_inputs

from .short_runs import loop_config


def embedded_config(out, scenes, loop, **options):
    """Training on from the embedded model on one small procedural scene."""
    data = DataConfig(scenes=1, height=32, width=32, cache=scenes)
    options = {"start_from": weights.folder(), "grids": ("2x5",), "grid_starts": (0.0,)} | options
    return VideoConfig(loop_config(out, **loop), data, **options)


def test_a_model_from_nothing_is_of_the_config_and_loads(tmp_path, scenes):
    shutil.copy(weights.folder() / "autoencoder.safetensors", tmp_path)
    config = embedded_config(
        tmp_path,
        scenes,
        {"workers": 1},
        start_from=None,
        autoencoder=tmp_path / "autoencoder.safetensors",
        width=128,
        layers=1,
        ffn_width=64,
        text_width=32,
    )
    train_video(config)
    pipe = load_embedded_pipeline(tmp_path)
    assert pipe.config.conditioning == "replace" and pipe.config.max_frames == 2
    assert pipe.transformer.config.num_layers == 1 and pipe.text_encoder.config.d_model == 32
    with pytest.raises(ValueError, match="holds a finished run of 2 steps"):
        train_video(config)
    # It was stopped while it wrote its result: then only that is left to do.
    (tmp_path / "transformer.safetensors").rename(tmp_path / "written")
    train_video(config)
    again, before = (load_file(tmp_path / name) for name in ("transformer.safetensors", "written"))
    assert all(torch.equal(again[name], before[name]) for name in before)


def test_scenes_on_the_device_train_like_those_on_disk(tmp_path, scenes):
    losses = []
    for on_device in (False, True):
        config = embedded_config(tmp_path / str(on_device), scenes, {}, reverse_views=0.5)
        config.data.on_device = on_device
        data = GridData(config.data, 2, 5)
        training = VideoTraining(config, data)
        for number in range(3):  # views are reversed in some
            generator = step_generator(0, number)
            batch = training.draws.draw(generator, 1.0)
            losses.append(training.loss(batch, generator)["loss"].item())
    assert losses[:3] == pytest.approx(losses[3:], rel=1e-5)
    assert len(set(losses[:3])) == 3


@pytest.mark.slow
def test_added_layers_change_nothing_until_they_are_trained(tmp_path, scenes):
    before = load_embedded_pipeline()
    own = before.transformer.config.num_layers
    train_video(embedded_config(tmp_path, scenes, {"learning_rate": 0.0}, layers=own + 2))
    shutil.copy(weights.folder() / "autoencoder.safetensors", tmp_path)
    after = load_embedded_pipeline(tmp_path)
    assert after.transformer.config.num_layers == own + 2
    made = [
        pipe(
            "a red ball",
            num_views=2,
            num_frames=5,
            height=32,
            width=32,
            num_inference_steps=1,
            staged=False,
            guidance_scale=1.0,
            generator=torch.Generator().manual_seed(0),
        ).frames
        for pipe in (before, after)
    ]
    assert (made[0] - made[1]).abs().max() < 2e-3  # of weights that were written in float16
    tensors = load_file(tmp_path / "transformer.safetensors")
    added = [n for n in range(own + 2) if not tensors[f"blocks.{n}.ffn.2.weight"].any()]
    assert len(added) == 2
    with pytest.raises(ValueError, match=f"is of {own} blocks; give {own} or more"):
        train_video(embedded_config(tmp_path / "fewer", scenes, {}, layers=own - 1))


@pytest.mark.slow
def test_a_model_of_small_grids_makes_its_references_first(tmp_path, scenes):
    for grids, odds, staged in (
        (("1x5", "2x5"), (0.5, 0.5), False),
        (("2x1", "1x5", "2x5"), (0.3, 0.3, 0.4), True),
    ):
        out = tmp_path / grids[0]
        train_video(embedded_config(out, scenes, {"steps": 1}, grids=grids, grid_odds=odds))
        shutil.copy(weights.folder() / "autoencoder.safetensors", out)
        assert load_embedded_pipeline(out).config.staged == staged


def test_each_grid_may_have_reference_odds_of_its_own(tmp_path, scenes):
    odds = (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0)
    config = embedded_config(
        tmp_path,
        scenes,
        {},
        grids=("2x1", "1x5", "2x5"),
        grid_odds=(0.4, 0.3, 0.3),
        reference_odds=sum(odds, ()),
        continuation=0.0,
    )
    training = VideoTraining(config, GridData(config.data, 2, 5))
    example = VideoExample(torch.empty(0), False, "", False, "", False)
    for grid, first in enumerate(([False, False], [True, False], [True, True, True, False])):
        batch = VideoBatch(grid, [example] * 30)
        known, _ = training.draw_references(batch, step_generator(0, 0))
        assert known.tolist() == [first] * 30


@pytest.mark.slow
def test_grids_with_both_references_have_a_timestep_shift_of_their_own(
    tmp_path, scenes, monkeypatch
):
    seen = []

    def recorded(noised, references, known, timestep, *rest):
        seen.extend(zip(known.sum(1).tolist(), timestep.tolist()))
        return model_inputs(noised, references, known, timestep, *rest)

    monkeypatch.setattr("fourreal.training.train_video.model_inputs", recorded)
    train_video(
        embedded_config(
            tmp_path,
            scenes,
            {"steps": 1, "batch_size": 12},
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


def moving_camera(path, frames=29):
    """A video of a smooth pattern along which the camera moves, and how bright its edges are."""
    generator = torch.Generator().manual_seed(0)
    coarse = 0.3 + 0.6 * torch.rand(1, 3, 9, 16, generator=generator)
    wide = torch.nn.functional.interpolate(coarse, size=(144, 256), mode="bicubic")[0].clamp(0, 1)
    write_video(
        path, torch.stack([wide[:, t : t + 96, 2 * t : 2 * t + 160] for t in range(frames)]), 8
    )


@pytest.mark.slow
def test_an_ordinary_video_trains_as_pseudo_4d_and_has_a_sheet(tmp_path):
    moving_camera(tmp_path / "walk.mp4")
    data = DataConfig(
        videos=(tmp_path / "walk.mp4",),
        caption="a walk",
        scenes=0,
        height=32,
        width=48,
        cache=tmp_path / "cache",
    )
    options = {"grid_starts": (0.0,), "start_from": weights.folder(), "tune": "attention"}
    loop = loop_config(tmp_path, steps=1, workers=1)
    train_video(VideoConfig(loop, data, check_data=True, grids=("8x29",), **options))
    sheet = read_image(tmp_path / "data.png")[:, : 8 * 34 - 2]
    views = torch.stack([sheet[:, 34 * v : 34 * v + 32, :48] for v in range(8)])
    assert float(views.min()) > 0.2  # no black border: the darkest of the video is 0.3
    between = (views[1:] - views[:-1]).abs().mean((1, 2, 3))
    apart = float((views[-1] - views[0]).abs().mean())
    assert apart > 0.05 and float(between.max()) < 0.6 * apart + 0.03
    train_video(VideoConfig(loop, data, grids=("2x5",), **options))
    log = json.loads((tmp_path / "log.json").read_text())["log"]
    assert log[-1]["validation_psnr"] > 10


def test_wrong_training_options_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"5 reference odds; give four, or four for each"):
        grids_of(VideoConfig(reference_odds=(0.2,) * 5))
    with pytest.raises(ValueError, match=r"4 grids and 1 grid starts"):
        grids_of(VideoConfig(grid_starts=(0.0,)))
    with pytest.raises(ValueError, match=r"3 grids and 1 grid odds"):
        grids_of(VideoConfig(grids=("2x1", "1x5", "2x5"), grid_odds=(1.0,)))
    with pytest.raises(ValueError, match=r"use 9 or 13"):
        grids_of(VideoConfig(grids=("2x10",), grid_starts=(0.0,)))
    with pytest.raises(ValueError, match=r"must be VIEWSxFRAMES, such as 8x29"):
        grids_of(VideoConfig(grids=("8-29",), grid_starts=(0.0,)))
    with pytest.raises(ValueError, match=r"a LoRA needs a model"):
        train_video(VideoConfig(tune="lora"))
    data = DataConfig(scenes=1, cache=tmp_path)
    with pytest.raises(ValueError, match=r"none does not exist"):
        train_video(VideoConfig(data=data, start_from=tmp_path / "none"))
    options = {"start_from": weights.folder(), "tune": "lora", "architecture": "parallel-hard"}
    with pytest.raises(ValueError, match=r"cannot hold the layers that parallel-hard adds"):
        train_video(VideoConfig(data=data, **options))


def test_the_choices_are_those_of_the_model():
    assert get_args(Architecture) == ARCHITECTURES
    assert sorted(get_args(Conditioning)) == sorted(set(CONDITIONINGS) - {"mask"})  # that of VACE
