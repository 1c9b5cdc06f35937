"""`fourreal evaluate text`: colours that prompts name, the exact scenes as a bound, the montage."""

import math

import pytest
import torch

from fourreal.evaluation import evaluate_text as text
from fourreal.files.media import read_image
from fourreal.scenes import make_scene, scene_seed

from .small import SIZE, answering, small


def test_exact_scenes_show_every_colour_that_their_caption_names():
    for index in range(8):
        scene = make_scene(scene_seed("validation", index), 2, 2, 64, 64)
        shown = text.score_colors(scene.frames, scene.caption)["prompts"]
        assert shown == 1 or math.isnan(shown), scene.caption


def test_a_missing_object_is_noticed():
    frames = make_scene(scene_seed("validation", 2), 4, 5, SIZE, SIZE).frames
    grey = frames.mean(2, keepdim=True).expand_as(frames)
    assert text.score_colors(grey, "a red ball and a blue box")["colors"] == 0
    red = grey.clone()
    red[..., 10:20, 10:20] = torch.tensor([0.8, 0.1, 0.1])[:, None, None]
    found = text.score_colors(red, "a red ball and a blue box")
    assert (found["cells"], found["colors"], found["prompts"]) == (0.5, 0.5, 0.0)


def test_a_prompt_without_colours_has_no_score():
    frames = torch.rand(2, 3, 3, 16, 16)
    found = text.score_colors(frames, "a ball and a white box")
    assert set(found) == {"cells", "colors", "prompts"} and all(map(math.isnan, found.values()))


def test_text_is_scored_beside_the_exact_scene(monkeypatch):
    """Grey grids show nothing, but are easily reconstructed. Of exact ones the card has 26.2 dB."""
    monkeypatch.setattr(text, "video_model", answering(torch.full((4, 5, 3, 64, 64), 0.5)))
    options = {"scenes": 2, "split": "validation", "num_views": 4, "num_frames": 5, "times": 2}
    found = text.evaluate_text(text.TextEvaluation(**options))
    scores, values = found["scores"], found["values"]
    assert (scores["exact/shown_prompts"]["mean"], scores["exact/shown_prompts"]["n"]) == (1, 1)
    assert scores["generated/shown_prompts"]["mean"] == 0
    assert values["exact/reconstructed_psnr"] == pytest.approx([32.0, 26.7], abs=0.5)
    assert values["generated/reconstructed_psnr"] == pytest.approx([39.0, 39.0], abs=0.5)


def test_given_prompts_take_the_place_of_captions_and_are_pictured(monkeypatch, tmp_path):
    monkeypatch.setattr(text, "video_model", answering(torch.full((2, 5, 3, SIZE, SIZE), 0.5)))
    config = text.TextEvaluation(**small(num_views=2, num_frames=5, times=2))
    config.prompts, config.montage = ("a red ball", "a blue box"), tmp_path / "montage.png"
    assert "exact/shown_prompts" not in text.evaluate_text(config)["scores"]
    montage = read_image(config.montage)
    cell = montage[:, : 2 * (SIZE + 2) + 6, : 4 * (SIZE + 2) + 6]
    assert montage.shape == (3, cell.shape[1], 4 * cell.shape[2])
    # Grey cells with white between them; two prompts are given, and two places are left white.
    assert (cell == 1).all(0).any() and cell[:, 5, 5].mean().sub(0.5).abs() < 0.01
    assert torch.equal(montage[..., cell.shape[2] : 2 * cell.shape[2]], cell)
    assert (montage[..., 2 * cell.shape[2] :] == 1).all()
