"""JSON files: read with every value checked, written whole, and settings as JSON has them."""

import json
import math
import os
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from fourreal.files.atomic import atomic_path
from fourreal.files.text_files import has_control, read_text

LARGEST = 1e12  # of numbers, whatever they mean: beyond it float32 arithmetic ends in infinity
SHOWN = 60  # characters of a wrong value in a message


def as_json(value: Any) -> Any:
    """The value as it is read back from JSON: tuples are lists; paths and the like are strings."""
    return json.loads(json.dumps(value, default=str))


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file in UTF-8, all of it or nothing; it ends with a new line."""
    with atomic_path(path) as temporary:
        temporary.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write a JSON file, all of it or nothing."""
    write_text(path, json.dumps(value, indent=1))


def _shown(value: Any) -> str:
    """A wrong value, in a few words on one line."""
    if isinstance(value, list | dict) and not value:
        return "an empty list" if isinstance(value, list) else "an empty object"
    text = reprlib.repr(value).encode("ascii", "backslashreplace").decode()
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


@dataclass(frozen=True)
class JsonValue:
    """A value of a JSON file, the file, and where in it the value stands (frames[2].file_path).

    Every method gives the value as what it must be, or raises ValueError in one sentence that names
    the file, the place, what was found and what is needed.
    """

    value: Any
    file: Path
    place: str = ""

    def wrong(self, needed: str) -> NoReturn:
        """Raise the ValueError for a value that is not what is needed."""
        place = f" as {self.place}" if self.place else ""
        raise ValueError(f"{self.file} has {_shown(self.value)}{place}, but {needed} is needed.")

    def items(self) -> "dict[str, JsonValue]":
        """The entries of an object."""
        if not isinstance(self.value, dict):
            self.wrong("an object")
        dot = "." if self.place else ""
        return {
            key: JsonValue(value, self.file, f"{self.place}{dot}{_key(key)}")
            for key, value in self.value.items()
        }

    def find(self, key: str) -> "JsonValue | None":
        """An entry of an object; None where it is missing or null."""
        if not isinstance(self.value, dict):
            self.wrong("an object")
        if self.value.get(key) is None:
            return None
        dot = "." if self.place else ""
        return JsonValue(self.value[key], self.file, f"{self.place}{dot}{_key(key)}")

    def get(self, key: str) -> "JsonValue":
        """An entry of an object that must be there."""
        entry = self.find(key)
        if entry is None:
            place = f" in {self.place}" if self.place else ""
            raise ValueError(f"{self.file} has no {_key(key)}{place}, which is needed.")
        return entry

    def entries(self, count: int | None = None) -> "list[JsonValue]":
        """The entries of a list, of `count` where that is given."""
        if not isinstance(self.value, list) or count not in (None, len(self.value)):
            self.wrong("a list" if count is None else f"a list of {count}")
        return [
            JsonValue(value, self.file, f"{self.place}[{number}]")
            for number, value in enumerate(self.value)
        ]

    def number(self, low: float = -LARGEST, high: float = LARGEST) -> float:
        """A number from low to high; true and false are none."""
        value = self.value
        known = isinstance(value, int | float) and not isinstance(value, bool)
        if not known or not low <= value <= high:  # NaN is neither
            bounds = "" if (low, high) == (-LARGEST, LARGEST) else f" from {low:g} to {high:g}"
            self.wrong(f"a number{bounds}")
        return float(value)

    def integer(self, low: int, high: int) -> int:
        """A whole number from low to high; 640.0 is one."""
        value = self.number(low, high)
        if value != int(value):
            self.wrong(f"a whole number from {low} to {high}")
        return int(value)

    def numbers(self, count: int) -> list[float]:
        """A list of so many numbers."""
        return [entry.number() for entry in self.entries(count)]

    def boolean(self) -> bool:
        if not isinstance(self.value, bool):
            self.wrong("true or false")
        return self.value

    def string(self) -> str:
        """A string that can be written as text: not empty, without zero characters and halves of
        characters (surrogates)."""
        if not isinstance(self.value, str) or not self.value.strip():
            self.wrong("a string")
        if "\x00" in self.value or any("\ud800" <= c <= "\udfff" for c in self.value):
            self.wrong("a string of whole characters")
        return self.value

    def path_in(self, folder: Path) -> Path:
        """A string as the path of something in a folder; backslashes are taken for slashes."""
        name = self.string()
        if has_control(name):
            self.wrong("a name without control characters")
        path = folder / name
        try:
            if "\\" not in name or path.exists():
                return path
            # Windows' own roots are not here, so that what begins with one is looked for here too.
            return folder / name.replace("\\", "/").lstrip("/")
        except OSError:
            self.wrong("a name that a file can have")


def _key(key: str) -> str:
    """A key as it is shown in a place, short and on one line."""
    return key if key.isidentifier() and len(key) <= SHOWN else _shown(key)


def _no_number(literal: str) -> NoReturn:
    raise ValueError(f"it has {literal[:20]}, which is no number in JSON")


def _finite(literal: str) -> float:
    value = float(literal)
    return value if math.isfinite(value) else _no_number(literal)


def parse_json(text: str, file: Path, line: int | None = None, finite: bool = True) -> JsonValue:
    """The value of a JSON text from a file, or from one of its lines (JSON lines).

    NaN, Infinity and numbers that become it are refused, as JSON has none; finite=False lets them
    pass (diffusers writes -Infinity for schedulers). Raises ValueError in one sentence naming the
    file and, where known, the line.
    """
    where = "" if line is None else f" in line {line}"
    try:
        checks: dict[str, Any] = {"parse_constant": _no_number, "parse_float": _finite}
        value = json.loads(text, **(checks if finite else {}))
    except json.JSONDecodeError as error:
        place = where or f" in line {error.lineno}, column {error.colno}"
        raise ValueError(f"{file} is not JSON: {error.msg}{place}.") from error
    except RecursionError:
        raise ValueError(f"{file} is not JSON that can be read: it is nested too deeply.") from None
    except ValueError as error:  # of the numbers; of digits beyond Python's limit too
        reason = str(error).split(";")[0]
        raise ValueError(f"{file} is not JSON: {reason}{where}.") from error
    return JsonValue(value, file, "" if line is None else f"line {line}")


def read_json(path: str | os.PathLike, finite: bool = True) -> JsonValue:
    """The value of a JSON file (finite: as in parse_json). Raises ValueError in one sentence naming
    the file."""
    return parse_json(read_text(path), Path(path), finite=finite)
