"""`fourreal warp` on a scene, a video and photos, with an untrained reconstructor."""

import json

import pytest
import torch

from fourreal.cli import main
from fourreal.files.media import read_image, read_video, write_image, write_video
from fourreal.formats import load_scene, save_scene
from fourreal.reconstruction import Reconstructor, predicted_scene
from fourreal.scenes import make_scene, scene_seed
from fourreal.warp import warp_grid

from .test_render_command import dynamic_scene

WRITTEN = {
    "cameras.safetensors",
    "contact_sheet.png",
    "grid.mp4",
    "missing",
    "missing.png",
    "report.json",
    "scene.safetensors",
    "views",
}
TRUTH = make_scene(scene_seed("validation", 0), 3, 5, 32, 32)


def read_views(folder):
    """A grid [V, T, 3, H, W] of the folder's videos."""
    return torch.stack([read_video(path)[0] for path in sorted(folder.glob("view_*.mp4"))])


def test_a_scene_is_warped_to_an_arc_of_any_size(tmp_path):
    scene, out = dynamic_scene(), tmp_path / "out"
    save_scene(scene, tmp_path / "s.safetensors")
    size = ["--height", "40", "--width", "48", "--views", "3", "--max-frames", "2"]
    arc = ["--arc", "-20", "--elevation", "5", "--distance", "1.2"]
    assert main(["warp", str(tmp_path / "s.safetensors"), "--out", str(out), *size, *arc]) == 0
    assert {p.name for p in out.iterdir()} == WRITTEN
    cameras = load_scene(out / "cameras.safetensors")
    assert cameras.num_gaussians == 0 and (cameras.width, cameras.height) == (48, 40)
    torch.testing.assert_close(cameras.extrinsics[0], scene.extrinsics[0])
    warped = warp_grid(scene, cameras.extrinsics, cameras.intrinsics, 48, 40)
    views, masks = read_views(out / "views"), read_views(out / "missing")
    assert views.shape == masks.shape == (3, 2, 3, 40, 48)
    assert ((masks > 0.5) == (warped.missing[:, :2] > 0)).float().mean() > 0.98
    assert (views - warped.frames[:, :2]).abs().mean() < 0.03
    report = json.loads((out / "report.json").read_text())
    expected = (1 - warped.missing[:, :2].mean((1, 2, 3, 4))).tolist()
    assert report["known_share"] == pytest.approx(expected, abs=1e-3)
    assert report["settings"]["arc"] == -20


def test_a_video_is_known_whole_in_its_own_view(tmp_path):
    write_video(tmp_path / "row.mp4", TRUTH.frames[0], 12)
    out = tmp_path / "out"
    assert main(["warp", str(tmp_path / "row.mp4"), "--views", "2", "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["known_share"][0] == 1 > report["known_share"][1]
    assert list(report["stages"]) == ["load", "geometry", "warp", "write"]
    views, row = read_views(out / "views"), read_video(tmp_path / "row.mp4")
    assert (views[0] - row[0]).abs().mean() < 0.02 and row[1] == 12
    assert load_scene(out / "scene.safetensors").num_frames == 5
    assert read_image(out / "missing.png").max() == 1


def test_photos_are_a_still_scene(tmp_path):
    for view, photo in enumerate(TRUTH.frames[:, 0]):
        write_image(tmp_path / "photos" / f"{view}.png", photo)
    out, size = tmp_path / "out", ["--height", "16", "--width", "16"]
    assert main(["warp", str(tmp_path / "photos"), "--out", str(out), *size]) == 0
    scene = load_scene(out / "scene.safetensors")
    assert (scene.num_views, scene.num_frames, scene.height) == (3, 1, 16)
    assert read_views(out / "views").shape == (8, 1, 3, 16, 16)
    assert main(["warp", str(tmp_path / "photos" / "1.png"), "--out", str(out), *size]) == 0
    assert load_scene(out / "scene.safetensors").num_views == 1


def test_a_run_that_fails_leaves_what_was_there(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept.txt").write_text("kept")
    write_video(tmp_path / "row.mp4", TRUTH.frames[0], 8)
    line = ["warp", str(tmp_path / "row.mp4"), "--out", str(tmp_path / "out")]
    assert main([*line, "--height", "32"]) == 2
    assert "--height and --width are needed together" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["kept.txt"]


def test_a_video_and_photos_make_one_scene_in_one_unit(model_files):
    """The video's depth is brought to the unit of the photos' cameras, whatever its own is."""
    reconstructor = Reconstructor.from_file(model_files / "reconstructor.safetensors")

    def reconstruct(frames, **options):
        found = reconstructor(frames, **options, adjust=False)
        factor = 5.0 if len(frames) == 1 else 1.0
        found.depth = factor * TRUTH.depth[: len(frames), : frames.shape[1]]
        found.depth_confidence = torch.full_like(found.depth, 2.0 if len(frames) == 1 else 3.0)
        found.extrinsics = TRUTH.extrinsics[: len(frames)]
        found.intrinsics = TRUTH.intrinsics[: len(frames)]
        return found

    scene = predicted_scene(
        reconstruct, fixed_view=TRUTH.frames[0], freeze_time=TRUTH.frames[:, 0], fps=12.0
    )
    assert (scene.num_views, scene.num_frames, scene.fps) == (3, 5, 12.0)
    seen = scene.observed
    assert seen[0].all() and seen[:, 0].all() and not seen[1:, 1:].any()
    assert scene.confidences[0].unique().tolist() == [2, 3]
    assert scene.confidences[3].unique().tolist() == [2]  # by then there is the video alone
    row = predicted_scene(reconstruct, fixed_view=TRUTH.frames[0])
    assert row.confidences[0].unique().tolist() == [2]
    alone = predicted_scene(reconstruct, freeze_time=TRUTH.frames[:, 0])
    first = TRUTH.extrinsics[0]
    for time in range(5):
        distance = scene.at(time).viewing_distance(first)
        assert distance == pytest.approx(alone.at(0).viewing_distance(first), rel=0.1)
