"""The main job from the command line, with tiny untrained models: files, errors, interrupts."""

import json
import re
import shlex
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
import torch
from PIL import Image

from fourreal.cameras.screws import even_movement
from fourreal.cli import main
from fourreal.commands import generate as job
from fourreal.commands import pipelines, results
from fourreal.commands.jobs import GenerateConfig
from fourreal.files.media import read_video, write_video
from fourreal.formats import load_ply, load_scene
from fourreal.gaussians import GaussianScene

from ..tiny import cloud
from .small_job import FILES, SMALL


def test_generate_writes_every_file_and_each_opens(tmp_path):
    out = tmp_path / "demo"
    assert main(["generate", "a red ball bouncing past a blue box", "--out", str(out), *SMALL]) == 0
    assert {p.name for p in out.iterdir()} == FILES
    assert [p.name for p in tmp_path.iterdir()] == ["demo"]
    for name, frames in (("grid", 5), ("fixed_view", 5), ("freeze_time", 2), ("orbit", 16)):
        with av.open(str(out / f"{name}.mp4")) as video:
            assert sum(1 for _ in video.decode(video=0)) == frames, name
    Image.open(out / "contact_sheet.png").load()
    scene = load_scene(out / "scene.safetensors")
    assert scene.num_frames == 5 and scene.num_views == 2
    assert scene.metadata["prompt"] == "a red ball bouncing past a blue box"
    plys = sorted((out / "scene").iterdir())
    assert [p.name for p in plys] == [f"frame_{i:04d}.ply" for i in range(1, 6)]
    report = json.loads((out / "report.json").read_text())
    assert {"load", "video", "carry", "reconstruct", "render", "write"} == set(report["stages"])
    dynamic = report["gaussians"]["dynamic_per_time"]
    assert len(load_ply(plys[2])) == report["gaussians"]["static"] + dynamic[2]
    assert report["settings"]["seed"] == 0 and "torch" in report["versions"]


def test_references_are_taken_from_files(tmp_path):
    row = torch.linspace(0.1, 0.9, 32).expand(5, 3, 32, 32)
    write_video(tmp_path / "row.mp4", row, 8)
    arguments = ["generate", "a red ball", "--out", str(tmp_path / "out"), *SMALL]
    assert main([*arguments, "--fixed-view", str(tmp_path / "row.mp4")]) == 0
    first, _ = read_video(tmp_path / "out" / "fixed_view.mp4")
    assert (first - row).abs().mean() < 0.005  # what two compressions leave


def test_a_grid_made_smaller_shows_its_references_at_full_size(tmp_path, caplog):
    """Stripes of a pixel, which half of the size cannot have; the model is asked for that half."""
    stripes = torch.tensor([0.2, 0.8]).repeat(16).expand(5, 3, 32, 32)
    write_video(tmp_path / "row.mp4", stripes, 8)
    arguments = ["generate", "a red ball", "--out", str(tmp_path / "out"), *SMALL]
    given = ["--fixed-view", str(tmp_path / "row.mp4"), "--fill-scale", "2"]
    assert main([*arguments, *given]) == 0
    first, _ = read_video(tmp_path / "out" / "fixed_view.mp4")
    assert first.shape == stripes.shape and (first - stripes).abs().mean() < 0.03
    assert "of 16 x 16" in caplog.text  # the warning of the size that the model was asked for


def test_what_references_show_is_carried_into_the_grid_before_it_is_reconstructed(
    tmp_path, monkeypatch
):
    """By a stand-in that says what it was given; the cameras it found are kept."""
    write_video(tmp_path / "row.mp4", torch.rand(5, 3, 1, 1).expand(5, 3, 32, 32), 8)
    asked, carry = [], job.carry_references

    def carried(reconstructor, frames, references, **options):
        asked.append(references[1])
        frames, cameras = carry(reconstructor, frames, references, **options)
        asked.append(cameras)
        return torch.full_like(frames, 0.25), cameras

    monkeypatch.setattr(job, "carry_references", carried)
    arguments = ["generate", "a red ball", "--out", str(tmp_path / "out"), *SMALL]
    assert main([*arguments, "--fixed-view", str(tmp_path / "row.mp4")]) == 0
    cells, (extrinsics, _) = asked
    assert cells.tolist() == [[True] * 5, [False] * 5]
    grid, _ = read_video(tmp_path / "out" / "fixed_view.mp4")
    assert (grid - 0.25).abs().max() < 0.03
    scene = load_scene(tmp_path / "out" / "scene.safetensors")
    torch.testing.assert_close(scene.extrinsics, extrinsics)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(report["stages"]) == ["load", "video", "carry", "reconstruct", "render", "write"]


def test_cameras_of_what_the_embedded_models_make_of_text_are_an_even_movement(
    tmp_path, monkeypatch, files
):
    """Also where nothing is carried, because no first time is generated before the rest; not so
    those of references, which stand where they stand, or of other models."""
    asked, reconstruct = [], job.reconstruct_grid

    def reconstructed(*grid, **options):
        asked.append(options.get("cameras"))
        return reconstruct(*grid, **options)

    monkeypatch.setattr(job, "reconstruct_grid", reconstructed)
    write_video(tmp_path / "row.mp4", torch.rand(5, 3, 1, 1).expand(5, 3, 32, 32), 8)
    out = tmp_path / "out"
    arguments = ["generate", "a red ball", "--out", str(out), *SMALL, "--num-views", "3"]
    assert main(arguments) == 0
    found = load_scene(out / "scene.safetensors").extrinsics
    torch.testing.assert_close(even_movement(found), found, atol=1e-4, rtol=1e-4)
    assert main([*arguments, "--staged", "False"]) == 0
    assert main([*arguments, "--fixed-view", str(tmp_path / "row.mp4")]) == 0
    assert main([*arguments, *files]) == 0
    (text, _), together, (extrinsics, _), others = asked
    torch.testing.assert_close(text, found)
    assert together == "even" and len(extrinsics) == 3 and others is None


def test_of_text_the_first_time_is_carried_into_the_others(tmp_path, monkeypatch):
    """By a stand-in that says what it was given."""
    asked, carry = [], job.carry_first_time

    def carried(reconstructor, frames, **options):
        asked.append(frames)
        _, found = carry(reconstructor, frames, **options)
        return torch.full_like(frames, 0.25), found

    monkeypatch.setattr(job, "carry_first_time", carried)
    arguments = ["generate", "a red ball", "--out", str(tmp_path / "out"), *SMALL]
    assert main(arguments) == 0
    (generated,) = asked
    assert generated.shape == (2, 5, 3, 32, 32)
    grid, _ = read_video(tmp_path / "out" / "fixed_view.mp4")
    assert (grid - 0.25).abs().max() < 0.03


@pytest.fixture
def seen(monkeypatch):
    """What generate_one would be called with."""
    calls = []
    monkeypatch.setattr(job, "generate_one", lambda *given: calls.append(given))
    return calls


@pytest.fixture
def files(model_files):
    """The untrained models as three single files."""
    names = {"transformer": "transformer", "vae": "autoencoder", "text-encoder": "text_encoder"}
    pairs = ((f"--{k}", str(model_files / f"{v}.safetensors")) for k, v in names.items())
    return [argument for pair in pairs for argument in pair]


def test_single_files_and_their_options_reach_the_pipeline(tmp_path, files, seen):
    Image.new("RGB", (48, 48), (255, 0, 0)).save(tmp_path / "cell.png")
    arguments = ["--image", str(tmp_path / "cell.png"), "--fit", "--window", "9"]
    arguments += ["--window-overlap", "5", "--view-strength", "0.5", "--guidance-scale", "2"]
    assert main(["generate", "a ball", *files, *SMALL, *arguments]) == 0
    config, models, options, _ = seen[0]
    assert config.fps == 16.0 and config.num_inference_steps == 2  # Wan's default; what was given
    assert options["image"].shape == (3, 32, 32) and options["image"][0].min() > 0.99
    assert (options["window_frames"], options["window_overlap"]) == (9, 5)
    assert (options["view_strength"], options["guidance_scale"]) == (0.5, 2.0)
    models.pipeline.save_pretrained(tmp_path / "saved")
    assert main(["generate", "a ball", "--model", str(tmp_path / "saved"), *SMALL]) == 0
    assert type(seen[1][1].pipeline.transformer).__name__ == "WanTransformer3DModel"


def test_a_longer_video_is_made_in_overlapping_windows(tmp_path, caplog, capsys):
    arguments = ["--num-frames", "13", "--window", "9", "--window-overlap", "5"]
    out = tmp_path / "out"
    assert main(["generate", "a ball", "--out", str(out), *SMALL, *arguments]) == 0
    assert len(read_video(out / "fixed_view.mp4")[0]) == 13
    steps = re.search(r"13 frames in 2 window\(s\), (\d+) steps", caplog.text)[1]
    printed = capsys.readouterr().err  # the bar counts the steps of both windows
    assert f"sampling: 100%|██████████| {steps}/{steps} [" in printed


def test_compilation_and_caching_are_switched_on_when_asked_for(monkeypatch):
    """On a pipeline that notes what is called."""
    called = []

    class Pipeline(SimpleNamespace):
        vae = SimpleNamespace(enable_tiling=None)

        def __getattr__(self, name):
            return lambda *given, **options: called.append((name, *given))

    monkeypatch.setattr(pipelines, "read_pipeline", lambda options, dtype: Pipeline())
    cpu = torch.device("cpu")
    pipelines.load_pipeline(GenerateConfig(), cpu)
    assert called == [("to", cpu), ("set_progress_bar_config",)]
    called.clear()
    options = {"compile": True, "first_block_cache": 0.1, "vae_tiling": True}
    pipelines.load_pipeline(GenerateConfig(**options), cpu)
    wanted = [("enable_vae_tiling",), ("compile",), ("enable_first_block_cache", 0.1)]
    assert called[:3] == wanted


def test_everything_heavy_runs_on_the_device_that_is_asked_for(monkeypatch, tmp_path):
    """Told by where tensors are when the parts are called; meta tensors stand for a GPU's."""
    places, scene = {}, GaussianScene(cloud(5), [cloud(3)], *cameras(), 32, 32, 8.0)

    def load_pipeline(options, device):
        places["pipeline"] = device.type

        def pipeline(**options):
            return SimpleNamespace(frames=torch.rand(1, 1, 3, 32, 32))

        return pipeline

    def read_reconstructor(file, device, dtype=None):
        def reconstructor(frames, **options):
            return SimpleNamespace(scene=scene)

        reconstructor.to = lambda device: reconstructor
        places["reconstructor"] = device.type
        return reconstructor

    def carry_first_time(reconstructor, frames, *, device, progress):
        places["carried"] = device.type
        return frames, cameras()

    def tell_fidelity(frames, scene, device):
        places["fidelity"] = device.type
        return {}

    def render_path(scene, path, progress):
        places["scene"] = scene.static.means.device.type
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "load_pipeline", load_pipeline)
    monkeypatch.setattr(job, "read_reconstructor", read_reconstructor)
    monkeypatch.setattr(job, "carry_first_time", carry_first_time)
    monkeypatch.setattr(results, "tell_fidelity", tell_fidelity)
    monkeypatch.setattr(results, "render_path", render_path)
    arguments = ["generate", "a ball", "--out", str(tmp_path / "out"), "--device", "meta"]
    assert main(arguments) == 130
    parts = ("pipeline", "reconstructor", "carried", "fidelity", "scene")
    assert places == dict.fromkeys(parts, "meta")


@pytest.mark.parametrize("keep", [True, False])
def test_the_reconstructor_leaves_the_device_when_offloading(keep, monkeypatch, tmp_path):
    places, scene = [], GaussianScene(cloud(5), [cloud(3)], *cameras(), 32, 32, 8.0)

    def reconstructor(frames, **options):
        return SimpleNamespace(scene=scene)

    reconstructor.to = lambda device: places.append(str(device)) or reconstructor
    monkeypatch.setattr(job, "write_results", lambda *given: {})
    monkeypatch.setattr(job, "carry_grid", lambda _, frames, *given: (frames, cameras()))
    models = job.Models(lambda **_: SimpleNamespace(frames=torch.rand(1, 1, 3, 8, 8)), None, keep)
    models.reconstructor = reconstructor
    meta = job.StageProfiler(torch.device("meta"))
    job.generate_one(GenerateConfig("a ball", out=tmp_path / "out", fps=8.0), models, {}, meta)
    assert places == ["meta", *([] if keep else ["cpu"])]


@pytest.mark.parametrize(
    ("module", "name"),
    [(job, "reconstruct_grid"), (results, "render_path"), (results, "save_scene")],
)
def test_a_finished_grid_is_kept_when_a_later_stage_fails(
    tmp_path, monkeypatch, caplog, capsys, module, name
):
    """And the command that the message gives goes on from it."""
    out, real = tmp_path / "my out", getattr(module, name)

    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(module, name, fail)
    assert main(["generate", "a ball", "--out", str(out), *SMALL]) == 2
    assert "the memory is full" in capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == ["views"]
    kept = [read_video(p)[0].shape for p in sorted((out / "views").iterdir())]
    assert kept == [(5, 3, 32, 32)] * 2
    monkeypatch.setattr(module, name, real)
    go_on = shlex.split(caplog.text.strip().splitlines()[-1].split("go on with: ")[1])
    assert go_on[1:3] == ["reconstruct", str(out / "views")]
    assert go_on[-4:] == ["--cameras", "even", "--orbit-size", "32"]
    assert main(go_on[1:]) == 0
    assert {p.name for p in out.iterdir()} == FILES | {"views"}
    assert load_scene(out / "scene.safetensors").num_views == 2
    assert main(["generate", "a ball", "--out", str(out), *SMALL]) == 0
    assert {p.name for p in out.iterdir()} == FILES


def test_a_kept_grid_shows_what_its_references_do_once_that_is_carried_into_it(
    tmp_path, monkeypatch
):
    write_video(tmp_path / "row.mp4", torch.full((5, 3, 32, 32), 0.5), 8)
    carried = torch.full((2, 5, 3, 32, 32), 0.8)
    monkeypatch.setattr(job, "carry_grid", lambda *_: (carried, cameras()))

    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(job, "reconstruct_grid", fail)
    given = ["--fixed-view", str(tmp_path / "row.mp4")]
    assert main(["generate", "a ball", "--out", str(tmp_path / "out"), *given, *SMALL]) == 2
    views = sorted((tmp_path / "out" / "views").iterdir())
    assert len(views) == 2
    for view in views:
        assert (read_video(view)[0] - 0.8).abs().max() < 0.03


def test_a_finished_grid_goes_on_with_what_the_job_was_given():
    job_of = partial(GenerateConfig, "a ball", out=Path("out"))
    assert job.options_to_go_on(job_of()) == []
    given = {"reconstructor": Path("VGGT 1B.safetensors"), "device": "cpu", "orbit_size": 64}
    assert job.options_to_go_on(job_of(**given), cameras="even") == [
        *("--cameras", "even", "--reconstructor", "VGGT 1B.safetensors"),
        *("--device", "cpu", "--orbit-size", "64"),
    ]


def cameras():
    return torch.eye(3, 4)[None], torch.tensor([[[30.0, 0, 16], [0, 30, 16], [0, 0, 1]]])


def wrong(tmp_path, capsys, *arguments):
    """The error of a generate call that must fail and leave nothing behind."""
    before = set(tmp_path.rglob("*"))
    assert main(["generate", *arguments]) == 2
    assert set(tmp_path.rglob("*")) == before
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("fourreal:")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a ball", "--num-frames", "28"], "num-frames is 28"),
        (["a ball", "--height", "100"], "height is 100"),
        (["  "], "the prompt is empty"),
        ([], "give one prompt, or a file of prompts"),
        (["--prompts", "{tmp}/none.txt"], "none.txt does not exist"),
        (["--prompts", "{tmp}/blank.txt"], "blank.txt holds no prompts"),
        (["a ball", "--vae", "{tmp}/text.mp4"], "needed together, but only vae was given"),
        (["a ball", "--model", "{tmp}"], "has no model_index.json"),
        (["a ball", "--model", "{tmp}/two"], "has two transformers"),
        (["a ball", "--offload", "model", "--device", "cpu"], "for CUDA devices"),
        (["a ball", "--device", "gpu"], "the device 'gpu' is not here"),
        (["a ball", "--vae-tiling"], "is for Wan's VAE"),
        (["a ball", "--reconstructor", "{tmp}/none.safetensors"], "none.safetensors"),
        (["a ball", "--fixed-view", "{tmp}/none.mp4"], "none.mp4"),
        (["a ball", "--fixed-view", "{tmp}/text.mp4"], "text.mp4"),
        (["a ball", *SMALL, "--fixed-view", "{tmp}/large.mp4"], "needs 5 of 32 x 32"),
        (["a ball", *SMALL, "--out", "{tmp}/text.mp4/out"], "cannot write to"),
        (["a ball", *SMALL, "--out", "{tmp}/text.mp4"], "is a file"),
    ],
)
def test_wrong_input_gets_one_sentence(tmp_path, capsys, arguments, sentence):
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "blank.txt").write_text(" \n\n")
    (tmp_path / "two").mkdir()
    index = {"transformer_2": ["diffusers", "WanTransformer3DModel"]}
    (tmp_path / "two/model_index.json").write_text(json.dumps(index))
    write_video(tmp_path / "large.mp4", torch.rand(5, 3, 64, 64), 8)
    if "--out" not in arguments:
        arguments = [*arguments, "--out", "{tmp}/out"]
    filled = [a.replace("{tmp}", str(tmp_path)) for a in arguments]
    assert sentence in wrong(tmp_path, capsys, *filled)


@pytest.mark.parametrize("name", ["transformer", "autoencoder", "text_encoder", "reconstructor"])
def test_truncated_weights_are_named(tmp_path, capsys, model_files, monkeypatch, name):
    damaged = tmp_path / "weights"
    shutil.copytree(model_files, damaged)
    file = damaged / f"{name}.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    monkeypatch.setenv("FOURREAL_WEIGHTS", str(damaged))
    assert file.name in wrong(tmp_path, capsys, "a ball", "--out", str(tmp_path / "out"), *SMALL)


@pytest.mark.parametrize(
    ("module", "name"),
    [(job, "reconstruct_grid"), (results, "render_path"), (results, "write_image")],
)
def test_an_interrupt_leaves_earlier_results_as_they_were(tmp_path, monkeypatch, module, name):
    out = tmp_path / "out"
    arguments = ["generate", "a ball", "--out", str(out), *SMALL]
    assert main(arguments) == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, name, interrupt)
    assert main([*arguments, "--seed", "1"]) == 130
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
