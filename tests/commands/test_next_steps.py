"""What a run says last: the command that comes next, which can be copied."""

import shlex
import shutil
import sys
from pathlib import Path

import pytest

from fourreal.cli import gather, main
from fourreal.commands.convert import ConvertConfig
from fourreal.commands.jobs import GenerateConfig
from fourreal.commands.next_steps import NEXT, after_scores, duration, tell_next
from fourreal.commands.reconstruct import ReconstructConfig
from fourreal.commands.render import RenderConfig
from fourreal.commands.track import TrackConfig
from fourreal.commands.view import ViewConfig
from fourreal.commands.warping import WarpConfig
from fourreal.evaluation.evaluate_autoencoder import AutoencoderEvaluation
from fourreal.training.loop import LoopConfig
from fourreal.training.train_autoencoder import AutoencoderConfig
from fourreal.training.train_reconstructor import ReconstructorConfig
from fourreal.training.video_config import VideoConfig

from .test_render import save_small_scene

OUT = Path("out/my scene")
SCENE = "fourreal view 'out/my scene/scene.safetensors'"
LOOP = LoopConfig(Path("run"))


@pytest.fixture(autouse=True)
def shell_finds_fourreal(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")


def next_of(config) -> str | None:
    return NEXT.get(type(config).__name__, after_scores)(config)


@pytest.mark.parametrize(
    ("config", "step"),
    [
        (GenerateConfig(prompt="a ball", out=OUT), SCENE),
        (GenerateConfig(prompt="a ball", plan=True), None),
        (
            GenerateConfig(prompts=Path("list.txt"), out=Path("out")),
            "fourreal view out/0001/scene.safetensors",
        ),
        (ReconstructConfig((Path("cams"),), out=OUT), SCENE),
        (RenderConfig(Path("s.ply")), "open render.mp4"),
        (WarpConfig(source=Path("row.mp4"), out=OUT), SCENE),
        (ConvertConfig(Path("s.safetensors"), Path("s.ply")), "fourreal view s.ply"),
        (ConvertConfig(Path("s.ply"), Path("s.html")), "open s.html in a browser"),
        (ViewConfig(Path("s.ply"), html=Path("s.html")), "open s.html in a browser"),
        (ViewConfig(Path("s.ply")), None),
        (
            ReconstructorConfig(loop=LOOP),
            "fourreal reconstruct VIDEOS --reconstructor run/reconstructor.safetensors",
        ),
        (
            AutoencoderConfig(loop=LOOP),
            "fourreal train video --autoencoder run/autoencoder.safetensors",
        ),
        (
            VideoConfig(
                loop=LOOP,
                start_from=Path("wan.safetensors"),
                autoencoder=Path("vae.safetensors"),
                text_encoder=Path("umt5.safetensors"),
                tune="lora",
            ),
            "fourreal generate PROMPT --transformer wan.safetensors --vae vae.safetensors "
            "--text-encoder umt5.safetensors --lora run/lora.safetensors",
        ),
        (
            VideoConfig(loop=LOOP, autoencoder=Path("vae.safetensors"), vace=True),
            "fourreal generate PROMPT --transformer run/vace.safetensors --vae vae.safetensors "
            "--text-encoder TEXT-ENCODER",
        ),
        (
            VideoConfig(loop=LOOP, check_data=True),
            "open run/data.png; without --check-data it is trained on",
        ),
        (AutoencoderEvaluation(), "the same with --out scores.json keeps these numbers"),
        (AutoencoderEvaluation(out=Path("scores.json")), "open scores.json"),
    ],
)
def test_the_next_step_uses_what_was_made(config, step):
    assert next_of(config) == step


def test_the_next_step_after_a_training_from_embedded_models_names_their_files(tmp_path):
    for name in ("transformer", "text_encoder"):
        (tmp_path / f"{name}.safetensors").touch()
    config = VideoConfig(loop=LoopConfig(tmp_path), start_from=Path("old_models").parent)
    words = shlex.split(next_of(config))
    assert words[3:] == [
        *("--transformer", str(tmp_path / "transformer.safetensors")),
        *("--vae", "autoencoder.safetensors"),
        *("--text-encoder", str(tmp_path / "text_encoder.safetensors")),
    ]


def test_a_model_in_diffusers_layout_is_named_as_a_folder(tmp_path):
    (tmp_path / "model_index.json").touch()
    config = VideoConfig(loop=LOOP, start_from=tmp_path, tune="lora")
    line = f"fourreal generate PROMPT --model {tmp_path} --lora run/lora.safetensors"
    assert next_of(config) == line


def test_a_program_that_the_shell_does_not_find_is_named_by_its_path(tmp_path, monkeypatch):
    """As in the environment that tasks.py makes."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    config = ReconstructConfig((Path("cams"),), out=Path("out"))
    step = "fourreal view out/scene.safetensors"
    assert next_of(config) == step  # it is not installed
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "fourreal").touch()
    assert next_of(config) == f"{tmp_path}/bin/{step}"
    monkeypatch.chdir(tmp_path)
    assert next_of(config) == f"bin/{step}"


def test_tracks_are_opened():
    config = TrackConfig((Path("cams"),), Path("vggt.safetensors"), out=Path("t"))
    assert next_of(config) == "open t/tracks.mp4; the numbers are in tracks.npz"


def test_commands_that_come_next_are_read_by_the_command_line():
    """Every option of a suggested command is one of that command."""
    configs = [
        GenerateConfig(prompt="a ball"),
        ConvertConfig(Path("s.safetensors"), Path("s.ply")),
        ReconstructorConfig(loop=LOOP),
        AutoencoderConfig(loop=LOOP),
        VideoConfig(loop=LOOP, start_from=Path("wan.safetensors"), tune="lora"),
    ]
    for config in configs:
        _, *words = shlex.split(next_of(config))
        app, _ = gather(words[0])
        app.cli(prog="fourreal", args=words)


def test_a_page_is_what_convert_says_to_open(tmp_path, caplog):
    scene, page = save_small_scene(tmp_path / "s.safetensors"), tmp_path / "s.html"
    assert main(["convert", scene, str(page)]) == 0
    assert caplog.messages[-1].endswith(f"Next: open {page} in a browser")


def test_one_of_several_processes_says_it(monkeypatch, caplog):
    caplog.set_level("INFO", logger="fourreal")
    config = ReconstructConfig((Path("cams"),))
    monkeypatch.setenv("RANK", "1")
    tell_next(config, 3)
    assert caplog.messages == []
    monkeypatch.setenv("RANK", "0")
    tell_next(config, 3)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("kind", [ReconstructConfig, GenerateConfig])
@pytest.mark.parametrize(("shown", "words"), [(True, "3.0 s. Next"), (False, "3.0 s, but that is")])
def test_a_reconstruction_that_is_none_does_not_end_as_a_success(
    tmp_path, caplog, kind, shown, words
):
    caplog.set_level("INFO", logger="fourreal")
    (tmp_path / "report.json").write_text(f'{{"shows_its_inputs": {str(shown).lower()}}}')
    tell_next(kind(out=tmp_path), 3)
    assert caplog.messages[0].startswith(f"Done in {words}")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((0.04, "0.0 s"), (59.9, "59.9 s"), (59.96, "1 min 0 s"), (71.4, "1 min 11 s")),
        *((3599.6, "1 h 0 min"), (7325, "2 h 2 min")),
    ],
)
def test_a_duration_has_two_units_at_most(seconds, words):
    assert duration(seconds) == words
