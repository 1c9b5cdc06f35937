"""The documentation names files, functions and packages that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "fourreal/weights/README.md"]
)
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
NAME = re.compile(r"`\w+`")
PATH = re.compile(r"`((?:fourreal|nodes|tests|docs|locales|workflows|\.ci|\.github)/[^`\s<>*]+)`")


def links(page: Path) -> list[tuple[str, str]]:
    """(text, target) of each link to a file of the repository."""
    found = LINK.findall(page.read_text(encoding="utf-8"))
    return [(text, target) for text, target in found if "://" not in target]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    """In the repository, where pages are read before the site is built."""
    text = page.read_text(encoding="utf-8")
    linked = {target.split("#")[0] for _, target in links(page)}
    missing = [target for target in linked if target and not (page.parent / target).exists()]
    missing += [name for name in PATH.findall(text) if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_function_that_links_to_a_file_is_defined_there(page):
    wrong = []
    for text, target in links(page):
        if NAME.fullmatch(text) and (page.parent / target).is_file():
            defined = (
                rf"^\s*(?:def|class|function|export class) {text[1:-1]}\b|^{text[1:-1]}\b.* = "
            )
            source = (page.parent / target).read_text(encoding="utf-8")
            if not re.search(defined, source, re.M):
                wrong.append((text, target))
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_sections_that_a_page_links_to_exist(page):
    missing = []
    for _, target in links(page):
        path, _, section = target.partition("#")
        if section:
            file = (page.parent / path if path else page).resolve()
            text = file.read_text(encoding="utf-8")
            headings = re.findall(r"^#+ (.+)$", text, re.M)
            names = [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]
            missing += [] if section in names else [target]
    assert not missing


def test_the_architecture_page_has_every_room_of_the_library():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text[text.index("## The rooms") : text.index("## From a prompt")]
    library = ROOT / "fourreal"
    rooms = [path.parent.name for path in library.glob("*/__init__.py")]
    rooms += [path.name for path in library.glob("*.py") if path.name != "__init__.py"]
    assert [room for room in sorted(rooms) if f"`{room}`" not in table] == []
