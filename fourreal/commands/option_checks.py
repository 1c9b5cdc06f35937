"""Every option is checked here, before a model is loaded: numbers, texts, files and places.

What is accepted of which option stands in option_rules.py. Here is how a config, as tyro makes it
of a command line, is gone through, and how each kind of rule is checked.
"""

import math
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

import tyro

from fourreal.files.tensors import read_safetensors


@dataclass(frozen=True)
class Number:
    """Accepts finite numbers from `least` to `most` (above: not `least` itself) that are `plus`
    more than a multiple of `multiple`. reason: why, where that is not plain."""

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    multiple: int = 1
    plus: int = 0
    reason: str = ""

    def __call__(self, value: float) -> str | None:
        """What must be true of the value and is not, None when all is."""
        if not math.isfinite(value):
            return "a finite number"
        if self.multiple > 1 and (value - self.plus) % self.multiple:
            below = max(value - self.plus, 0) // self.multiple * self.multiple + self.plus
            below = max(below, self.least)
            kind = f"a multiple of {self.multiple}" + (f" plus {self.plus}" if self.plus else "")
            return f"{kind}{self._reason()}; use {below:g} or {below + self.multiple:g}"
        if value < self.least or (self.above and value == self.least):
            return f"{'above' if self.above else 'at least'} {self.least:g}{self._reason()}"
        if value > self.most:
            return f"at most {self.most:.20g}{self._reason()}"
        return None

    def _reason(self) -> str:
        return f" ({self.reason})" if self.reason else ""


class Refused(ValueError):
    """A sentence of its own, in place of "X is V, but must be ..."."""


def text(value: str) -> str | None:
    """Accepts what can be written as UTF-8: an argument of other bytes holds lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return "UTF-8 text; the bytes that were given are not"
    return None


def prompt(value: str) -> str | None:
    """Accepts text with words."""
    if not value.strip():
        raise Refused("the prompt is empty; say what the scene shows and how it moves.")
    return text(value)


def one_of(*accepted: str) -> Callable[[str], str | None]:
    """Accepts these words."""
    return lambda value: None if value in accepted else f"one of {', '.join(accepted)}"


def file_to_read(path: Path, wanted: str = "the path of a file") -> None:
    """Accepts a regular file that can be opened; of .safetensors the table of contents is read.
    wanted: what is to be given in place of another path."""
    mode = path.stat().st_mode if path.exists() else 0
    if not stat.S_ISREG(mode):
        found = "is a folder" if stat.S_ISDIR(mode) else "is no regular file" if mode else ""
        raise Refused(f"{path} {found or 'does not exist'}; give {wanted}.")
    with path.open("rb") as file:
        if not file.read(1):
            raise Refused(f"{path} is empty; give another file.")
    if path.suffix.lower() == ".safetensors":
        read_safetensors(path)


def folder_to_read(path: Path) -> None:
    """Accepts a folder that can be listed."""
    if not path.is_dir():
        found = "is a file" if path.is_file() else "does not exist"
        raise Refused(f"{path} {found}; give the path of a folder.")
    os.listdir(path)


@dataclass(frozen=True)
class PathToRead:
    """Accepts what file_to_read or folder_to_read accepts. wanted: which files and folders."""

    wanted: str

    def __call__(self, path: Path) -> None:
        """Raises Refused for a path that is neither."""
        if path.is_dir():
            folder_to_read(path)
        else:
            file_to_read(path, self.wanted)


def place_of_folder(path: Path) -> None:
    """Accepts a folder that can be written to, or a path at which one can be made."""
    if path.exists() and not path.is_dir():
        raise Refused(f"{path} is a file; give a folder for the results.")
    _check_place(path)


def place_of_file(path: Path) -> None:
    """Accepts a path at which a file can be written."""
    if path.is_dir():
        raise Refused(f"{path} is a folder; give the path of a file to write.")
    _check_place(path.parent, path)


def place_by_suffix(path: Path) -> None:
    """Accepts a path at which a file, or where it has no suffix a folder, can be written."""
    if path.suffix:
        place_of_file(path)
    else:
        place_of_folder(path)


def _check_place(folder: Path, named: Path | None = None) -> None:
    """Raise ValueError unless files can be made in `folder`, which may have to be made itself."""
    named = named or folder
    for place in dict.fromkeys((named, folder, *folder.absolute().parents)):
        if place.is_symlink() and not place.exists():
            raise Refused(f"cannot write to {named}: {place} is a link to nothing; remove it.")
        if place.is_dir():
            if not os.access(place, os.W_OK | os.X_OK):
                raise Refused(
                    f"cannot write to {named}: no permission in {place}; choose another place."
                )
            return
        if place.exists() and place != named:
            raise Refused(f"cannot write to {named}: {place} is a file; choose another place.")


Rule = Callable[[Any], str | None]


def options_of(config: Any, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """(name in sentences, names in the rules' table in their order joined by spaces, value) of
    every option of a config, those of nested configs too. In sentences an option has its dashes
    and what else it is called, "--reconstructor (--weights)"; a positional one has neither."""
    owners = [cls.__name__ for cls in type(config).__mro__ if is_dataclass(cls)]
    hints = get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        if is_dataclass(value):
            yield from options_of(value, f"{name}.")
        else:
            keys = [f"{owner}.{field.name}" for owner in owners] + [field.name]
            yield _in_sentences(name, hints[field.name]), " ".join(keys), value


def _in_sentences(name: str, hint: Any) -> str:
    """The name of an option, as tyro makes it of a field and its type."""
    marks = hint.__metadata__ if get_origin(hint) is Annotated else ()
    if tyro.conf.Positional in marks:
        return name
    option = f"--{name.replace('_', '-')}"
    aliases = [alias for mark in marks for alias in getattr(mark, "aliases", None) or ()]
    others = [alias for alias in aliases if alias.strip("-") not in option]  # not --views
    return f"{option} ({', '.join(others)})" if others else option


def rule_of(keys: str, rules: dict[str, Rule]) -> Rule | None:
    """The rule of an option: of its class, of a class above, or of its name alone."""
    return next((rules[key] for key in keys.split() if key in rules), None)


def check_option(name: str, value: Any, rule: Rule) -> None:
    """Raise ValueError in one sentence, with the option's name in it, unless the rule accepts a
    value, and each of several."""
    for single in value if isinstance(value, tuple) else (value,):
        try:
            wanted = None if single is None else rule(single)
        except Refused as refused:
            raise Refused(f"{name}: {refused}" if name.startswith("--") else str(refused)) from None
        if wanted:
            shown = repr(single) if isinstance(single, str) else single
            raise ValueError(f"{name} is {shown}, but must be {wanted}.")
