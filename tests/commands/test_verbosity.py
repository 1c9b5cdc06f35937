"""What a command says: --quiet, --verbose, NO_COLOR, progress, and what comes next."""

import os
import pty
import shutil
import subprocess
import sys

import pytest

from fourreal.bars import bar, each
from fourreal.cli import COMMANDS, EXAMPLES, GROUPS, main
from fourreal.commands import info as info_command

from .test_render import save_small_scene


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Variables that --quiet and --verbose set are those of before after each test."""
    for name in ("TQDM_DISABLE", "DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def render(tmp_path, capsys, monkeypatch):
    """Render a small scene: gives what went to stdout and to stderr."""
    monkeypatch.setattr(shutil, "which", lambda name: name)  # the shell finds `fourreal`
    scene, out = save_small_scene(tmp_path / "s.safetensors"), tmp_path / "r.mp4"

    def run(*arguments) -> tuple[list[str], str]:
        line = ["render", scene, "--height", "32", "--out", str(out), *arguments]
        assert main(line) == 0
        printed = capsys.readouterr()
        return printed.out.splitlines(), printed.err

    return run


def test_a_run_shows_its_progress_its_result_and_what_to_do_next(render, tmp_path, caplog):
    out, err = render()
    assert out == [str(tmp_path / "r.mp4")]
    assert "rendering: 100%" in err and "2/2 [00:00<00:00" in err
    assert caplog.messages[-1].startswith("Done in ")
    assert caplog.messages[-1].endswith(f"Next: open {tmp_path / 'r.mp4'}")


def test_a_quiet_run_prints_its_result_alone(render, tmp_path, caplog):
    out, err = render("--quiet")
    assert out == [str(tmp_path / "r.mp4")]
    assert err == "" and caplog.messages == []


def test_a_verbose_run_tells_its_settings(render, caplog):
    render("-v")
    assert "RenderConfig(scene=" in caplog.messages[0]
    assert os.environ["DIFFUSERS_VERBOSITY"] == "info"


def test_a_verbose_run_shows_where_an_error_came_from(tmp_path, capsys):
    line = ["view", str(tmp_path / "none.safetensors")]
    assert main(line) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert main([*line, "--verbose"]) == 2
    printed = capsys.readouterr().err
    assert "Traceback" in printed and printed.splitlines()[-1].startswith("fourreal: ")


def test_quiet_and_verbose_are_not_given_together(capsys):
    assert main(["info", "-q", "-v"]) == 2
    assert "contradict each other" in capsys.readouterr().err


@pytest.mark.parametrize("name", [*COMMANDS, *(f"{g} " for g in GROUPS)])
def test_every_command_takes_them(name, capsys):
    inner = {"train": "video", "evaluate": "video", "ablate": "sampling", "benchmark": "renderer"}
    words = name.split()
    if name.endswith(" "):
        words.append(inner[words[0]])
    assert main([*words, "--help"]) == 0
    printed = capsys.readouterr().out
    assert "-q, --quiet" in printed and "-v, --verbose" in printed


def test_a_bar_has_a_count_a_total_and_times(capsys):
    assert list(bar(range(3), name="three")) == [0, 1, 2]
    printed = capsys.readouterr().err
    assert "three: 100%" in printed and "3/3 [00:00<00:00" in printed


def test_parts_of_long_work_are_announced_as_they_begin(caplog):
    caplog.set_level("INFO", logger="fourreal")
    for steps in each("Number of steps", (1, 4)):
        assert len(caplog.messages) == (1, 4).index(steps) + 1
    assert caplog.messages == ["Number of steps 1 of 2: 1 (then 4)", "Number of steps 2 of 2: 4"]


@pytest.mark.parametrize(("value", "shown"), [("1", False), ("0", True), ("", True)])
def test_bars_obey_tqdms_own_variable(value, shown, monkeypatch, capsys):
    monkeypatch.setenv("TQDM_DISABLE", value)
    assert list(bar(range(3), name="three")) == [0, 1, 2]
    assert ("three" in capsys.readouterr().err) == shown


def test_the_overview_names_every_command_and_two_examples_that_can_be_read(monkeypatch, capsys):
    """The examples are read by the command line itself, up to the work."""
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in (*COMMANDS, *GROUPS))
    assert len(EXAMPLES) == 2 and all(line in printed for _, line in EXAMPLES)
    assert all(len(line) <= 100 for line in printed.splitlines())


def run_on_terminal(*arguments: str, **variables: str) -> bytes:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    environment |= {"TERM": "xterm-256color", "COLUMNS": "100", **variables}
    line = [sys.executable, "-m", "fourreal.cli", *arguments]
    process = subprocess.Popen(line, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    found = b""
    try:
        while part := os.read(ours, 4096):
            found += part
    except OSError:  # the other end is closed
        pass
    process.wait()
    os.close(ours)
    return found


@pytest.mark.skipif(os.name == "nt", reason="this terminal is a Unix one")
@pytest.mark.parametrize("arguments", [["info", "--help"], ["info", "--unknown"]])
def test_no_color_is_respected(arguments):
    """Help and errors have colours on a terminal, and none where NO_COLOR is set."""
    assert b"\x1b[" in run_on_terminal(*arguments)
    plain = run_on_terminal(*arguments, NO_COLOR="1")
    assert plain and b"\x1b[" not in plain


def test_a_failed_run_says_nothing_of_what_comes_next(monkeypatch, caplog):
    def fail(options):
        raise ValueError("no.")

    monkeypatch.setattr(info_command, "COMMAND", (info_command.InfoConfig, fail))
    assert main(["info"]) == 2
    assert caplog.messages == []
