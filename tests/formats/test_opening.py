"""open_scene: any file or folder of Gaussians becomes a scene whose camera sees it."""

import numpy as np
import pytest
import torch

from fourreal.cameras.pinhole import project
from fourreal.formats import open_scene, save_gaussians, save_scene, save_usd
from fourreal.gaussians import Gaussians, GaussianScene

from ..tiny import cloud
from .comparing import scene


@pytest.mark.parametrize("suffix", [".ply", ".spz", ".splat", ".PLY"])
@pytest.mark.parametrize("place", [(0.0, 0.0, 0.0), (500.0, -40.0, 90.0)])
def test_a_still_file_becomes_a_scene_of_one_time_in_sight(tmp_path, suffix, place):
    g = cloud(200, 0)
    g.means += torch.tensor(place)
    save_gaussians(g, tmp_path / f"g{suffix}")
    opened = open_scene(tmp_path / f"g{suffix}")
    assert (opened.num_frames, opened.num_views, len(opened.static)) == (1, 1, 200)
    assert len(opened.dynamic[0]) == 0
    pixels, depth = project(g.means, opened.extrinsics[0], opened.intrinsics[0])
    inside = (pixels >= 0).all(-1) & (pixels < torch.tensor([640.0, 480.0])).all(-1)
    assert (inside & (depth > 0)).float().mean() >= 0.9


def test_a_folder_is_a_scene_that_moves(tmp_path):
    for i in range(3):
        save_gaussians(cloud(5 + i, 1), tmp_path / f"f{i}.ply")
    opened = open_scene(tmp_path)
    assert [len(g) for g in opened.dynamic] == [5, 6, 7] and len(opened.static) == 0


def test_a_scene_file_keeps_its_cameras_and_leaves_out_what_is_not_finite(tmp_path, caplog):
    save_scene(scene(), tmp_path / "s.safetensors")
    content = (tmp_path / "s.safetensors").read_bytes()
    number = np.float32(scene().dynamic[0].means[2, 1].item()).tobytes()
    assert content.count(number) == 1
    (tmp_path / "s.safetensors").write_bytes(content.replace(number, np.float32("nan").tobytes()))
    opened = open_scene(tmp_path / "s.safetensors")
    assert [len(g) for g in opened.dynamic] == [6, 0, 3]
    assert torch.equal(opened.extrinsics, scene().extrinsics)
    assert "1 of 7 Gaussians are left out" in caplog.text


def test_usd_keeps_its_rate_and_what_stands_still(tmp_path):
    pytest.importorskip("pxr.Usd", reason="usd-core is not installed (the extra `usd`)")
    given = GaussianScene(
        *(cloud(9, 1), [cloud(4, 1), cloud(5, 1)], torch.eye(3, 4)[None], torch.eye(3)[None]),
        *(8, 8, 12.5),
    )
    save_usd(given, tmp_path / "s.usdc")
    opened = open_scene(tmp_path / "s.usdc")
    assert (len(opened.static), [len(g) for g in opened.dynamic]) == (9, [4, 5])
    assert opened.fps == 12.5


def test_what_holds_no_gaussians_is_refused_by_name(tmp_path):
    (tmp_path / "a.obj").write_text("v 0 0 0")
    save_gaussians(Gaussians.empty(), tmp_path / "empty.ply")
    (tmp_path / "folder").mkdir()
    for name, message in {
        "a.obj": "suffix",
        "empty.ply": "no Gaussians",
        "folder": "no .ply",
    }.items():
        with pytest.raises(ValueError, match=message) as error:
            open_scene(tmp_path / name)
        assert name in str(error.value)
    with pytest.raises(ValueError, match=r"absent\.ply does not exist"):
        open_scene(tmp_path / "absent.ply")
