"""The main job from the command line, with tiny untrained models: files, errors, interrupts."""

import json
from pathlib import Path

import av
import pytest
import torch
from PIL import Image

from fourreal.cli import main
from fourreal.commands import generate as job
from fourreal.embedded.autoencoder import BlockAutoencoder, save_autoencoder
from fourreal.embedded.text import (
    build_text_encoder,
    build_tokenizer,
    caption_words,
    save_text_encoder,
)
from fourreal.files.media import read_video, write_video
from fourreal.formats import load_ply, load_scene
from fourreal.reconstruction.checkpoint import save_model
from fourreal.reconstruction.config import VGGTConfig
from fourreal.reconstruction.network import VGGT
from fourreal.training.video_config import VideoConfig
from fourreal.training.video_model import build_transformer
from fourreal.video.wan_files import save_transformer

SMALL = [
    "--views",
    "2",
    "--frames",
    "5",
    "--height",
    "32",
    "--width",
    "32",
    "--steps",
    "1",
    "--orbit-size",
    "32",
]
FILES = {
    "grid.mp4",
    "fixed_view.mp4",
    "freeze_time.mp4",
    "orbit.mp4",
    "scene",
    "scene.safetensors",
    "contact_sheet.png",
    "report.json",
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    config = VideoConfig(width=128, layers=1, ffn_width=64, text_width=32)
    settings = {
        "conditioning": "replace",
        "max_frames": 8,
        "max_tokens": 32,
        "shift": 3.0,
        "guidance_scale": 2.5,
    }
    transformer = build_transformer(config, 16)
    tensors = transformer.state_dict()
    save_transformer(folder / "transformer.safetensors", tensors, transformer.config, settings)
    vae = BlockAutoencoder()
    coarse = torch.rand(4, 3, 3, 4, 4)
    vae.fit([torch.nn.functional.interpolate(coarse, (9, 32, 32), mode="trilinear") * 2 - 1])
    save_autoencoder(vae, folder / "autoencoder.safetensors")
    tokenizer = build_tokenizer(caption_words())
    save_text_encoder(
        build_text_encoder(len(tokenizer), 32), tokenizer, folder / "text_encoder.safetensors"
    )
    save_model(VGGT(VGGTConfig.small()), folder / "reconstructor.safetensors")
    return folder


@pytest.fixture(autouse=True)
def use_weights(weights, monkeypatch):
    monkeypatch.setenv("FOURREAL_WEIGHTS", str(weights))


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
    plys = sorted((out / "scene").iterdir())
    assert [p.name for p in plys] == [f"frame_{i:04d}.ply" for i in range(1, 6)]
    report = json.loads((out / "report.json").read_text())
    assert {"load", "video", "reconstruct", "render", "write"} == set(report["stages"])
    dynamic = report["gaussians"]["dynamic_per_time"]
    assert len(load_ply(plys[2])) == report["gaussians"]["static"] + dynamic[2]
    assert report["settings"]["seed"] == 0 and "torch" in report["versions"]
    assert (
        main(
            [
                "render",
                str(out / "scene.safetensors"),
                "--out",
                str(tmp_path / "r.mp4"),
                "--kind",
                "freeze_time",
                "--frames",
                "4",
                "--height",
                "32",
            ]
        )
        == 0
    )
    assert len(read_video(tmp_path / "r.mp4")[0]) == 4


def test_references_are_taken_from_files(tmp_path):
    row = torch.linspace(0.1, 0.9, 32).expand(5, 3, 32, 32)
    write_video(tmp_path / "row.mp4", row, 8)
    arguments = ["generate", "a red ball", "--out", str(tmp_path / "out"), *SMALL]
    assert main([*arguments, "--fixed-view", str(tmp_path / "row.mp4")]) == 0
    first, _ = read_video(tmp_path / "out" / "fixed_view.mp4")
    assert (first - row).abs().mean() < 0.05


def test_reconstruct_takes_synchronised_videos(tmp_path):
    for name in ("a", "b"):
        write_video(tmp_path / "in" / f"{name}.mp4", torch.rand(3, 3, 32, 48), 8)
    arguments = ["--out", str(tmp_path / "out"), "--orbit-size", "32"]
    assert main(["reconstruct", str(tmp_path / "in"), *arguments]) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == FILES
    assert load_scene(tmp_path / "out" / "scene.safetensors").width == 48


def test_a_list_of_prompts_resumes_where_it_stopped(tmp_path, monkeypatch):
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text("a red ball\n\n  a blue box \na green cone\n")
    arguments = ["generate", "--prompts", str(prompts), "--out", str(out), *SMALL, "--seed", "5"]
    one, done = job.reconstruct_grid, []

    def stop_at_the_second(*given):
        done.append(given)
        if len(done) == 2:
            raise KeyboardInterrupt
        return one(*given)

    monkeypatch.setattr(job, "reconstruct_grid", stop_at_the_second)
    assert main(arguments) == 130
    assert [p.name for p in out.iterdir()] == ["0001"]  # whole, and nothing of the second
    assert main(arguments) == 0
    assert sorted(p.name for p in out.iterdir()) == ["0001", "0002", "0003"] and len(done) == 4
    reports = [json.loads((out / f"000{i}/report.json").read_text()) for i in (1, 2, 3)]
    settings = [(r["settings"]["prompt"], r["settings"]["seed"]) for r in reports]
    assert settings == [("a red ball", 5), ("a blue box", 6), ("a green cone", 7)]
    assert all(r["stages"]["video"]["seconds_per_step"] > 0 for r in reports)
    assert main(arguments) == 0 and len(done) == 4  # all are finished
    prompts.write_text("a red ball\na blue torus\na green cone\n")
    assert main(arguments) == 0 and len(done) == 5  # the changed one is made anew


def test_processes_share_a_list_of_prompts(tmp_path, monkeypatch):
    """accelerate's own split of a list, told that there are two processes."""
    from accelerate import PartialState

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red ball\na blue box\na green cone\n")
    arguments = ["generate", "--prompts", str(prompts), "--out", str(tmp_path / "out"), *SMALL]
    PartialState()
    made = []
    monkeypatch.setattr(job, "_generate_one", lambda config, *_: made.append(config.out.name))
    for index, share in enumerate((["0001", "0002"], ["0003"])):
        monkeypatch.setitem(PartialState._shared_state, "num_processes", 2)
        monkeypatch.setitem(PartialState._shared_state, "process_index", index)
        made.clear()
        assert main(arguments) == 0 and made == share


def test_steps_depend_on_what_is_given():
    row, column = {"fixed_view": Path("row.mp4")}, {"freeze_time": Path("photos")}
    for given, steps in (
        ({}, 10),
        (row, 10),
        (column, 10),
        (row | column, 4),
        (row | column | {"steps": 7}, 7),
        (row | column | {"model": Path("wan")}, 40),
    ):
        (config,) = job.list_jobs(job.GenerateConfig("a ball", **given))
        assert config.steps == steps, given


def test_single_files_and_their_options_reach_the_pipeline(tmp_path, weights, monkeypatch):
    seen = []
    monkeypatch.setattr(job, "_generate_one", lambda *given: seen.append(given))
    files = [
        x
        for name, file in (
            ("transformer", "transformer"),
            ("vae", "autoencoder"),
            ("text-encoder", "text_encoder"),
        )
        for x in (f"--{name}", str(weights / f"{file}.safetensors"))
    ]
    Image.new("RGB", (48, 48), (255, 0, 0)).save(tmp_path / "cell.png")
    assert (
        main(
            [
                "generate",
                "a ball",
                *files,
                *SMALL,
                "--image",
                str(tmp_path / "cell.png"),
                "--fit",
                "--window",
                "9",
                "--view-strength",
                "0.5",
            ]
        )
        == 0
    )
    config, pipeline, options, _ = seen[0]
    assert config.fps == 16.0 and config.steps == 1  # Wan's default, and what was given
    assert options["image"].shape == (3, 32, 32) and options["image"][0].min() > 0.99
    assert options["window_frames"] == 9 and options["view_strength"] == 0.5
    pipeline.save_pretrained(tmp_path / "saved")
    assert main(["generate", "a ball", "--model", str(tmp_path / "saved"), *SMALL]) == 0
    assert type(seen[1][1].transformer).__name__ == "WanTransformer3DModel"


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
        (["a ball", "--frames", "28"], "num_frames is 28"),
        (["a ball", "--height", "100"], "height is 100"),
        (["  "], "the prompt is empty"),
        ([], "give one prompt, or a file of prompts"),
        (["--prompts", "{tmp}/none.txt"], "none.txt cannot be read"),
        (["--prompts", "{tmp}/blank.txt"], "blank.txt holds no prompts"),
        (["a ball", "--vae", "{tmp}/x.safetensors"], "needed together, but only vae was given"),
        (["a ball", "--model", "{tmp}"], "has no model_index.json"),
        (["a ball", "--model", "{tmp}/two"], "has two transformers"),
        (["a ball", "--offload", "model"], "for CUDA devices"),
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
def test_truncated_weights_are_named(tmp_path, capsys, weights, monkeypatch, name):
    import shutil

    damaged = tmp_path / "weights"
    shutil.copytree(weights, damaged)
    file = damaged / f"{name}.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    monkeypatch.setenv("FOURREAL_WEIGHTS", str(damaged))
    assert file.name in wrong(tmp_path, capsys, "a ball", "--out", str(tmp_path / "out"), *SMALL)


@pytest.mark.parametrize("where", ["render_path", "write_image", "reconstruct_grid"])
def test_an_interrupt_leaves_earlier_results_as_they_were(tmp_path, monkeypatch, where):
    out = tmp_path / "out"
    arguments = ["generate", "a ball", "--out", str(out), *SMALL]
    assert main(arguments) == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, where, interrupt)
    assert main([*arguments, "--seed", "1"]) == 130
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_requirements_equal_the_projects_dependencies():
    tomllib = pytest.importorskip("tomllib")
    from pathlib import Path

    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    lines = (root / "requirements.txt").read_text().split()
    assert lines == project["dependencies"]
    assert not any(line.startswith("torch") for line in lines)


def test_importing_the_library_is_light():
    import subprocess
    import sys

    heavy = "('diffusers', 'transformers', 'gsplat', 'flash_attn', 'comfy')"
    code = (
        "import sys, fourreal, fourreal.video, fourreal.attention, fourreal.reconstruction, "
        f"fourreal.rendering, fourreal.cli; sys.exit(any(m in sys.modules for m in {heavy}))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
