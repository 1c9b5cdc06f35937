"""`fourreal evaluate text`: prompts that are right, exact scenes and rivals, the montage."""

import numpy as np
import pytest
import torch

from fourreal.evaluation import evaluate_text as text
from fourreal.evaluation import prompt_score, rivals
from fourreal.evaluation.drawing import GREEN, RED, marked
from fourreal.files.media import read_image
from fourreal.scenes import describe, make_scene, scene_seed

from .small import SIZE, answering, small


@pytest.fixture(autouse=True)
def fewer_scenes(monkeypatch):
    """Less to calibrate on, and to have been trained on."""
    monkeypatch.setattr(prompt_score, "CALIBRATED", 12)
    monkeypatch.setattr(rivals, "TRAINING_SCENES", 50)
    caches = prompt_score.shape_classes, rivals.training_captions, rivals.training_objects
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_captions_of_training_scenes_are_left_out(monkeypatch):
    captions = [describe(scene_seed("validation", i), 1, 1).caption for i in range(3)]
    monkeypatch.setattr(text, "training_captions", lambda: (captions[0], captions[2]))
    config = text.TextEvaluation(**small(scenes=1, num_views=2, num_frames=5))
    ((caption, frames),) = text.prompts_of(config)
    assert caption == captions[1]
    exact = make_scene(scene_seed("validation", 1), 2, 5, SIZE, SIZE).frames
    assert torch.equal(frames, exact)


def test_new_prompts_name_objects_that_were_never_trained_on_together():
    seen = rivals.training_captions()[0]
    assert not rivals.is_new(seen)
    assert rivals.is_new("a red cube bouncing and a blue cube bouncing and a cyan cube bouncing")


def test_a_grid_is_scored_beside_the_exact_scene_and_the_rivals(monkeypatch):
    """Grey grids show nothing."""
    monkeypatch.setattr(text, "video_model", answering(torch.full((4, 9, 3, 64, 64), 0.5)))
    options = {"scenes": 2, "split": "validation", "num_views": 4, "num_frames": 9}
    found = text.evaluate_text(text.TextEvaluation(**options))
    scores = {name: score["mean"] for name, score in found["scores"].items()}
    rows = {name.split("/")[0] for name in scores}
    assert rows == {
        *("generated", "exact", "exact_blurred_1", "exact_blurred_2", "still_copy"),
        *("one_view", "colored_squares", "nearest_training_scene"),
    }
    assert scores["generated/found"] == scores["generated/prompt"] == 0
    assert scores["exact/found"] > 0.7 and scores["exact/sharpness"] == 1
    sharp = [scores[f"{row}/sharpness"] for row in ("exact", "exact_blurred_1", "exact_blurred_2")]
    assert sharp == sorted(sharp, reverse=True)
    assert len(found["values"]["generated/prompt"]) == 2
    told = found["shapes"]
    assert sum(told["exact"].values()) == sum(told["generated"].values()) >= 2
    assert all(pair.endswith("told as None") for pair in told["generated"])


def test_a_row_more_has_the_first_time_carried_into_the_others(monkeypatch):
    """By stand-ins: of grey grids it makes the exact scene, which is as right as that."""
    exact = make_scene(scene_seed("validation", 0), 4, 9, 64, 64)
    asked = []

    def carried(reconstructor, grid, **_):
        asked.append((reconstructor, grid))
        return exact.frames, (exact.extrinsics, exact.intrinsics)

    grey = torch.full((4, 9, 3, 64, 64), 0.5)
    monkeypatch.setattr(text, "video_model", answering(grey))
    monkeypatch.setattr(text, "reconstruction_model", lambda file, device: "the reconstructor")
    monkeypatch.setattr(text, "carry_first_time", carried)
    monkeypatch.setattr(text, "training_captions", lambda: ())
    options = {"scenes": 1, "split": "validation", "num_views": 4, "num_frames": 9}
    found = text.evaluate_text(text.TextEvaluation(**options, carry=True))["values"]
    ((reconstructor, grid),) = asked
    assert reconstructor == "the reconstructor" and torch.equal(grid, grey)
    for name in ("found", "shape", "motion", "views", "prompt", "sharpness"):
        assert found[f"carried/{name}"] == found[f"exact/{name}"]
    assert found["generated/found"] == [0] and found["exact/found"] == [1]


def test_given_prompts_take_the_place_of_captions_and_are_pictured(monkeypatch, tmp_path):
    monkeypatch.setattr(text, "video_model", answering(torch.full((2, 5, 3, SIZE, SIZE), 0.5)))
    config = text.TextEvaluation(**small(num_views=2, num_frames=5))
    config.prompts, config.montage = ("a red ball", "a blue box"), tmp_path / "montage.png"
    assert "exact/prompt" not in text.evaluate_text(config)["scores"]
    montage = read_image(config.montage)
    cell = montage[:, : 2 * (SIZE + 2) + 6, : 4 * (SIZE + 2) + 6]
    assert montage.shape == (3, cell.shape[1], 4 * cell.shape[2])
    # Grey cells with white between them; two prompts are given, and two places are left white.
    assert (cell == 1).all(0).any() and cell[:, 5, 5].mean().sub(0.5).abs() < 0.01
    assert torch.equal(montage[..., cell.shape[2] : 2 * cell.shape[2]], cell)
    assert (montage[..., 2 * cell.shape[2] :] == 1).all()
    # Grey shows neither prompt: a red bar is below both.
    for wrong in montage[:, -5].split(cell.shape[2], dim=-1)[:2]:
        assert torch.allclose(wrong[:, 5], torch.tensor(RED), atol=0.01)


def test_a_bar_says_whether_a_prompt_is_right():
    cell = torch.full((3, 20, 30), 0.5)
    below = [marked(cell, right)[:, -5, 3].tolist() for right in (1.0, 0.0, float("nan"))]
    assert below == [pytest.approx(color) for color in (GREEN, RED, (0.5, 0.5, 0.5))]


def test_the_size_of_motion_is_told_by_kind_beside_that_of_the_exact_scene():
    """A slide shown three times slower: its first ten times."""
    index = next(
        i
        for i in range(99)
        if [t.motion for t in describe(scene_seed("validation", i), 1, 1).things] == ["slide"]
    )
    scene = make_scene(scene_seed("validation", index), 8, 29, SIZE, SIZE)
    scores = text.TextScores()
    scores.add("exact", scene.frames, scene.caption, 1.0)
    scores.add("slow", scene.frames[:, torch.arange(29) // 3], scene.caption, 1.0)
    found = scores.medians()
    assert found["exact/size_of_slide_to_exact"] == 1
    path = describe(scene.seed, 8, 29).things[0].positions  # on a line
    part = np.linalg.norm(np.ptp(path[:10], 0)) / np.linalg.norm(np.ptp(path, 0))
    assert found["slow/size_of_slide_to_exact"] == pytest.approx(part, rel=0.15)
    ratio = found["slow/size_of_slide"] / found["exact/size_of_slide"]
    assert ratio == pytest.approx(found["slow/size_of_slide_to_exact"])
    alone = text.TextScores()
    alone.add("generated", scene.frames, scene.caption, None)
    assert list(alone.medians()) == ["generated/size_of_slide"]
