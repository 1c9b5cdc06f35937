"""What the tests share."""

import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from .skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401 (hooks)

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]

torch.set_num_threads(min(torch.get_num_threads(), 2))


def chromium() -> str | None:
    """The path of a Chromium, if one is here."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium that draws WebGL on the CPU."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = chromium()
    if not found:
        pytest.skip("no Chromium is here (apt-get install chromium, or set CHROMIUM to its path)")
    with sync_api.sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield instance
        instance.close()


@pytest.fixture(scope="session")
def pack(tmp_path_factory):
    """The pack, imported as ComfyUI imports it: beside a real one on the CPU where COMFYUI_PATH is
    set to a checkout, else beside the stand-in."""
    from . import comfy_stand_in
    from .comfyui import COMFYUI, ROOT

    if COMFYUI:
        sys.path.insert(0, COMFYUI)
        from comfy.cli_args import args

        args.cpu = True
        from comfy_api.latest import io

        # Tests call nodes as the executor does, which gives them what they ask for.
        io.ComfyNode.hidden = SimpleNamespace(unique_id=None, prompt=None, extra_pnginfo=None)
    else:
        comfy_stand_in.install(tmp_path_factory.mktemp("comfyui"))
    spec = importlib.util.spec_from_file_location(
        "fourreal_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["fourreal_pack"] = module
    spec.loader.exec_module(module)
    importlib.import_module("fourreal_pack.nodes")
    return module


@pytest.fixture(scope="session")
def untrained(tmp_path_factory) -> Callable[[str], Path]:
    """Makes a folder of untrained models of one conditioning, once."""
    from .comfyui import write_random_weights

    @cache
    def made(conditioning: str) -> Path:
        folder = tmp_path_factory.mktemp("untrained")
        write_random_weights(folder, conditioning)
        return folder

    return made


@pytest.fixture(params=["replace", "add"])
def weights(request, untrained, tmp_path, monkeypatch):
    """A folder of untrained models in place of the embedded ones, of one conditioning."""
    shutil.copytree(untrained(request.param), tmp_path, dirs_exist_ok=True)
    torch.manual_seed(0)
    monkeypatch.setenv("FOURREAL_WEIGHTS", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def server(tmp_path_factory, untrained):
    """A real ComfyUI server with the pack and untrained models (see comfyui.py)."""
    from .comfyui import Server

    server = Server(tmp_path_factory.mktemp("comfyui") / "base", untrained("replace"))
    yield server
    server.process.terminate()
    server.process.wait(30)


@pytest.fixture(scope="session")
def info(server):
    """What the server says about all nodes, once it listens."""
    return server.wait_for(lambda: server.ask("/object_info"), 300)
