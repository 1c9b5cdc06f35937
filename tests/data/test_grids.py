"""Grids to train on, drawn from clips, photos, videos and procedural scenes."""

import itertools
import pickle

import pytest
import torch

from fourreal.data.grids import DataConfig, GridData, Pick, pick_views
from fourreal.files.media import write_image
from fourreal.scenes import describe, make_scene, scene_seed

from .clip_files import generator, grey_video, multiview, write_bad_clips


def config(tmp_path, **options):
    options = {"height": 16, "width": 16, "scenes": 0, "cache": tmp_path / "cache"} | options
    return DataConfig(**options)


def test_bad_clips_stop_training_unless_they_are_left_out(tmp_path):
    expected = write_bad_clips(tmp_path)
    options = config(tmp_path, multiview=(tmp_path,))
    with pytest.raises(ValueError) as raised:
        GridData(options, 3, 5)
    assert all(text in str(raised.value) for text in expected)
    options.skip_bad = True
    data = GridData(options, 3, 5)
    assert data.size("multiview") == 1
    assert data.report().count("left out") == len(expected)


def test_nothing_to_train_on_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="nothing to train on"):
        GridData(config(tmp_path), 2, 5)
    with pytest.raises(ValueError, match="must be four numbers from 0 up"):
        GridData(config(tmp_path, shares=(1.0, 1.0, -1.0, 1.0)), 2, 5)


def test_views_are_evenly_spaced_and_all_spacings_occur():
    picks = {tuple(pick_views(generator(s), 12, 4)) for s in range(300)}
    assert {b - a for a, b, *_ in picks} == {1, 2, 3}
    for views in picks:
        assert len({b - a for a, b in itertools.pairwise(views)}) == 1
        assert views[0] >= 0 and views[-1] < 12
    assert {v[-1] for v in picks} >= {3, 11}


def test_kinds_are_mixed_by_their_shares_and_draws_repeat(tmp_path):
    multiview(tmp_path / "many" / "scene")
    grey_video(tmp_path / "ordinary" / "clip.mp4", height=32, width=32)
    options = config(
        tmp_path,
        multiview=(tmp_path / "many",),
        videos=(tmp_path / "ordinary",),
        caption="grey",
        shares=(30.0, 20.0, 10.0, 20.0),
        draws=4,
    )
    data = GridData(options, 2, 5)
    picks = [data.pick(generator(s)) for s in range(800)]
    share = sum(p.kind == "multiview" for p in picks) / len(picks)
    assert share == pytest.approx(30 / 40, abs=0.06)  # 4 standard errors
    assert {p.seed for p in picks} == {0, 1, 2, 3}
    assert data.pick(generator(7)) == data.pick(generator(7))
    for kind in ("multiview", "video"):
        grid = data.draw(Pick(kind, 0, 1), 2, 5)
        assert grid.frames.shape == (2, 5, 3, 16, 16)
        assert torch.equal(grid.frames, data.draw(Pick(kind, 0, 1), 2, 5).frames)
        assert grid.caption == "grey" and not grid.static
    # As a worker process gets it.
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy.draw(Pick("video", 0, 1), 2, 5).frames, grid.frames)
    # Synchronised: every view of the warped video has the brightness of its time.
    levels = data.draw(Pick("video", 0, 1), 2, 5).frames.mean((2, 3, 4))
    assert torch.allclose(levels, (0.5 + 0.02 * torch.arange(5)).expand(2, 5), atol=0.01)
    assert data.sheet(2, 5).shape[0] == 3


def test_photos_of_a_static_scene_are_copied_over_time(tmp_path):
    for v in range(3):
        write_image(tmp_path / f"view_{v}.png", torch.full((3, 20, 30), 0.25 * v))
    data = GridData(config(tmp_path, static=(tmp_path,), caption="still"), 3, 5)
    grid = data.draw(Pick("static", 0, 0), 3, 5)
    assert grid.static
    expected = torch.tensor([0.0, 0.25, 0.5]).view(3, 1, 1, 1, 1).expand(3, 5, 3, 16, 16)
    assert torch.allclose(grid.frames, expected, atol=0.003)


def test_the_last_of_several_clips_is_kept_for_validation(tmp_path):
    for name in "abc":
        grey_video(tmp_path / f"{name}.mp4")
    data = GridData(config(tmp_path, videos=(tmp_path,), caption="x"), 2, 5)
    assert {data.pick(generator(s)).index for s in range(60)} == {0, 1}
    assert {p.index for p in data.validation(4)} == {2}


def test_a_run_can_see_other_scenes_than_the_first(tmp_path):
    data = GridData(config(tmp_path, scenes=2, first_scene=3), 8, 29)
    captions = [describe(scene_seed("train", n), 8, 29).caption for n in (3, 4)]
    choices = generator(0)
    picks = [data.pick(choices) for _ in range(8)]
    assert {pick.index for pick in picks} == {3, 4}
    assert data.captions() == captions
    for pick in picks[:2]:
        assert data.caption(pick) == captions[pick.index - 3]
    exact = make_scene(scene_seed("train", 3), 8, 29, 16, 16).frames
    drawn = data.draw(Pick("procedural", 3, 0, validation=False), 8, 1).frames
    assert min(float((drawn - exact[:, t : t + 1]).abs().max()) for t in range(29)) < 0.01
    assert len(data.validation(2)) == 2
    assert data.sheet(1, 1).shape[0] == 3
