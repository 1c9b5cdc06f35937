"""What is evaluated on: scenes, clips in their place, and what cannot be used."""

from dataclasses import replace

import pytest
import torch

from fourreal.cli import main
from fourreal.data.clips import find_clips, read_window
from fourreal.evaluation.examples import Evaluation, examples
from fourreal.files.media import write_image, write_video
from fourreal.scenes import make_scene, scene_seed


def test_scenes_are_those_of_the_split():
    config = Evaluation(2, 2, 5, "validation", height=16, width=16)
    found = list(examples(config))
    exact = [make_scene(scene_seed("validation", index), 2, 5, 16, 16) for index in range(2)]
    assert all(torch.equal(a.frames, b.frames) for a, b in zip(found, exact))
    assert [a.caption for a in found] == [b.caption for b in exact]
    assert torch.equal(found[1].scene.depth, exact[1].depth)


def test_nvidia_dynamic_lays_its_frames_out_by_time(tmp_path):
    frames = torch.rand(3, 4, 3, 20, 24)
    for view in range(3):
        for time in range(4):
            path = tmp_path / "Balloon1-2" / "mv_images" / f"{time:05d}" / f"cam{view + 1:02d}.png"
            write_image(path, frames[view, time])
    clips, problems = find_clips("multiview", tmp_path, 3, 4, "a balloon")
    assert not problems and len(clips) == 1 and len(clips[0].views) == 3
    found = torch.stack([read_window(view, 1, 3) for view in clips[0].views])
    torch.testing.assert_close(found, frames[:, 1:], atol=1 / 254, rtol=0)


def test_clips_take_the_place_of_scenes(tmp_path):
    for view in range(3):
        write_video(tmp_path / "scene" / f"cam{view}.mp4", torch.rand(5, 3, 32, 48), 8.0)
    config = Evaluation(num_views=3, num_frames=5, data=tmp_path, height=32, width=32)
    (example,) = examples(config)
    assert example.frames.shape == (3, 5, 3, 32, 32) and example.scene is None
    with pytest.raises(ValueError, match="has 3 views, but 12 are needed"):
        next(examples(replace(config, num_views=12)))
    with pytest.raises(ValueError, match="scenes is 0"):
        next(examples(Evaluation(scenes=0)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["video", "--data", "{tmp}"], "holds no videos"),
        (["split", "--data", "{tmp}"], "needs exact depth"),
        (["reconstruction", "--reconstructor", "{tmp}/x.safetensors"], "x.safetensors"),
        (["autoencoder", "--model", "{tmp}/none"], "none"),
        (["reconstruction", "--device", "cuda:99"], "the device 'cuda:99' is not here"),
    ],
)
def test_an_evaluation_of_nothing_ends_in_one_sentence(tmp_path, capsys, arguments, words):
    assert main(["evaluate", *(word.replace("{tmp}", str(tmp_path)) for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1
