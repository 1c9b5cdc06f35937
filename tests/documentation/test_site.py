"""The site's made pages, and what its pages quote."""

import ast
import importlib
import json
import re
import zlib
from functools import cache
from pathlib import Path

import pytest

import fourreal

from .site_hooks import hooks

ROOT = Path(__file__).resolve().parents[2]
TROUBLE = ROOT / "docs" / "troubleshooting.md"
MAX_SCENE = 8 * 2**20  # bytes of the page with the live scene


def test_every_node_has_a_page_and_a_place_in_the_list(pack):
    nodes = importlib.import_module("fourreal_pack.nodes").NODES
    ids = {node.GET_SCHEMA().node_id for node in nodes}
    pages = hooks.pages()
    assert {f"nodes/{node}.md" for node in ids} <= set(pages)
    listed = {node for nodes in hooks.node_menus().values() for node, _ in nodes}
    assert listed == ids
    assert all(f"]({node}.md)" in pages["nodes/index.md"] for node in ids)


def test_every_module_has_a_page_that_shows_it():
    pages = hooks.pages()
    files = [path for path in (ROOT / "fourreal").rglob("*.py") if "src" not in path.parts]
    assert len(files) == len(hooks.modules()) > 100
    for module, path in hooks.modules().items():
        assert f"::: {module}\n" in pages[hooks.address(module, path)]
    assert pages["api/video/index.md"].count("][fourreal.video.") == len(fourreal_video_names())


def fourreal_video_names() -> list[str]:
    return importlib.import_module("fourreal.video").__all__


def test_public_names_are_functions_classes_and_methods_of_every_module():
    names = set(hooks.public_names())
    assert {
        "fourreal.weights.folder",
        "fourreal.rendering.rasterize.render",
        "fourreal.reconstruction.reconstructor.Reconstructor.from_file",
        "fourreal.commands.jobs.GenerateConfig",
    } <= names
    assert not [name for name in names if "._" in name]
    assert fourreal.__name__ not in names


def test_a_name_without_a_place_in_the_reference_is_found():
    lines = [f"{name} py:function 1 x.html -" for name in hooks.public_names()]
    head = b"# Sphinx inventory version 2\n# Project: x\n# Version: 0\n# zlib\n"
    assert hooks.missing_names(head + zlib.compress("\n".join(lines).encode())) == []
    missing = hooks.missing_names(head + zlib.compress("\n".join(lines[1:]).encode()))
    assert missing == [hooks.public_names()[0]]


@pytest.mark.parametrize(
    ("page", "link", "wanted"),
    [
        ("architecture.md", "../CONTRIBUTING.md#add-a-node", "contributing.md#add-a-node"),
        ("architecture.md", "../fourreal/grid.py", hooks.REPOSITORY + "fourreal/grid.py"),
        ("contributing.md", "docs/architecture.md", "architecture.md"),
        ("contributing.md", "docs/hooks.py", hooks.REPOSITORY + "docs/hooks.py"),
        ("model-card.md", "../../README.md", "index.md"),
        ("gpu.md", "../nodes/web/docs/FourReal_PickView.md", "nodes/FourReal_PickView.md"),
        ("start/python.md", "../../fourreal/", "../api/index.md"),
        ("recipes/text-to-4d.md", "../index.md", "../index.md"),
        ("gpu.md", "https://example.org/a.md", "https://example.org/a.md"),
    ],
)
def test_links_out_of_the_pages_lead_to_the_site_or_the_repository(page, link, wanted):
    assert hooks.outside_links(f"[a]({link})", page) == f"[a]({wanted})"


def test_a_line_chart_becomes_a_drawing_with_its_points_in_place():
    text = """```mermaid
xychart-beta
    title "t"
    x-axis "hours" 0 --> 2
    y-axis "dB" 10 --> 20
    line [10, 20, 15]
```"""
    drawn = hooks.drawn_charts(f"a\n\n{text}\n\nb")
    assert 'points="50.0,150.0 260.0,30.0 470.0,90.0"' in drawn and "mermaid" not in drawn
    diary = (ROOT / "docs" / "training-diary.md").read_text(encoding="utf-8")
    assert "```mermaid" in diary and "```mermaid" not in hooks.drawn_charts(diary)


@cache
def sentences() -> list[str]:
    """Every text of the code, with three dots for what is put in."""
    found = []
    for folder in ("fourreal", "nodes"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [getattr(part, "value", None) for part in node.values]
                    found.append("".join(p if isinstance(p, str) else "..." for p in parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


def quotes(page: Path) -> list[str]:
    """The quoted sentences of a page."""
    blocks = re.findall(r"(?:^> .+\n)+", page.read_text(encoding="utf-8"), re.M)
    return [" ".join(line[2:] for line in block.splitlines()) for block in blocks]


def is_said(quote: str) -> bool:
    """Whether a text of the code has the parts of a quote between its dots, in order; a part of
    a few letters proves nothing."""
    parts = [re.escape(part) for part in re.split(r"\.\.\.", quote) if len(part.strip()) > 3]
    pattern = re.compile(r".*?".join(part.replace(r"\ ", r"\s+") for part in parts))
    return any(pattern.search(sentence) for sentence in sentences())


def test_the_messages_of_the_troubleshooting_page_are_those_of_the_code():
    found = quotes(TROUBLE)
    assert len(found) >= 10
    assert [quote for quote in found if not is_said(quote)] == []
    assert not is_said("the memory is empty (...); buy more.")


def test_the_live_scene_is_one_page_of_a_few_megabytes_that_the_front_page_shows():
    scene = ROOT / "docs" / "demo.html"
    assert scene.stat().st_size < MAX_SCENE
    text = scene.read_text(encoding="utf-8")
    assert "scene.json" in text and not re.search(r'(?:src|href)="https?://', text)
    assert 'src="demo.html"' in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")


def test_the_templates_that_pages_speak_of_are_there_and_all_are_listed():
    names = {path.stem for path in (ROOT / "workflows").glob("*.json")}
    pages = {page: page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md")}
    for page, text in pages.items():
        spoken = re.findall(r"[Tt]emplate\s\*\*(.+?)\*\*", text)
        assert set(spoken) <= names, page
    listed = pages[ROOT / "docs" / "start" / "comfyui.md"]
    assert [name for name in names if f"**{name}**" not in listed] == []


def test_the_files_to_download_are_those_of_the_templates():
    text = (ROOT / "docs" / "start" / "comfyui.md").read_text(encoding="utf-8")
    offered = set()
    for path in (ROOT / "workflows").glob("*.json"):
        for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
            for model in node["properties"].get("models", []):
                offered.add((model["name"], model["url"], model["directory"]))
    rows = re.findall(r"^\| \[`(.+?)`\]\((.+?)\).*?\| `(\w+)` \|", text, re.M)
    assert len(rows) >= 4 and set(rows) == offered
