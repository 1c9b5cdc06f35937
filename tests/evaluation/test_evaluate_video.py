"""`fourreal evaluate video`: scores beside both copies, and the picture."""

from types import SimpleNamespace

import pytest
import torch

from fourreal.evaluation import evaluate_video as video
from fourreal.files.media import read_image
from fourreal.scenes import make_scene, scene_seed

from .small import SIZE, small


def test_scores_of_a_video_compare_with_both_copies():
    exact = make_scene(scene_seed("validation", 2), 4, 5, SIZE, SIZE).frames
    scores = video.score_video(exact, exact)
    assert scores["generated_full"] == 60 and scores["generated_ssim"] == pytest.approx(1, abs=1e-4)
    copy = video.score_video(exact[:1].expand_as(exact), exact)
    assert copy["generated_full"] == copy["fixed_view_copy_full"] < 30
    assert copy["gain_on_moving"] <= 0


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
        assert scores[f"{given}/generated_full"] == {"mean": 60, "interval": 0, "n": 2}
        generated = scores[f"{given}/generated_view_consistency"]
        assert generated == scores[f"{given}/exact_view_consistency"]
