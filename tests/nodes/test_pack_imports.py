"""What importing the pack, and sampling with it, imports; which of its files import which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from ..comfyui import COMFYUI, ROOT, copy_pack, needs_comfyui

SCRIPT = Path(__file__).with_name("sample_stock_wan.py")


def test_the_library_and_the_pack_import_without_comfyui():
    """The pack's entrance may be imported by other tools; only its call needs ComfyUI."""
    code = (
        "import sys, importlib.util as u\n"
        "class Block:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('comfy', 'comfy_api', 'folder_paths'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import fourreal, fourreal.grid, fourreal.cameras, fourreal.gaussians, fourreal.weights\n"
        "import fourreal.attention, fourreal.reconstruction, fourreal.rendering\n"
        "heavy = {'diffusers', 'transformers', 'gsplat', 'flash_attn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        f"spec = u.spec_from_file_location('pack', {str(ROOT / '__init__.py')!r})\n"
        "module = u.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "assert callable(module.comfy_entrypoint)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_node_files_are_plain_ascii():
    """ComfyUI on Windows may read them in another code page."""
    for path in [ROOT / "__init__.py", *(ROOT / "nodes").glob("*.py")]:
        assert path.read_bytes().isascii(), path


def test_files_of_nodes_import_what_they_stand_on_and_not_each_other():
    for path in (ROOT / "nodes").glob("*.py"):
        if path.stem == "__init__":
            continue
        tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        neighbours = [node for node in tree if isinstance(node, ast.ImportFrom) and node.level]
        names = {name.name for node in neighbours for name in node.names} | {
            node.module for node in neighbours if node.module
        }
        assert not [name for name in names if name.endswith("_nodes")], path


@pytest.mark.parametrize("family", ["WAN21_T2V", "WAN22_T2V"])
def test_sampling_a_stock_wan_model_imports_no_diffusers(family):
    """Nor accelerate, nor transformers where ComfyUI itself has not."""
    given = [COMFYUI] if COMFYUI else []
    subprocess.run([sys.executable, SCRIPT, family, *given], check=True, cwd=ROOT)


@needs_comfyui
def test_the_pack_finds_its_library_when_it_is_not_installed(tmp_path):
    """As after a git clone into custom_nodes, under any folder name, with none of the optional
    packages; it imports nothing heavy, and says nothing."""
    copy_pack(tmp_path / "4real-renamed.1")
    code = (
        "import sys, warnings, logging, asyncio, importlib.util as u\n"
        f"sys.path[:] = [{COMFYUI!r}] + [p for p in sys.path if p not in ('', {str(ROOT)!r})]\n"
        "sys.meta_path[:] = [m for m in sys.meta_path if '__editable__' not in repr(m)]\n"
        "assert u.find_spec('fourreal') is None\n"
        "from comfy.cli_args import args; args.cpu = True\n"
        "import nodes, comfy_api.latest\n"
        "class Block:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('gsplat', 'flash_attn', 'peft', 'accelerate'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "said = []\n"
        "warnings.simplefilter('error')\n"
        "logging.getLogger().addFilter(lambda record: said.append(record) or True)\n"
        f"folder = {str(tmp_path / '4real-renamed.1')!r}\n"
        "before = set(sys.modules)\n"
        "spec = u.spec_from_file_location('p_x_', folder + '/__init__.py', "
        "submodule_search_locations=[folder])\n"
        "sys.modules['p_x_'] = module = u.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "extension = asyncio.run(module.comfy_entrypoint())\n"
        "found = asyncio.run(extension.get_node_list())\n"
        "assert all(node.GET_SCHEMA() for node in found)\n"
        "assert not said, said\n"
        "import fourreal\n"
        "assert fourreal.__file__.startswith(folder), fourreal.__file__\n"
        "heavy = {'diffusers', 'transformers', 'gsplat', 'flash_attn', 'fourreal.attention'}\n"
        "heavy &= set(sys.modules) - before\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
