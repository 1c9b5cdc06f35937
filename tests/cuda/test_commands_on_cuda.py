"""`fourreal generate | reconstruct | render --device cuda` on the pretend device, end to end."""

import math

import pytest
import torch

from fourreal.cli import main
from fourreal.commands import generate, reconstruct
from fourreal.files.media import read_images, read_video, write_video
from fourreal.formats import load_scene, save_scene
from fourreal.scenes import make_scene, scene_seed

from ..pretend_cuda import PretendCuda
from ..rendering import gsplat_stand_in
from .conftest import share_on_device

SMALL = [
    *("--num-views", "2", "--num-frames", "5", "--height", "32", "--width", "32"),
    *("--num-inference-steps", "2", "--orbit-size", "32"),
]


def decibel(a, b) -> float:
    return -10 * math.log10(float((a - b).square().mean()) + 1e-12)


@pytest.fixture
def written(monkeypatch) -> list[tuple]:
    """(frames, scene) of each job, as they were handed over to be written."""
    kept = []
    for command in (generate, reconstruct):
        plain = command.write_results

        def keep(folder, frames, scene, *rest, plain=plain):
            kept.append((frames, scene))
            return plain(folder, frames, scene, *rest)

        monkeypatch.setattr(command, "write_results", keep)
    return kept


def assert_same_scene(found, expected) -> None:
    """Equal numbers of Gaussians; means within 1e-4 of the scene's size, but for the few pixels
    whose best time is a matter of rounding."""
    size = float(expected.at(0).means.abs().max())
    assert len(expected.static) > 100
    for a, b in zip([found.static, *found.dynamic], [expected.static, *expected.dynamic]):
        assert a.means.device.type == "cpu" and len(a) == len(b)
        if not len(a):
            continue
        apart = (a.means - b.means).abs().amax(1) > 1e-4 * size
        assert float(apart.float().mean()) < 0.002


def on_both(arguments: list[str], tmp_path) -> None:
    """Run a command on the CPU and on the pretend device."""
    assert main([*arguments, "--out", str(tmp_path / "cpu"), "--device", "cpu"]) == 0
    with PretendCuda():
        for _ in range(2):  # the first run makes tables that are kept, on the host
            assert main([*arguments, "--out", str(tmp_path / "cuda"), "--device", "cuda"]) == 0


@pytest.mark.usefixtures("unadjusted")
def test_generate_runs_on_the_device_and_gives_the_cpus_numbers(
    tmp_path, stages, written, single_precision
):
    on_both(["generate", "a red ball bouncing", *SMALL], tmp_path)
    (expected, plain), _, (frames, scene) = written
    assert frames.device.type == "cpu" and (frames - expected).abs().max() < 1e-4
    assert_same_scene(scene, plain)
    orbits = [read_first_frames(tmp_path / name / "orbit.mp4") for name in ("cpu", "cuda")]
    assert decibel(*orbits) > 40
    print({name: dict(counts["transfers"]) for name, counts in stages.items()})
    for name in ("video", "reconstruct", "render"):
        assert share_on_device(stages[name]["operations"]) > 0.99, (name, stages[name])
    # The frames of two views; the masks of two texts. The steps bring nothing to the host.
    assert stages["video"]["transfers"] == {"copy": 2, "item": 2}
    per_time = sum(stages["reconstruct"]["transfers"].values()) / 5
    assert per_time < 25


def read_first_frames(path):
    return read_video(path, 8)[0]


@pytest.fixture
def videos(tmp_path):
    """Three synchronised videos of a procedural scene."""
    frames = make_scene(scene_seed("validation", 3), 3, 4, 48, 48).frames
    folder = tmp_path / "videos"
    folder.mkdir()
    for view, film in enumerate(frames):
        write_video(folder / f"camera_{view}.mp4", film, 8)
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("unadjusted")
def test_reconstruct_and_its_refinement_run_on_the_device(
    videos, tmp_path, stages, written, single_precision
):
    on_both(["reconstruct", str(videos), "--orbit-size", "32", "--refine", "2"], tmp_path)
    (_, plain), _, (_, scene) = written
    counts = [[len(part) for part in (s.static, *s.dynamic)] for s in (plain, scene)]
    # The device decodes more frames at once: the last digit of a pixel at a threshold may differ.
    assert all(abs(a - b) <= 3 for a, b in zip(*counts, strict=True))
    print({name: dict(counts["transfers"]) for name, counts in stages.items()})
    for name in ("reconstruct", "render"):
        assert share_on_device(stages[name]["operations"]) > 0.99, (name, stages[name])


def test_render_takes_gsplat_on_the_device_and_equals_torch(videos, tmp_path, monkeypatch):
    out = tmp_path / "scene"
    assert main(["reconstruct", str(videos), "--out", str(out), "--orbit-size", "16"]) == 0
    scene = load_scene(out / "scene.safetensors")
    chosen = torch.randperm(len(scene.static), generator=torch.Generator().manual_seed(0))[:300]
    scene.static = scene.static[chosen]
    scene.dynamic = [part[:50] for part in scene.dynamic]
    save_scene(scene, tmp_path / "small.safetensors")
    arguments = ["render", str(tmp_path / "small.safetensors"), "--height", "24"]
    arguments += ["--num-frames", "3"]
    assert main([*arguments, "--out", str(tmp_path / "torch"), "--device", "cpu"]) == 0
    calls = gsplat_stand_in.install(monkeypatch)
    with PretendCuda():
        assert main([*arguments, "--out", str(tmp_path / "gsplat"), "--device", "cuda"]) == 0
    assert len(calls) == 3
    images = [read_images(tmp_path / name) for name in ("torch", "gsplat")]
    assert float(images[0].mean()) > 0.05 and decibel(*images) > 38
