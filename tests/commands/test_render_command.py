"""`fourreal render`: a scene file along a camera path, as images and depth."""

import torch

from fourreal.cameras import look_at
from fourreal.cli import main
from fourreal.files.media import read_depth, read_images
from fourreal.formats import load_scene, save_ply_sequence, save_scene
from fourreal.gaussians import GaussianScene
from fourreal.rendering import render_path, scene_path

from ..tiny import cloud


def dynamic_scene():
    """50 Gaussians that stand and 30, none and 20 that move, before one camera of 37 x 29."""
    camera = look_at(*torch.tensor([[0.3, -0.2, -4.0], [0.1, 0.0, 0.0], [0.1, -1.0, 0.0]]))
    intrinsics = torch.tensor([[40.0, 0, 20.8], [0, 36.0, 12.8], [0, 0, 1]])
    moving = [cloud(30, 1, seed=5), cloud(0), cloud(20, 0, seed=6)]
    return GaussianScene(cloud(50, 0, seed=4), moving, camera[None], intrinsics[None], 37, 29)


def test_the_render_command_follows_a_path_and_writes_depth(tmp_path, capsys):
    save_scene(dynamic_scene(), tmp_path / "s.safetensors")
    (tmp_path / "keys.json").write_text('[{"view": 0, "time": 2}, {"view": 0, "time": 0}]')
    arguments = ["render", str(tmp_path / "s.safetensors"), "--height", "16", "--num-frames", "3"]
    arguments += ["--out", str(tmp_path / "images"), "--depth", str(tmp_path / "d.npz")]
    assert main([*arguments, "--keyframes", str(tmp_path / "keys.json")]) == 0
    images = read_images(tmp_path / "images")
    scene = load_scene(tmp_path / "s.safetensors")
    expected, _, depth = render_path(
        scene, scene_path(scene, 16, num_frames=3, kind="fixed_view", time="ping_pong")
    )
    assert images.shape == (3, 3, 16, 20)
    torch.testing.assert_close(images[2], expected[0].movedim(-1, 0).clamp(0, 1), atol=3e-3, rtol=0)
    torch.testing.assert_close(
        read_depth(tmp_path / "d.npz")[2], depth[0, ..., 0], atol=1e-4, rtol=0
    )
    (tmp_path / "keys.json").write_text('[{"view": 9}, {"view": 0}]')
    assert main([*arguments, "--keyframes", str(tmp_path / "keys.json")]) == 2
    assert "9 as [0].view" in capsys.readouterr().err


def test_a_folder_of_ply_files_is_rendered_as_a_scene(tmp_path):
    save_ply_sequence(dynamic_scene(), tmp_path / "sequence")
    out = tmp_path / "images"
    arguments = ["render", str(tmp_path / "sequence"), "--height", "16", "--out", str(out)]
    assert main([*arguments, "--num-frames", "2"]) == 0
    assert len(read_images(out)) == 2
