"""`fourreal evaluate video`: scores beside both copies, and the picture."""

from types import SimpleNamespace

import pytest
import torch

from fourreal.evaluation import evaluate_video as video
from fourreal.files.media import read_image
from fourreal.grid import shrunk
from fourreal.metrics.parallax import Parallax
from fourreal.scenes import make_scene, scene_seed

from .small import SIZE, small


def test_every_score_puts_exact_before_blurred_before_its_rivals():
    """PSNR, SSIM and parallax order the rows; sharpness, which no still picture lacks, the blurs
    alone. The first time at all times has exact views and an exact set, so that only the moving
    region tells it."""
    times, still = [0, 14, 28], ("mean_image", "still_copy", "one_view")
    scene = make_scene(scene_seed("validation", 2))
    geometry = scene.depth[:, times], scene.extrinsics, scene.intrinsics
    exact = scene.frames[:, times]
    scores = video.score_rows({"both/generated": exact}, exact, Parallax(exact, *geometry))
    for score, sign in (("psnr", 1), ("ssim", 1), ("psnr_moving", 1), ("parallax_error", -1)):
        rivals = (*still, "first_time") if score == "psnr_moving" else still
        rows = ("exact", "exact_blurred_1", "exact_blurred_2")
        right, once, twice = (sign * scores[f"{row}/{score}"] for row in rows)
        assert right > once > twice > max(sign * scores[f"{row}/{score}"] for row in rivals), score
    sharp = [scores[f"exact{blur}/sharpness"] for blur in ("", "_blurred_1", "_blurred_2")]
    assert sharp[0] == 1 and sharp == sorted(sharp, reverse=True)


def test_scores_of_a_video_compare_with_both_copies():
    exact = make_scene(scene_seed("validation", 2), 4, 5, SIZE, SIZE).frames
    scores = video.score_rows(
        {"both/generated": exact, "fixed_view/generated": video.copies(exact)["one_view"]},
        exact,
        None,
    )
    assert scores["both/generated/psnr"] == 60 == scores["exact/psnr"]
    assert scores["both/generated/ssim"] == pytest.approx(1, abs=1e-4)
    assert scores["fixed_view/generated/psnr"] == scores["one_view/psnr"] < 30
    gains = [scores[f"{given}/generated/gain_on_moving"] for given in ("fixed_view", "both")]
    assert gains[0] <= 0 < gains[1]


def test_a_perfect_video_model_scores_perfectly(monkeypatch, tmp_path):
    exact = [make_scene(scene_seed("validation", i), 3, 5, SIZE, SIZE).frames for i in range(2)]
    asked = []

    def pipeline(caption, fixed_view=None, freeze_time=None, generator=None, **_):
        asked.append((fixed_view is not None, freeze_time is not None))
        return SimpleNamespace(frames=exact[generator.initial_seed()])

    monkeypatch.setattr(video, "video_model", lambda *_: pipeline)
    montage = tmp_path / "references.png"
    config = video.VideoEvaluation(**small(num_views=3, num_frames=5, montage=montage))
    scores = video.evaluate_video(config)["scores"]
    halves = read_image(montage).split([5 * (SIZE + 2) - 2, 6, 5 * (SIZE + 2) - 2], -1)
    assert torch.equal(halves[0], halves[2]) and (halves[1] == 1).all() and len(halves[0][0]) > SIZE
    assert asked == [(True, True), (True, False), (False, True)] * 2
    for given in video.REFERENCES:
        assert scores[f"{given}/generated/psnr"] == {"mean": 60, "interval": 0, "n": 2}
        assert scores[f"{given}/generated/parallax_error"]["mean"] == 0


def test_what_is_given_is_carried_into_the_grids_that_are_enlarged(monkeypatch):
    """By a video model whose frames are exact but of half the size, and a reconstructor that knows
    the answer."""
    scene = make_scene(scene_seed("validation", 0), 3, 5, SIZE, SIZE)

    def pipeline(caption, height, fixed_view=None, freeze_time=None, **_):
        assert {height} == {
            given.shape[-1] for given in (fixed_view, freeze_time) if given is not None
        }
        return SimpleNamespace(frames=shrunk(scene.frames, SIZE // height))

    monkeypatch.setattr(video, "video_model", lambda *_: pipeline)
    monkeypatch.setattr(video, "reconstruction_model", lambda *_: lambda *_, **__: scene)
    options = small(scenes=1, num_views=3, num_frames=5, fill_scale=2, carry=True)
    scores = video.evaluate_video(video.VideoEvaluation(**options))["scores"]
    for given in video.REFERENCES:
        made, carried = (scores[f"{given}/{row}/psnr"]["mean"] for row in ("generated", "carried"))
        assert made < 40 and carried > made + 0.3, given
    assert scores["exact_blurred_2/psnr"]["mean"] > scores["exact_blurred_2.5/psnr"]["mean"]
