"""Cameras for other programs, read back by the readers of other programs' files."""

import pytest
import torch
from PIL import Image

from fourreal.cameras import from_opengl, look_at, to_opengl
from fourreal.data.posed_photos import PosedPhoto
from fourreal.formats import save_cameras
from fourreal.gaussians import Gaussians, GaussianScene


def the_scene(count=3):
    r = torch.Generator().manual_seed(2)
    places = torch.randn(count, 3, generator=r) * 2
    up = torch.tensor([0.0, -1, 0])
    views = torch.stack([look_at(p, torch.zeros(3), up) for p in places])
    lens = torch.tensor([[50.0, 0, 31], [0, 52.0, 25], [0, 0, 1]]).expand(count, 3, 3)
    return GaussianScene(Gaussians.empty(), [Gaussians.empty()], views, lens, 64, 48)


def images(folder, names):
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.new("RGB", (64, 48)).save(folder / name)


def same(photos: list[PosedPhoto], scene: GaussianScene):
    assert [p.file.name for p in photos] == ["view_01.png", "view_02.png", "view_03.png"]
    for photo, extrinsics, intrinsics in zip(photos, scene.extrinsics, scene.intrinsics):
        torch.testing.assert_close(photo.extrinsics.float(), extrinsics, atol=1e-5, rtol=0)
        lens = [*photo.focal, *photo.center]
        expected = intrinsics[[0, 1, 0, 1], [0, 1, 2, 2]].tolist()
        assert lens == pytest.approx(expected, abs=1e-4) and photo.size == (64, 48)


def test_transforms_json_is_read_back(tmp_path):
    from fourreal.data.transforms import read_transforms

    images(tmp_path / "t", ["view_01.png", "view_02.png", "view_03.png"])
    save_cameras(the_scene(), tmp_path / "t" / "transforms.json")
    same(read_transforms(tmp_path / "t" / "transforms.json"), the_scene())


def test_colmap_s_text_files_are_read_back(tmp_path):
    from fourreal.data.colmap import read_colmap

    images(tmp_path / "c", ["view_01.png", "view_02.png", "view_03.png"])
    save_cameras(the_scene(), tmp_path / "c")
    same(read_colmap(tmp_path / "c", tmp_path / "c"), the_scene())


def test_opengl_s_poses_are_the_inverse_of_reading_them():
    scene = the_scene(5)
    poses = to_opengl(scene.extrinsics)
    assert poses.shape == (5, 4, 4)
    torch.testing.assert_close(from_opengl(poses), scene.extrinsics, atol=1e-5, rtol=0)
    looks = -poses[:, :3, 2]  # OpenGL's cameras look along -z: here at the origin
    towards = torch.nn.functional.normalize(-poses[:, :3, 3], dim=-1)
    torch.testing.assert_close(looks, towards, atol=1e-5, rtol=0)


def test_cameras_of_another_kind_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cameras\.txt"):
        save_cameras(the_scene(), tmp_path / "cameras.txt")
