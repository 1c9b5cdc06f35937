"""Preview 4D: its files, and what it gives of what the viewer reports."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ..comfyui import prompt_of


@pytest.fixture
def scene(nodes):
    """Something that stands and something that moves, seen by two cameras."""
    from fourreal.cameras import look_at, pixel_intrinsics
    from fourreal.gaussians import Gaussians

    def some(count: int) -> Gaussians:
        quaternions = torch.nn.functional.normalize(torch.randn(count, 4), dim=1)
        return Gaussians(
            torch.randn(count, 3) + torch.tensor([0.0, 0, 4]),
            quaternions,
            torch.rand(count, 3) / 9,
            torch.rand(count),
            torch.randn(count, 1, 3),
        )

    torch.manual_seed(0)
    eyes, up = torch.tensor([[0.0, 0, 0], [1.0, -0.5, 0.2]]), torch.tensor([0.0, -1, 0])
    return nodes.types.CachedScene(
        some(9),
        [some(3), some(2)],
        look_at(eyes, torch.tensor([0.1, 0, 4]), up),
        pixel_intrinsics(torch.full((2,), 0.9), 48, 64),
        64,
        48,
    )


def state_of(camera: dict, **more) -> dict:
    """The page's state with a LOAD3D_CAMERA: three.js's lists in place of ComfyUI's dicts."""
    seen = {k: list(camera[k].values()) for k in ("position", "target", "quaternion")}
    return seen | {"fov": camera["fov"]} | more


def kept_folder(out) -> Path:
    """Where the files are that a run of the node showed."""
    import folder_paths

    (shown,) = out.ui["fourreal_scene"]
    assert "filename" not in shown  # else the editor takes it for the job's result
    return Path(folder_paths.get_output_directory()) / shown["folder"]


def test_the_files_are_those_of_the_viewer_and_written_once(nodes, scene):
    from fourreal.viewer import scene_files

    preview = nodes.Preview4D
    out = preview.execute(scene)
    assert out.args[0] is scene
    folder = kept_folder(out)
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == {
        name: content() for name, content in scene_files(scene).items()
    }
    view = {"position": [1, 2, 3], "target": [0, 0, 0], "quaternion": [0, 0, 0, 1], "fov": 40.0}
    again = preview.execute(scene, view=view | {"owner": "this node"})
    assert kept_folder(again) == folder  # the viewer is not loaded again
    assert again.ui["fourreal_scene"][0]["owner"] == "this node"
    images = torch.rand(4, 48, 64, 3)
    assert (kept_folder(preview.execute(scene, images)) / "1_1.jpg").is_file()
    with pytest.raises(ValueError, match="cannot be split into 2 views"):
        preview.execute(scene, images[:3])
    del images
    assert kept_folder(preview.execute(scene)) == folder  # as none are connected now


def test_images_of_another_number_of_views_are_refused(nodes, scene):
    graph = {
        "grid": ("FourReal_GridLatent", {"num_views": 4, "num_frames": 1}),
        "decode": ("VAEDecode", {"samples": ["grid", 0]}),
        "here": ("FourReal_Preview4D", {"images": ["decode", 0]}),
    }
    hidden = SimpleNamespace(unique_id="here", prompt=prompt_of(graph))
    node = type("Preview4D", (nodes.Preview4D,), {"hidden": hidden})
    with pytest.raises(ValueError, match="has 2 views, but images come from Grid Latent with 4"):
        node.execute(scene, torch.rand(4, 48, 64, 3))


def test_a_cancelled_preview_leaves_no_files(nodes, scene):
    import comfy.model_management as management

    kept = nodes.kept_scenes.scenes_folder
    before = set(kept().glob("*"))
    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        nodes.Preview4D.execute(replace(scene, fps=9.0))
    assert set(kept().glob("*")) == before


def test_scenes_not_seen_for_longest_make_room_and_are_written_again(nodes, scene, monkeypatch):
    preview, kept = nodes.Preview4D, nodes.kept_scenes
    shutil.rmtree(kept.scenes_folder(), ignore_errors=True)
    kept.scenes_folder().mkdir(parents=True)
    (kept.scenes_folder() / ".DS_Store").touch()
    monkeypatch.setattr(kept, "MOST_SCENES", 2)
    remembered = preview.fingerprint_inputs(scene=None)
    scenes = [replace(scene, fps=fps) for fps in (10.0, 11.0, 12.0)]
    folders = []
    for hour, of in enumerate([*scenes[:2], scenes[0], scenes[2]]):
        folders.append(kept_folder(preview.execute(of)))
        os.utime(folders[-1], (hour * 3600 - 1e6,) * 2)
    assert folders[2] == folders[0]
    assert set(kept.scenes_folder().glob("[!.]*")) == {folders[0], folders[3]}
    assert kept.is_kept(folders[0].name) and not kept.is_kept(folders[1].name)
    assert not kept.is_kept("..") and not kept.is_kept("")
    # ComfyUI's cache of the node then counts as old, once.
    changed = preview.fingerprint_inputs(scene=None)
    assert changed != remembered and changed == preview.fingerprint_inputs(scene=None)
    assert kept_folder(preview.execute(scenes[1])) == folders[1]
    monkeypatch.setattr(kept, "MOST_BYTES", 0)
    newest = kept_folder(preview.execute(replace(scene, fps=13.0)))
    assert list(kept.scenes_folder().glob("[!.]*")) == [newest]  # however large


def test_the_viewers_camera_comes_out_as_the_one_of_other_nodes(nodes, scene):
    for view in (0, 1):
        camera = nodes.SceneCamera.execute(scene, view).args[0]
        again = nodes.Preview4D.execute(scene, view=state_of(camera)).args[1]
        assert again == camera
    assert nodes.Preview4D.execute(scene).args[1] == nodes.SceneCamera.execute(scene, 0).args[0]


def test_the_image_is_what_the_viewer_shows(nodes, scene):
    from fourreal.rendering import render

    scene.intrinsics[1, 0, 2] += 5  # a principal point, which LOAD3D_CAMERA does not hold
    cameras = [nodes.SceneCamera.execute(scene, view).args[0] for view in (0, 1)]

    def drawn(view: int, time: int, intrinsics=scene.intrinsics):
        camera = scene.extrinsics[view, None], intrinsics[view, None]
        return render(scene.at(time), *camera, 64, 48).color.clamp(0, 1)

    def image(view: dict | None):
        return nodes.Preview4D.execute(scene, view=view).args[2]

    assert torch.equal(image(None), drawn(0, 0))
    assert torch.equal(image({"owner": "this node"}), drawn(0, 0))
    assert torch.equal(image(state_of(cameras[1], view=1, time=1)), drawn(1, 1))
    assert torch.equal(image(state_of(cameras[1], view=1, time=7)), drawn(1, 1))  # the last
    assert image(None).std() > 0.02
    centred = scene.intrinsics.clone()
    centred[1, 0, 2] -= 5
    for view in (-1, 9):  # none, and one of another scene
        seen = image(state_of(cameras[1], view=view, time=1))
        assert torch.allclose(seen, drawn(1, 1, centred), atol=1e-3)


def test_the_path_goes_through_the_viewers_keyframes(nodes, scene):
    from fourreal.cameras import camera_centers

    cameras = [nodes.SceneCamera.execute(scene, view).args[0] for view in (0, 1)]
    centers = camera_centers(scene.extrinsics)
    path = nodes.Preview4D.execute(scene, view=state_of(cameras[1], time=1)).args[3]
    assert path.times.tolist() == [0, 1] and (path.width, path.height) == (64, 48)
    assert torch.allclose(camera_centers(path.extrinsics), centers[[1, 1]], atol=1e-5)
    keyframes = [{"time": time, "camera": state_of(cameras[time])} for time in (0, 1)]
    view = state_of(cameras[1], time=1, path=keyframes)
    path = nodes.Preview4D.execute(scene, view=view).args[3]
    assert torch.allclose(camera_centers(path.extrinsics), centers, atol=1e-5)
    images = nodes.RenderSplats.execute(scene, path, 0, 0, "#000000").args[0]
    assert images.shape == (2, 48, 64, 3)
    # A still scene's timeline is four seconds of its camera.
    still = replace(scene, dynamic=scene.dynamic[:1], fps=10.0)
    keyframes[1]["time"] = 39
    path = nodes.Preview4D.execute(still, view=view).args[3]
    assert path.times.tolist() == [0] * 40
    ends = camera_centers(path.extrinsics)[[0, 39]]
    assert torch.allclose(ends, centers, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"position": None},
        {"position": [1, float("inf"), 2]},
        {"fov": "wide"},
        {"time": float("nan")},
        {"path": [{"time": 1}]},
        {"path": 3},
        {"view": "first"},
    ],
    ids=str,
)
def test_what_is_no_state_of_the_viewer_is_refused_in_a_sentence(nodes, scene, change):
    view = state_of(nodes.SceneCamera.execute(scene, 0).args[0]) | change
    with pytest.raises(ValueError, match=r"view is no state of the viewer .*; leave it out, or"):
        nodes.Preview4D.execute(scene, view=view)


def test_a_splat_is_a_scene_with_a_time_for_each_item(nodes, scene):
    """And its files are written once for one SPLAT, however often the camera changes."""
    splat = nodes.SceneToSplat.execute(scene, -1).args[0]
    out = nodes.Preview4D.execute(splat)
    about = json.loads((kept_folder(out) / "scene.json").read_bytes())
    assert (about["static"], about["dynamic"]) == (0, [12, 11])
    os.utime(kept_folder(out) / "0.bin", (0, 0))
    again = nodes.Preview4D.execute(splat, view=state_of(out.args[1]))
    assert again.ui == out.ui and (kept_folder(out) / "0.bin").stat().st_mtime == 0
    still = nodes.Preview4D.execute(nodes.SceneToSplat.execute(scene, 1).args[0])
    about = json.loads((kept_folder(still) / "scene.json").read_bytes())
    assert (about["static"], about["dynamic"]) == (11, [0])
