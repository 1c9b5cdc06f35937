"""`fourreal train video --vace`: the blocks begin without a say, what is missing is learned, and
the file is read as a VACE."""

import json

import pytest
import torch
from safetensors.torch import load_file

from fourreal import weights
from fourreal.data.grids import DataConfig
from fourreal.training import train_vace
from fourreal.training.draws import step_generator
from fourreal.training.train_vace import VaceTraining, cells_with_holes
from fourreal.training.train_video import VideoConfig, train_video
from fourreal.training.video_model import add_vace
from fourreal.video import load_embedded_pipeline

from ..tiny import tiny_transformer
from .short_runs import loop_config


@pytest.fixture(autouse=True)
def one_validation_scene(monkeypatch):
    monkeypatch.setattr(train_vace, "VALIDATION_SCENES", 1)


def vace_config(out, scenes, loop=None, **options):
    """Training a VACE of the embedded model on one small procedural scene."""
    data = DataConfig(scenes=1, height=32, width=32, cache=scenes)
    options = {"start_from": weights.folder(), "grids": ("1x1", "2x5")} | options
    options = {"grid_starts": (0.0, 0.5), "guidance_scale": 1.0, "vace": True} | options
    return VideoConfig(loop_config(out, **(loop or {})), data, **options)


def test_an_untrained_vace_answers_like_its_base():
    base = tiny_transformer()
    vace = add_vace(base, 8)
    assert vace.config.vace_layers == [0] and vace.config.vace_in_channels == 96
    generator = torch.Generator().manual_seed(0)
    latents, control, text = (
        torch.randn(shape, generator=generator)
        for shape in ((1, 16, 3, 4, 4), (1, 96, 3, 4, 4), (1, 5, 32))
    )
    timestep = torch.tensor([700.0])
    with torch.no_grad():
        expected = base(latents, timestep, text).sample
        assert torch.equal(
            vace(latents, timestep, text, control_hidden_states=control).sample, expected
        )
        # Its first block does see the control: what it says counts as soon as it may speak.
        vace.vace_blocks[0].proj_out.weight.normal_(std=0.1)
        seen = [
            vace(latents, timestep, text, control_hidden_states=part).sample
            for part in (control, 0 * control)
        ]
    assert (seen[0] - seen[1]).abs().max() > 1e-3
    for name, value in vace.vace_blocks[0].state_dict().items():
        if "proj" not in name or "ffn" in name:
            assert torch.equal(value, base.blocks[0].state_dict()[name])


def test_cells_have_holes_where_any_of_their_pixels_is_missing():
    generator = torch.Generator().manual_seed(1)
    missing = (torch.rand(2, 9, 1, 16, 24, generator=generator) < 0.002).float()
    cells = cells_with_holes(missing, 8)
    assert cells.shape == (2, 1, 3, 2, 3) and 0 < cells.mean() < 1
    for view in range(2):
        for frame, times in enumerate((slice(0, 1), slice(1, 5), slice(5, 9))):
            for row in range(2):
                for column in range(3):
                    block = slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8)
                    expected = missing[(view, times, 0, *block)].max()
                    assert cells[view, 0, frame, row, column] == expected


@pytest.mark.slow
def test_a_trained_vace_is_a_file_of_its_own_that_fills_what_is_missing(tmp_path, scenes):
    train_video(vace_config(tmp_path, scenes))
    assert not (tmp_path / "text_encoder.safetensors").exists()
    log = json.loads((tmp_path / "log.json").read_text())["log"]
    assert log[-1]["validation_psnr"] > 5 and (tmp_path / "samples.png").is_file()
    pipe = load_embedded_pipeline(transformer=tmp_path / "vace.safetensors")
    assert pipe.config.conditioning == "mask" and pipe.config.guidance_scale == 1
    layers = pipe.transformer.config.num_layers
    assert pipe.transformer.config.vace_layers == list(range(0, layers, 2))
    pipe.set_progress_bar_config(disable=True)
    video, mask = torch.full((2, 5, 3, 32, 32), 0.5), torch.ones(2, 5, 1, 32, 32)
    video[0], mask[0] = torch.tensor([0.8, 0.2, 0.2])[:, None, None], 0
    options = {"height": 32, "width": 32, "num_inference_steps": 2}
    options |= {"generator": torch.Generator().manual_seed(0)}
    frames = pipe("a red ball", None, 2, 5, video=video, mask=mask, **options).frames
    assert frames.shape == video.shape and frames.isfinite().all()
    with pytest.raises(ValueError, match="holds a finished run of 2 steps"):
        train_video(vace_config(tmp_path, scenes))


def test_the_base_keeps_its_weights_where_only_the_vace_is_tuned(tmp_path, scenes):
    train_video(vace_config(tmp_path, scenes, tune="vace"))
    before = load_file(weights.folder() / "transformer.safetensors")
    after = load_file(tmp_path / "vace.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before)
    added = set(after) - set(before)
    assert added and all(name.startswith("vace_") for name in added)
    assert after["vace_blocks.0.after_proj.weight"].abs().max() > 0


@pytest.mark.slow
def test_what_is_missing_is_learned(tmp_path, scenes):
    training = VaceTraining(
        vace_config(tmp_path, scenes, {"learning_rate": 2e-3, "warmup_steps": 1})
    )
    batch, generator = training.draw(step_generator(0, 0), 0.0), step_generator(0, 1)
    state = generator.get_state()

    def loss():
        generator.set_state(state)
        return training.loss(batch, generator)["loss"]

    first = loss().item()
    for _ in range(12):
        loss().backward()
        for optimizer in training.loop.optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert loss().item() < 0.7 * first


def test_wrong_ways_to_train_a_vace_are_one_sentence(tmp_path, scenes):
    for options, words in (
        ({"start_from": None}, "a VACE needs a model"),
        ({"tune": "lora"}, "tuned whole or in the blocks"),
        ({"conditioning": "add"}, "by its control"),
        ({"vace": False, "tune": "vace"}, "add --vace"),
    ):
        with pytest.raises(ValueError, match=words):
            train_video(vace_config(tmp_path, scenes, **options))
