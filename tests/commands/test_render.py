"""`fourreal render`: where scenes are rendered, and what cannot be rendered."""

import torch

from fourreal.cli import main
from fourreal.commands import render as command
from fourreal.files.media import read_video
from fourreal.formats import save_scene
from fourreal.gaussians import GaussianScene

from ..tiny import cloud


def save_small_scene(path):
    intrinsics = torch.tensor([[[30.0, 0, 16], [0, 30, 16], [0, 0, 1]]])
    extrinsics = torch.eye(3, 4)[None]
    scene = GaussianScene(cloud(5), [cloud(3), cloud(4)], extrinsics, intrinsics, 32, 32, 8.0)
    save_scene(scene, path)
    return str(path)


def test_a_path_has_as_many_frames_as_asked_for(tmp_path):
    scene, out = save_small_scene(tmp_path / "s.safetensors"), tmp_path / "r.mp4"
    arguments = ["--kind", "freeze_time", "--num-frames", "4", "--height", "32"]
    assert main(["render", scene, "--out", str(out), *arguments]) == 0
    frames, rate = read_video(out)
    assert frames.shape == (4, 3, 32, 32) and rate == 8


def test_the_scene_is_rendered_on_the_device_that_is_asked_for(tmp_path, monkeypatch):
    """Meta tensors stand for those of a GPU."""
    places = []

    def render_path(scene, path, progress):
        places.append(scene.static.means.device.type)
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "render_path", render_path)
    scene = save_small_scene(tmp_path / "s.safetensors")
    assert main(["render", scene, "--device", "meta"]) == 130
    assert main(["render", scene, "--device", "cpu"]) == 130
    assert places == ["meta", "cpu"]


def test_a_device_that_is_not_there_is_one_sentence(tmp_path, capsys):
    scene = save_small_scene(tmp_path / "s.safetensors")
    assert main(["render", scene, "--device", "cuda:99"]) == 2
    assert "the device 'cuda:99' is not here" in capsys.readouterr().err
