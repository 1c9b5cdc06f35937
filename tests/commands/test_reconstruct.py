"""`fourreal reconstruct` on synchronised videos, with an untrained reconstructor."""

import json
from types import SimpleNamespace

import pytest
import torch

from fourreal.cli import main
from fourreal.commands import reconstruct as command
from fourreal.files.media import write_video
from fourreal.formats import load_scene
from fourreal.reconstruction import Filters, StaticSplit

from .small_job import FILES


@pytest.fixture
def videos(tmp_path):
    """A folder of two views of three frames, 32 x 48 pixels, 8 frames per second."""
    generator = torch.Generator().manual_seed(0)
    for name in ("a", "b"):
        frames = torch.rand(3, 3, 32, 48, generator=generator)
        write_video(tmp_path / "in" / f"{name}.mp4", frames, 8)
    return tmp_path / "in"


def test_reconstruct_takes_synchronised_videos(tmp_path, videos, caplog):
    arguments = ["--out", str(tmp_path / "out"), "--orbit-size", "32"]
    assert main(["reconstruct", str(videos), *arguments]) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == FILES
    scene = load_scene(tmp_path / "out" / "scene.safetensors")
    assert (scene.width, scene.height, scene.fps, scene.num_frames) == (48, 32, 8, 3)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["stages"]) == {"load", "reconstruct", "render", "write"}
    # Tiny random videos are no scene, which is told.
    assert report["psnr_at_inputs"] < 19 and "no reconstruction" in caplog.text
    assert report["shows_its_inputs"] is False
    last = caplog.messages[-1]
    assert ", but that is no reconstruction (see the warning above). Next: " in last
    assert report["settings"]["filters"]["min_opacity"] == Filters().min_opacity


def test_cameras_of_a_scene_file_are_kept(tmp_path, videos):
    """The second run is given the first one's cameras, in videos of half the size."""
    small = ["--orbit-size", "32"]
    assert main(["reconstruct", str(videos), "--out", str(tmp_path / "first"), *small]) == 0
    first = load_scene(tmp_path / "first" / "scene.safetensors")
    for name in ("a", "b"):
        write_video(tmp_path / "half" / f"{name}.mp4", torch.rand(1, 3, 16, 24), 8)
    inputs = [str(tmp_path / "half" / f"{name}.mp4") for name in ("a", "b")]
    known = ["--known-cameras", str(tmp_path / "first" / "scene.safetensors")]
    out = tmp_path / "second"
    assert main(["reconstruct", *inputs, *known, "--out", str(out), *small]) == 0
    second = load_scene(out / "scene.safetensors")
    torch.testing.assert_close(second.extrinsics, first.extrinsics)
    torch.testing.assert_close(second.intrinsics[:, :2], first.intrinsics[:, :2] / 2)


def test_options_reach_the_reconstructor(tmp_path, videos, monkeypatch):
    asked = {}

    def load(file, device, dtype):
        asked.update(file=file, device=str(device), dtype=dtype)

        def reconstructor(frames, **options):
            asked.update(options, shape=tuple(frames.shape))
            raise KeyboardInterrupt

        reconstructor.track_head = None
        return reconstructor

    monkeypatch.setattr(command, "read_reconstructor", load)
    arguments = ["--out", str(tmp_path / "out"), "--device", "cpu", "--dtype", "bfloat16"]
    arguments += ["--cameras", "median", "--shared-intrinsics", "--resolution", "64"]
    arguments += ["--window", "2", "--align", "False", "--sh-degree", "1", "--refine", "3"]
    arguments += ["--filters.voxel-size", "0.5", "--no-store-static-once", "--max-frames", "2"]
    arguments += ["--fps", "12", "--no-adjust", "--detail", "3"]
    assert main(["reconstruct", str(videos), *arguments]) == 130
    del asked["progress"]
    assert asked == {
        "file": None,
        "device": "cpu",
        "dtype": torch.bfloat16,
        "shape": (2, 2, 3, 32, 48),
        "fps": 12.0,
        "cameras": "median",
        "shared_intrinsics": True,
        "resolution": 64,
        "adjust": False,
        "detail": 3,
        "window": 2,
        "align": False,
        "sh_degree": 1,
        "refine": 3,
        "filters": Filters(voxel_size=0.5),
        "split": None,
    }
    assert main(["reconstruct", str(videos), "--out", str(tmp_path / "out")]) == 130
    assert asked["split"] == StaticSplit() and asked["filters"] == Filters()
    assert asked["fps"] == 8.0 and asked["cameras"] == "first"  # the videos' own, and the method's


def test_views_of_other_sizes_and_no_views_are_refused_in_one_sentence(tmp_path, videos, capsys):
    write_video(tmp_path / "short.mp4", torch.rand(2, 3, 32, 48), 8)
    (tmp_path / "empty").mkdir()
    for inputs, words in (
        ([videos / "a.mp4", tmp_path / "short.mp4"], "must be of equal length (--trim"),
        ([tmp_path / "empty"], "holds no videos"),
        ([], "give a video of each view"),
    ):
        assert main(["reconstruct", *map(str, inputs), "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert words in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_stage_is_timed_and_its_steps_are_those_of_times_and_refinement(capsys):
    def reconstructor(frames, refine, progress):
        for done in range(1, 6):
            progress(done, 5)
        return SimpleNamespace(scene="the scene")

    profiler = command.StageProfiler()
    frames = torch.rand(2, 3, 3, 8, 8)
    assert command.reconstruct_grid(reconstructor, frames, profiler, refine=2) == "the scene"
    assert profiler.stages["reconstruct"]["seconds"] >= 0
    assert "5/5" in capsys.readouterr().err


@pytest.mark.parametrize("single", [True, False])
def test_one_view_alone_is_told_and_not_refused(tmp_path, videos, caplog, single):
    inputs = tmp_path / "one"
    inputs.mkdir()
    (videos / "a.mp4").rename(inputs / "a.mp4")
    given = inputs / "a.mp4" if single else inputs
    assert main(["reconstruct", str(given), "--plan", "--device", "cpu"]) == 0
    assert [m for m in caplog.messages if "is the only view" in m and "give two or more" in m]


def test_two_views_are_not_told_of(videos, caplog):
    assert main(["reconstruct", str(videos), "--plan", "--device", "cpu"]) == 0
    assert "only view" not in caplog.text
