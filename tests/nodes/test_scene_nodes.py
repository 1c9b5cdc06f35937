"""Scenes saved and loaded in every format, files named for the API, splats of others."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ..tiny import cloud


@pytest.fixture
def scene(nodes):
    """12 Gaussians that stand, 5 and 3 that move."""
    lens = torch.tensor([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]])
    views = torch.eye(3, 4)[None], lens[None]
    moving = [cloud(5, 1, 1), cloud(3, 1, 2)]
    return nodes.types.CachedScene(cloud(12, 1), moving, *views, 64, 48, 12.0)


@pytest.fixture
def folders(nodes):
    import folder_paths

    return SimpleNamespace(
        output=Path(folder_paths.get_output_directory()),
        input=Path(folder_paths.get_input_directory()),
    )


def save(nodes, scene, kind, name="4real/s"):
    """Paths below the output folder, as the API tells them."""
    told = nodes.SaveScene.execute(scene, f"{name}_{kind}", kind)
    assert all(entry["type"] == "output" for entry in told.ui["3d"])
    return [Path(entry["subfolder"]) / entry["filename"] for entry in told.ui["3d"]]


@pytest.mark.parametrize("kind", ["safetensors", "4dgs", "usdc", "zip"])
def test_formats_of_whole_scenes_are_one_file_that_is_loaded(nodes, scene, folders, kind):
    needed = {"4dgs": "fourdgs", "usdc": "pxr.Usd"}.get(kind)
    if needed:
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    (path,) = save(nodes, scene, kind)
    assert path.suffix == f".{kind}" and (folders.output / path).is_file()
    assert f"{path.as_posix()} [output]" in nodes.scene_nodes.available_scenes()
    loaded = nodes.LoadScene.execute(f"{path.as_posix()} [output]").args[0]
    assert isinstance(loaded, nodes.types.CachedScene)
    assert [len(loaded.at(t)) for t in range(2)] == [17, 15]


@pytest.mark.parametrize("kind", ["ply", "spz", "splat", "glb"])
def test_formats_of_one_time_are_a_folder_or_one_file(nodes, scene, folders, kind):
    paths = save(nodes, scene, kind)
    assert [p.name for p in paths] == [f"frame_0001.{kind}", f"frame_0002.{kind}"]
    assert paths[0].parent.parent == Path("4real")
    folder = f"{paths[0].parent.as_posix()}/ [output]"
    names = nodes.scene_nodes.available_scenes()
    assert names.index(folder) < names.index(f"{paths[1].as_posix()} [output]")
    whole = nodes.LoadScene.execute(folder).args[0]
    assert [len(whole.at(t)) for t in range(2)] == [17, 15]
    newest = max((folders.output / path).stat().st_mtime for path in paths)
    assert nodes.LoadScene.fingerprint_inputs(folder) == newest
    splat = nodes.SceneToSplat.execute(scene, 1).args[0]  # core's type, one time
    (single,) = save(nodes, splat, kind, "4real/one")
    loaded = nodes.LoadScene.execute(f"{single.as_posix()} [output]").args[0]
    assert (loaded.num_frames, len(loaded.static)) == (1, 15)
    torch.testing.assert_close(
        loaded.static.means.sort(0).values, scene.at(1).means.sort(0).values, atol=1e-3, rtol=0
    )


def test_a_page_with_the_viewer_is_saved(nodes, scene, folders):
    (path,) = save(nodes, scene, "html")
    assert "<html" in (folders.output / path).read_text(encoding="utf-8")[:500]


def test_a_scene_file_holds_prompt_and_workflow_unless_they_are_disabled(nodes, scene, monkeypatch):
    from comfy.cli_args import args

    hidden = SimpleNamespace(prompt={"1": {}}, extra_pnginfo={"workflow": {"nodes": [7]}})
    monkeypatch.setattr(nodes.SaveScene, "hidden", hidden)
    for disabled in (False, True):
        monkeypatch.setattr(args, "disable_metadata", disabled)
        (path,) = save(nodes, scene, "safetensors")
        about = nodes.LoadScene.execute(f"{path.as_posix()} [output]").args[0].metadata
        if disabled:
            assert not about
        else:
            assert (
                json.loads(about["workflow"]) == {"nodes": [7]} and about["prompt"] == '{"1": {}}'
            )


def test_a_splat_goes_along_a_path_and_into_the_viewer_without_a_scene(nodes, scene, folders):
    """A file that was written by another program's layout, loaded as core's SPLAT would be."""
    splat = nodes.SceneToSplat.execute(scene, -1).args[0]
    path = nodes.CameraPathNode.execute(splat, "fixed_view", 4, 0).args[0]
    assert path.times.tolist()[-1] == 1 and (path.width, path.height) == (640, 480)
    image, mask, *_ = nodes.RenderSplats.execute(splat, path, 64, 48, "#000000").args
    assert image.shape == (4, 48, 64, 3) and mask.max() > 0.5
    shown = nodes.Preview4D.execute(splat)
    assert shown.ui["fourreal_scene"][0]["folder"]
    assert shown.args[0].num_frames == 2


def test_the_newest_scene_comes_first(nodes, folders):
    import os

    for age, name in ((3, "old.ply"), (1, "new.spz"), (2, "middle.glb")):
        (folders.input / name).write_bytes(b"x")
        os.utime(folders.input / name, (2e9 - age, 2e9 - age))
    found = [n for n in nodes.scene_nodes.available_scenes() if "/" not in n and "[" not in n]
    assert found[:3] == ["new.spz", "middle.glb", "old.ply"]


def test_a_still_splat_stands_still_along_the_path_of_another_scene(nodes, scene):
    path = nodes.CameraPathNode.execute(scene, "fixed_view", 4, 0).args[0]
    still = nodes.SceneToSplat.execute(scene, 1).args[0]
    images = nodes.RenderSplats.execute(still, path, 32, 24, "#000000").args[0]
    assert path.times.max() == 1 and all(torch.equal(images[0], image) for image in images)


@pytest.mark.parametrize(("width", "height"), [(63, 65), (64, 33), (32, 32)])
def test_the_video_of_an_odd_size_is_rounded_up(nodes, scene, tmp_path, width, height):
    """By a copy of the last row and column; the images stay as they were asked for."""
    path = nodes.CameraPathNode.execute(scene, "fixed_view", 2, 0).args[0]
    images, _, _, video = nodes.RenderSplats.execute(scene, path, width, height, "#102030").args
    assert images.shape == (2, height, width, 3)
    shown = video.get_components().images
    assert shown.shape == (2, height + height % 2, width + width % 2, 3)
    assert torch.equal(shown[:, :height, :width], images)
    assert torch.equal(shown[:, -1, :width], images[:, -1])
    assert torch.equal(shown[:, :height, -1], images[:, :, -1])


def test_files_of_one_time_are_those_of_the_library(nodes):
    from fourreal.formats import FORMATS

    assert set(FORMATS) == nodes.scene_nodes.ONE_TIME
