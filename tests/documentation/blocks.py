"""The code blocks of a page, and the shell commands in them."""

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^(\s*)```+\s*(\w*)(.*)$")
TITLE = re.compile(r'title="([^"]+)"')
COMMENT = re.compile(r"^\s*<!-- (.+) -->\s*$")
SHELL = ("", "bash", "sh", "console")


@dataclass(frozen=True)
class Block:
    """A code block: its language, its text, the file that it is (a title), and what it needs, where
    a comment above it says so ("needs a GPU", "runs until it is stopped")."""

    language: str
    text: str
    title: str | None
    mark: str | None


def blocks_of(page: Path) -> list[Block]:
    """Every code block between fences, those inside tabs too."""
    found, lines, inside, mark = [], [], None, None
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = FENCE.match(line)
        if inside is not None and fence and not fence[2]:
            title = TITLE.search(inside[3])
            text = textwrap.dedent("\n".join(lines)) + "\n"
            found.append(Block(inside[2], text, title and title[1], mark))
            lines, inside, mark = [], None, None
        elif inside is not None:
            lines.append(line)
        elif fence:
            inside = fence
        elif line.strip():
            comment = COMMENT.match(line)
            mark = comment and comment[1]
    return found


def commands_of(block: Block) -> list[list[str]]:
    """The arguments of each command of a shell block: of those that are joined by &&, and of
    `train video | reconstructor` for either word."""
    text, found = re.sub(r"\\\n\s*", " ", block.text), []
    for line in text.splitlines():
        part: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word != "&&":
                part.append(word)
            elif part:
                found += _alternatives(part)
                part = []
    return found


def _alternatives(words: list[str]) -> list[list[str]]:
    if "|" not in words:
        return [words]
    first = words.index("|") - 1
    return [[*words[:first], choice] for choice in words[first:] if choice != "|"]
