"""`fourreal evaluate warp`: exact grids score as exact, the fills are told apart, and tables are
paired."""

import json
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from fourreal import fill as filling
from fourreal.evaluation import evaluate_warp as warp
from fourreal.files.media import read_image
from fourreal.metrics.parallax import Parallax
from fourreal.paste import paste_known
from fourreal.scenes import make_scene, scene_seed
from fourreal.warp import WarpedGrid

from .small import SIZE, small

VIEWS, FRAMES = 3, 5


def scene_of(index):
    return make_scene(scene_seed("validation", index), VIEWS, FRAMES, SIZE, SIZE)


def network():
    """What stand-ins of models are told by."""
    layer = torch.nn.Linear(1, 1)
    layer.config = {}
    return layer


class Wall:
    """A reconstructor that sees a wall in one view, and of more of them what these scenes are."""

    model = network()

    device = torch.device("cpu")

    def __init__(self, *scenes):
        self.scenes = scenes

    def __call__(self, frames, **_):
        if len(frames) == 1:
            wall = torch.ones(1, FRAMES, SIZE, SIZE)
            return SimpleNamespace(depth=wall, depth_confidence=2 * wall)
        return next(s for s in self.scenes if torch.equal(s.frames[0], frames[0]))


def half_known(frames, wrong=0.0):
    """The left half of each frame but the first view's is known, wrong by so much."""
    missing = torch.zeros(*frames.shape[:2], 1, SIZE, SIZE)
    missing[1:, ..., SIZE // 2 :] = 1
    known = frames.clone()
    known[1:] += wrong
    return WarpedGrid(torch.where(missing > 0.5, 0.5, known), missing)


def test_scores_are_of_the_views_that_were_not_given():
    scene = scene_of(2)
    warped = half_known(scene.frames)
    made = scene.frames.clone()
    made[1:, ..., SIZE // 2 :] += 0.1
    made[0] = 0  # the given view counts in the parallax alone
    parallax = Parallax(scene.frames, scene.depth, scene.extrinsics, scene.intrinsics)
    scores = warp.score_warp(made, warped, scene, parallax)
    assert scores["known_share"] == 0.5 and scores["psnr_known"] == 60  # equal
    assert scores["psnr_missing"] == pytest.approx(20, abs=1e-3)
    assert scores["psnr"] == pytest.approx(20 + 10 * math.log10(2), abs=1e-3)
    exact = warp.score_warp(scene.frames, warped, scene, parallax)
    assert exact["gradient_energy"] == exact["parallax_right"] == 1
    assert scores["parallax_error"] > 0


def test_holes_are_filled_with_the_mean_colour_of_their_own_frame():
    frames = torch.zeros(2, 1, 3, 4, 4)
    frames[0, 0, :, :, :2], frames[1, 0, :, :, :2] = 0.2, 0.8
    missing = torch.zeros(2, 1, 1, 4, 4)
    missing[..., 2:] = 1
    filled = warp.mean_filled(WarpedGrid(torch.where(missing > 0.5, 0.5, frames), missing))
    assert torch.allclose(filled[0], torch.tensor(0.2)) and torch.allclose(
        filled[1], torch.tensor(0.8)
    )
    nothing = warp.mean_filled(WarpedGrid(torch.full_like(frames, 0.5), torch.ones_like(missing)))
    assert nothing.isfinite().all()


def test_rows_are_compared_by_scene_and_known_pixels_are_kept(monkeypatch, tmp_path):
    scenes, asked = [scene_of(index) for index in range(2)], []

    def video(caption, fixed_view, generator, **_):
        """Today's generation: the given view in all the others' places."""
        return SimpleNamespace(frames=fixed_view[None].expand(VIEWS, -1, -1, -1, -1))

    def vace(prompt, video, mask, view_strength, generator, **options):
        """A fill that is the better the stronger the views are joined, and black where known."""
        exact = scenes[generator.initial_seed()].frames
        asked.append(view_strength)
        assert options["num_inference_steps"] == 2
        return SimpleNamespace(frames=(exact + 0.2 * (1 - view_strength)) * mask)

    monkeypatch.setattr(warp, "video_model", lambda *_: video)
    vace.device = torch.device("cpu")
    monkeypatch.setattr(warp, "vace_model", lambda *_: vace)
    video.transformer = network()
    monkeypatch.setattr(warp, "reconstruction_model", lambda *_: Wall(*scenes))
    # Colours are matched on known pixels, which this model gives black: that is not the subject.
    for module in (warp, filling):
        unmatched = partial(paste_known, match_colors=False)
        monkeypatch.setattr(module, "paste_known", unmatched)
    options = small(num_views=VIEWS, num_frames=FRAMES, out=tmp_path / "warp.json")
    config = warp.WarpEvaluation(
        **options, strengths=(0.0, 0.5, 1.0), vace_steps=2, montage=tmp_path / "warp.png"
    )
    found = warp.evaluate_warp(config)
    assert asked == [0, 0.5, 1] * 6 and list(found) == ["exact", "predicted", "grid"]
    for rows in found.values():
        psnr = {name: row["scores"]["psnr_missing"]["mean"] for name, row in rows.items()}
        assert psnr["strength 0"] < psnr["strength 0.5"]
        known = {name: row["scores"]["psnr_known"]["mean"] for name, row in rows.items()}
        assert known["strength 0"] == known["mean colour"] > known["fixed view"]
        assert rows["strength 1"]["difference"]["psnr"]["n"] == 2
    known = {
        name: rows["strength 0"]["scores"]["psnr_known"]["mean"] for name, rows in found.items()
    }
    assert known["exact"] > 28 > known["predicted"]  # a wall is no depth
    assert known["grid"] > 28  # this reconstructor tells the depth of grids
    halves = read_image(tmp_path / "warp.png").split(
        [5 * (SIZE + 2) - 2, 6, 5 * (SIZE + 2) - 2], -1
    )
    assert (halves[0] - halves[2]).abs().mean() < 0.1  # strength 1 fills exactly
    written = json.loads((tmp_path / "warp_exact_strengths.json").read_text())
    assert list(written["variants"]) == ["strength 0", "strength 0.5", "strength 1"]
    assert written["settings"]["feather"] == 0


def test_clips_without_exact_geometry_are_refused(tmp_path):
    with pytest.raises(ValueError, match="only procedural scenes have"):
        warp.evaluate_warp(warp.WarpEvaluation(data=tmp_path))


def test_what_does_not_depend_on_the_vace_is_kept(monkeypatch, tmp_path):
    calls = []

    def video(caption, fixed_view, **_):
        calls.append("generated")
        return SimpleNamespace(frames=fixed_view[None].expand(VIEWS, -1, -1, -1, -1))

    video.transformer, video.device = network(), Wall.device
    video.decode_views = lambda latents: latents  # frames stand for them
    monkeypatch.setattr(warp, "video_model", lambda *_: video)
    monkeypatch.setattr(warp, "reconstruction_model", lambda *_: Wall())
    one = warp.warp_first_view
    monkeypatch.setattr(
        warp, "warp_first_view", lambda *a, **k: calls.append("warped") or one(*a, **k)
    )
    options = small(num_views=VIEWS, num_frames=FRAMES, scenes=1, cache=tmp_path)
    config = warp.WarpEvaluation(**options, strengths=(), geometries=("exact",))
    first, again = warp.evaluate_warp(config), warp.evaluate_warp(config)
    assert calls == ["generated", "warped"]
    for name, row in first["exact"].items():
        for column, score in row["scores"].items():
            assert again["exact"][name]["scores"][column]["mean"] == pytest.approx(
                score["mean"], abs=0.01
            )


def test_grids_are_made_smaller_and_the_column_first_when_asked_for(monkeypatch):
    shown = []

    def made(video, fixed_view, **options):
        size = options["num_views"], options["num_frames"], 3, options["height"], options["width"]
        shown.append(size)
        return SimpleNamespace(frames=torch.full(size, 0.5))

    def model(prompt, video=None, fixed_view=None, **options):
        assert (fixed_view if video is None else video).shape[-1] == options["width"]
        return made(video, fixed_view, **options)

    model.transformer, model.device = network(), torch.device("cpu")
    monkeypatch.setattr(warp, "video_model", lambda *_: model)
    monkeypatch.setattr(warp, "vace_model", lambda *_: model)
    monkeypatch.setattr(warp, "reconstruction_model", lambda *_: Wall())
    options = small(num_views=VIEWS, num_frames=FRAMES, scenes=1)
    config = warp.WarpEvaluation(
        **options, strengths=(1.0,), geometries=("exact",), fill_scale=2, column_first=True
    )
    rows = warp.evaluate_warp(config)["exact"]
    small_size = 3, SIZE // 2, SIZE // 2
    assert shown[:2] == [(VIEWS, FRAMES, *small_size)] * 2 and shown[3] == shown[0]
    views, clip, *size = shown[2]
    assert views == 1 and clip % 4 == 1 and clip >= VIEWS and tuple(size) == small_size
    known = {name: row["scores"]["psnr_known"]["mean"] for name, row in rows.items()}
    assert known["column first"] == known["strength 1"] > known["fixed view"]
    assert "column first" in rows and rows["column first"]["scores"]["psnr"]["mean"] > 10
