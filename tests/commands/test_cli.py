"""The command line itself: names, help, and how it ends."""

import subprocess
import sys

import pytest

from fourreal.cli import COMMANDS, GROUPS, main
from fourreal.commands import info as info_command

INNER = {
    "train": ("autoencoder", "video", "reconstructor"),
    "evaluate": ("autoencoder", "video", "text", "reconstruction", "pipeline", "split"),
    "ablate": ("video", "sampling", "reconstruction"),
    "benchmark": ("attention", "renderer", "reconstruction"),
}


def run_python(code: str) -> int:
    return subprocess.run([sys.executable, "-c", code]).returncode


def test_help_names_every_command_and_imports_none_of_them():
    code = (
        "import sys, fourreal.cli; code = fourreal.cli.main(['--help']); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0
    assert all(f"  {name} " in found.stdout for name in (*COMMANDS, *GROUPS))


@pytest.mark.parametrize("arguments", [[], ["-h"]])
def test_without_a_command_help_is_shown(arguments, capsys):
    assert main(arguments) == 0
    assert "reconstruct" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_its_options(name, capsys):
    assert main([name, "--help"]) == 0
    assert f"usage: fourreal {name}" in capsys.readouterr().out


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_names_its_commands_which_explain_their_options(group, capsys):
    assert main([group]) == 0
    printed = capsys.readouterr().out
    assert all(f"• {name} " in printed or f"• {name}\n" in printed for name in INNER[group])
    for name in INNER[group]:
        assert main([group, name, "--help"]) == 0
        assert f"usage: fourreal {group} {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--vews"], "Available subcommands: generate, reconstruct"),
        (["evaluate", "--vews"], "Available subcommands: autoencoder, video, warp, text"),
        (["render", "s.safetensors", "--kind", "zigzag"], "invalid choice 'zigzag'"),
        (["render", "s.safetensors", "--time", "backwards"], "invalid choice 'backwards'"),
        (["reconstruct", "a.mp4", "--cameras", "last"], "invalid choice 'last'"),
        (["reconstruct", "a.mp4", "--filters.min-opacity", "2"], "nothing would be left"),
        (["evaluate", "video", "--split", "train"], "invalid choice 'train'"),
        (["evaluate", "video", "--references", "rows"], "invalid choice 'rows'"),
        (["ablate", "video", "--variants", "spare"], "invalid choice 'spare'"),
        (["benchmark", "attention", "--dtype", "int8"], "invalid choice 'int8'"),
        (["generate", "a ball", "--vews", "2"], "Unrecognized options: --vews"),
    ],
)
def test_a_wrong_word_ends_with_the_right_ones(arguments, words, capsys):
    assert main(arguments) == 2
    printed = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert words in printed


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ValueError("views is 0."), 2, "fourreal: views is 0.\n"),
        (FileNotFoundError("no.mp4"), 2, "fourreal: no.mp4\n"),
        (FloatingPointError("the loss is NaN."), 2, "fourreal: the loss is NaN.\n"),
        (KeyboardInterrupt(), 130, "fourreal: stopped; nothing was left half-written.\n"),
    ],
)
def test_what_goes_wrong_ends_in_one_sentence(error, code, words, monkeypatch, capsys):
    def fail(options):
        raise error

    monkeypatch.setattr(info_command, "COMMAND", (info_command.InfoConfig, fail))
    assert main(["info"]) == code
    assert capsys.readouterr().err == words


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["recontruct", "cams"], "'recontruct' is no command; did you mean reconstruct?"),
        (["Generate", "a ball"], "'Generate' is no command; did you mean generate?"),
        (["evaluate", "vidoe"], "'vidoe' is no command of evaluate; did you mean video?"),
        (
            ["train", "everything"],
            "'everything' is no command of train; give one of autoencoder, video, reconstructor.",
        ),
    ],
)
def test_a_word_that_is_no_command_is_told_with_the_one_that_is_alike(arguments, sentence, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"fourreal: {sentence}\n"


def test_a_word_that_is_like_no_command_is_told_with_all_of_them(capsys):
    assert main(["xyzzy"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("fourreal: 'xyzzy' is no command; give one of generate, ")
    assert all(name in printed for name in (*COMMANDS, *GROUPS)) and printed.count("\n") == 1


def test_info_says_which_attention_and_why(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert "view-time attention: " in printed and "gives the log-sum-exp" in printed
    assert "  gather: available\n" in printed


def test_importing_the_library_is_light():
    heavy = "('diffusers', 'transformers', 'gsplat', 'flash_attn', 'comfy')"
    modules = "video, attention, reconstruction, rendering, cli, commands.results"
    names = ", ".join(f"fourreal.{name}" for name in modules.split(", "))
    code = f"import sys, {names}; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert run_python(code) == 0
