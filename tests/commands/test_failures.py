"""What libraries throw becomes one sentence with the file's name; a defect keeps its traceback."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from types import FunctionType

import av
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fourreal import weights
from fourreal.cli import main
from fourreal.commands import info as info_command
from fourreal.commands.interrupts import Interrupts, Terminated


@pytest.fixture
def run(monkeypatch, capsys):
    """run(function): the exit code of a command that calls it, and what was printed."""

    def command(function):
        def call(options):
            function()

        monkeypatch.setattr(info_command, "COMMAND", (info_command.InfoConfig, call))
        return main(["info"]), capsys.readouterr().err

    return command


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name))


def bomb(path):
    size = struct.pack(">IIBBBBB", 50000, 50000, 1, 0, 0, 0, 0)
    header = struct.pack(">I", 13) + b"IHDR" + size + struct.pack(">I", zlib.crc32(b"IHDR" + size))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IEND", b""))


def in_our_room(function):
    """The function as if it were of the package: its locals hold the path that it works on."""

    def reader(path, read):
        return read(path)

    room = {"__name__": "fourreal.files.reader"}
    return FunctionType(reader.__code__, room, argdefs=(function,))


@pytest.mark.parametrize(
    "line",
    [
        "evaluate video",
        "evaluate text --scenes 2",
        "evaluate reconstruction",
        "ablate video",
        "ablate reconstruction",
        "train reconstructor --start-from reconstructor.safetensors --stage joint",
    ],
)
def test_a_missing_package_of_scores_is_told_before_a_model_is_made(line, monkeypatch, capsys):
    def trap(*_, **__):
        raise AssertionError("a model was made")

    monkeypatch.chdir(weights.folder())
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchmetrics"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)  # as if it were not installed
    monkeypatch.setattr(torch.nn.Module, "__init__", trap)
    assert main(line.split()) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert "need the package torchmetrics; pip install 'fourreal[train]'" in told


@pytest.mark.parametrize(
    ("read", "content"),
    [
        (lambda path: av.open(str(path), format="mp4"), b"no video"),
        (lambda path: Image.open(path).load(), b"no image"),
        (lambda path: Image.open(path).load(), None),
        (load_file, b"no tensors"),
        (lambda path: save_file({"a": torch.zeros(1)}, path / "x"), b""),
        (lambda path: json.loads(path.read_text()), b"{no json"),
        (lambda path: json.loads(path.read_text()), b"[" * 100_000),
        (lambda path: path.read_text(encoding="utf-8"), b"\xff\xfe"),
        (lambda path: path.iterdir().__next__(), b""),
        (lambda path: zlib.decompress(path.read_bytes()), b"not packed"),
        (lambda path: struct.unpack("<Q", path.read_bytes()), b"short"),
    ],
)
def test_errors_of_readers_name_the_file_in_one_line(read, content, tmp_path, run):
    path = tmp_path / "given.png"
    bomb(path) if content is None else path.write_bytes(content)
    code, printed = run(lambda: in_our_room(read)(path))
    assert code == 2 and printed.startswith("fourreal: ") and printed.count("\n") == 1
    assert "given.png" in printed


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device", "{path}"),
        OSError(28, "No space left on device", "file:{path}/video.mp4"),
        OSError("139264 requested and 35736 written"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    ],
)
def test_a_full_disk_is_named_with_the_place(error, tmp_path, run):
    def fail(path):
        raise error

    code, printed = run(lambda: in_our_room(fail)(tmp_path))
    assert code == 2 and "no space is left on the disk" in printed and printed.count("\n") == 1
    assert "file:" not in printed


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nDetails"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("unable to mmap 9 bytes from file <w>: Cannot allocate memory (12)"),
    ],
)
def test_a_full_memory_is_one_sentence(error, run):
    def fail():
        raise error

    code, printed = run(fail)
    assert code == 2 and "the memory is full" in printed and printed.count("\n") == 1


@pytest.mark.parametrize("error", [TypeError("x"), KeyError("x"), RuntimeError("shapes differ")])
def test_a_defect_keeps_its_traceback_and_says_where_to_report_it(error, run):
    def fail():
        raise error

    code, printed = run(fail)
    assert code == 1 and "Traceback" in printed and "in fail" in printed
    assert "/issues" in printed.splitlines()[-1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_command_with_their_codes(number, code, run):
    """Also where a library takes the exception for an error of its own."""

    def stopped():
        signal.raise_signal(number)

    def swallowed():
        try:
            signal.raise_signal(number)
        except BaseException:
            raise AttributeError("module 'numpy' has no attribute 'broadcast_to'") from None

    before = signal.getsignal(number)
    for function in (stopped, swallowed):
        assert run(function) == (code, "fourreal: stopped; nothing was left half-written.\n")
    assert signal.getsignal(number) == before


def test_a_second_signal_does_not_stop_the_cleaning():
    cleaned = False
    with Interrupts("stopped") as interrupts:
        interrupts.clean_up_first()
        with pytest.raises(Terminated):
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGINT)
                cleaned = True
    assert cleaned and interrupts.code == 143


@pytest.mark.parametrize("delay", [0.3, 0.8, 1.5])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_process_is_stopped_cleanly_in_its_first_seconds(number, code, delay, tmp_path):
    line = [sys.executable, "-m", "fourreal.cli", "generate", "ball", "--out", str(tmp_path / "o")]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    time.sleep(delay)
    process.send_signal(number)
    _, printed = process.communicate()
    started = process.returncode in (-number, 130 if number == signal.SIGINT else code)
    assert started and os.listdir(tmp_path) == []
    assert process.returncode == -number or "stopped" in printed


def test_a_signal_that_meets_a_finaliser_comes_again(capsys):
    """Python ignores exceptions of finalisers, and prints them."""

    class Held:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Terminated), Interrupts("stopped") as interrupts:
        interrupts.clean_up_first()
        held = Held()
        del held
        time.sleep(5)
    assert interrupts.code == 143 and "Traceback" not in capsys.readouterr().err


IN_A_TEXT = """
import sys
from fourreal.commands.interrupts import Interrupts

TEXT = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(10)"

def main():
    with Interrupts("stopped", last=True) as interrupts:
        interrupts.clean_up_first()
        try:
            exec(TEXT)
        except KeyboardInterrupt:
            return interrupts.code

sys.exit(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_a_stop_while_a_class_is_made_of_a_text_has_its_exit_code(tmp_path):
    """Dataclasses run a text, while commands import them. After a plain KeyboardInterrupt in it
    `python -m` kills itself at its end, whatever the exit code was."""
    (tmp_path / "stopped_in_a_text.py").write_text(IN_A_TEXT)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    words = [sys.executable, "-m", "stopped_in_a_text"]
    assert subprocess.run(words, env=os.environ | {"PYTHONPATH": path}).returncode == 130
