"""tasks.py: which torch it installs, and what it says when it cannot."""

import importlib.util
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

CPU_INDEX = "https://download.pytorch.org/whl/cpu"


@pytest.fixture
def tasks():
    path = Path(__file__).resolve().parents[1] / "tasks.py"
    spec = importlib.util.spec_from_file_location("tasks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def asked(tasks, monkeypatch):
    """Do a task where only some commands work: gives what pip was asked to install."""

    def record(task, works=lambda command: True, gpu=False, index=True) -> list[list[str]]:
        calls = []

        def run(*command, check=True, **_) -> int:
            calls.append([str(part) for part in command[1:]])
            return 0 if works(" ".join(calls[-1])) else 1

        monkeypatch.setattr(tasks, "run", run)
        monkeypatch.setattr(tasks, "reachable", lambda _: index)
        monkeypatch.setattr(tasks.shutil, "which", lambda _: "nvidia-smi" if gpu else None)
        task()
        return [call[4:] for call in calls if call[:3] == ["-m", "pip", "install"]]

    return record


def no_torch_yet(command: str) -> bool:
    return "import torch" not in command


def test_torch_that_can_be_imported_is_kept(tasks, asked):
    assert asked(tasks.install_torch) == []


def test_a_gpu_gets_pips_own_torch(tasks, asked):
    assert asked(tasks.install_torch, no_torch_yet, gpu=True) == [["torch"]]


def test_without_a_gpu_torch_comes_from_pytorchs_cpu_index(tasks, asked):
    wanted = [["torch", "--index-url", CPU_INDEX]]
    assert asked(tasks.install_torch, no_torch_yet) == wanted


def test_without_that_index_the_version_with_cpu_builds_comes_before_any(tasks, asked):
    tried = asked(tasks.install_torch, no_torch_yet, index=False)
    assert tried == [["torch==2.13.0"]]
    tried = asked(tasks.install_torch, lambda command: command.endswith("-q torch"), index=False)
    assert tried == [["torch==2.13.0"], ["torch"]]


def test_a_failing_index_is_followed_by_what_pip_offers(tasks, asked):
    tried = asked(tasks.install_torch, lambda command: "==" in command)
    assert tried == [["torch", "--index-url", CPU_INDEX], ["torch==2.13.0"]]


def test_where_pip_gives_no_torch_one_sentence_says_what_to_do(tasks, asked):
    with pytest.raises(SystemExit, match=r"pip could not install torch.*Install it into .*\.venv"):
        asked(tasks.install_torch, lambda command: False)


@pytest.mark.parametrize("index", [True, False])
def test_comfyuis_torchvision_is_of_torchs_build(tasks, asked, tmp_path, monkeypatch, index):
    monkeypatch.setattr(tasks, "ENVIRONMENT", tmp_path)
    monkeypatch.setenv("COMFYUI_PATH", "")
    (tmp_path / "main.py").touch()
    (tmp_path / "requirements.txt").write_text("torch\ntorchvision\n")
    installed = asked(lambda: tasks.use_comfyui(tmp_path), index=index)
    first = [["torchvision", "torchaudio", "--index-url", CPU_INDEX]] if index else []
    assert installed == [*first, ["-r", str(tmp_path / "requirements.txt")]]
    assert asked(lambda: tasks.use_comfyui(tmp_path)) == []  # once per change


def test_an_address_is_reachable_when_it_answers_with_success(tasks):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/here" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert tasks.reachable(f"{address}/here")
        assert not tasks.reachable(f"{address}/elsewhere")
        server.shutdown()
    assert not tasks.reachable(address)  # nobody listens any more


def test_an_address_that_does_not_answer_in_time_is_not_reachable(tasks):
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:  # listens, never answers
        assert not tasks.reachable(f"http://127.0.0.1:{server.server_port}", seconds=0.1)


def test_without_a_gpu_one_sentence_says_so_and_nothing_is_installed(tasks, monkeypatch, capsys):
    monkeypatch.setattr(tasks.shutil, "which", lambda _: None)
    monkeypatch.setattr(tasks, "setup", None)
    with pytest.raises(SystemExit) as stop:
        tasks.gpu([])
    assert stop.value.code == 2
    assert capsys.readouterr() == ("", "There is no NVIDIA GPU here, so nothing was measured.\n")


def test_with_a_gpu_its_tests_and_benchmarks_run_in_the_environment(tasks, asked, monkeypatch):
    seen = []
    monkeypatch.setattr(tasks, "setup", seen.append)

    def task():
        run = tasks.run
        monkeypatch.setattr(tasks, "run", lambda *c, **o: seen.append(c[1:]) or run(*c, **o))
        tasks.gpu(["--out", "x.json"])

    asked(task, gpu=True)
    assert seen == ["test", ("-m", "fourreal.benchmarks.gpu", "--out", "x.json")]
