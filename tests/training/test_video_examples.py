"""The examples of a step of the video trainer: their grid, their number, their latents."""

import pytest
import torch
import torch.nn.functional as F

from fourreal.data.grids import DataConfig, GridData
from fourreal.training.draws import step_generator
from fourreal.training.train_video import VideoConfig
from fourreal.training.video_examples import VideoDraws

from .short_runs import loop_config


def examples(scenes, tmp_path, draws=0, **options):
    data = DataConfig(scenes=3, height=16, width=16, cache=scenes, draws=draws)
    options = {"grids": ("2x1", "1x5", "2x5"), "grid_odds": (0.3, 0.3, 0.4)} | options
    config = VideoConfig(loop_config(tmp_path, batch_size=2), data, **options)
    return VideoDraws(config, GridData(data, 2, 5), "vae")


def test_grids_are_drawn_by_their_odds_and_smaller_ones_hold_more_examples(scenes, tmp_path):
    source = examples(scenes, tmp_path)
    batches = [source.draw(step_generator(0, n), 0.0) for n in range(60)]
    counts = [sum(batch.grid == grid for batch in batches) for grid in range(3)]
    assert all(count > 8 for count in counts)
    # Of 2 x 5 frames, so 2 x 2 latent cells, a batch holds two; of half as many cells, four.
    for batch in batches:
        assert len(batch.examples) == (4, 4, 2)[batch.grid]
        frames = batch.examples[0].values
        assert frames.shape == ((2, 1), (1, 5), (2, 5))[batch.grid] + (3, 16, 16)


def test_half_of_the_size_is_the_same_frames_four_times_as_many(scenes, tmp_path, monkeypatch):
    options = {"grids": ("2x5",), "grid_odds": (1.0,), "half_size": 0.5}
    source, drawn, draw = examples(scenes, tmp_path, **options), [], GridData.draw

    def recorded(*arguments):
        grid = draw(*arguments)
        drawn.append(grid.frames)
        return grid

    monkeypatch.setattr(GridData, "draw", recorded)
    counts = {}
    for n in range(24):
        values = [e.values for e in source.draw(step_generator(0, n), 0.0).examples]
        counts[values[0].shape[-1]] = len(values)
        share = 16 // values[0].shape[-1]
        expected = F.avg_pool2d(drawn[-1].flatten(0, 1), share).view(values[-1].shape)
        assert (values[-1].float() / 255 - expected).abs().max() <= 0.5 / 255 + 1e-6
    assert counts == {16: 2, 8: 8}


def test_grids_follow_one_another_with_the_progress_of_the_run(scenes, tmp_path):
    source = examples(scenes, tmp_path, grid_odds=(), grid_starts=(0.0, 0.2, 0.7))
    progress = (0.0, 0.19, 0.2, 0.5, 0.7, 1.0)
    grids = [source.draw(step_generator(0, 0), part).grid for part in progress]
    assert grids == [0, 0, 1, 1, 2, 2]


def test_a_batch_follows_from_its_generator(scenes, tmp_path):
    source = examples(scenes, tmp_path)
    one, same, other = (source.draw(step_generator(0, n), 0.0) for n in (4, 4, 5))
    assert one.grid == same.grid
    for a, b in zip(one.examples, same.examples):
        assert torch.equal(a.values, b.values)
        assert (a.reverse, a.caption, a.static) == (b.reverse, b.caption, b.static)
    assert not torch.equal(one.examples[0].values[:1, :1], other.examples[0].values[:1, :1])


def test_text_is_left_out_and_views_are_reversed_as_often_as_asked(scenes, tmp_path):
    source = examples(scenes, tmp_path, text_dropout=0.25, reverse_views=0.75)
    drawn = [e for n in range(100) for e in source.draw(step_generator(1, n), 0.0).examples]
    shares = [
        sum(values) / len(drawn) for values in zip(*((not e.caption, e.reverse) for e in drawn))
    ]
    assert shares == pytest.approx([0.25, 0.75], abs=0.09)  # 4 standard errors


def test_kept_latents_take_the_place_of_frames(scenes, tmp_path):
    source = examples(scenes, tmp_path, draws=2, grids=("2x5",), grid_odds=(1.0,))
    before = source.draw(step_generator(0, 0), 0.0).examples
    assert all(e.key and not e.encoded for e in before)
    latents = torch.arange(16.0).view(2, 2, 2, 1, 2)
    for example in before:
        source.cache.get(example.key, lambda: latents)
    after = source.draw(step_generator(0, 0), 0.0).examples
    assert all(e.encoded and torch.equal(e.values, latents.half()) for e in after)
    # Latents of another autoencoder are others, and without `draws` none are kept.
    source.vae_name = "other"
    assert not any(e.encoded for e in source.draw(step_generator(0, 0), 0.0).examples)
    fresh = examples(scenes, tmp_path, draws=0)
    assert {e.key for e in fresh.draw(step_generator(0, 0), 0.0).examples} == {""}
