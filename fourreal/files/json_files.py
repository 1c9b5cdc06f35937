"""Text and JSON files that appear whole, and settings as JSON has them."""

import json
import os
from typing import Any

from fourreal.files.atomic import atomic_path


def as_json(value: Any) -> Any:
    """The value as it is read back from JSON: tuples are lists; paths and the like are strings."""
    return json.loads(json.dumps(value, default=str))


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file, all of it or nothing; it ends with a new line."""
    with atomic_path(path) as temporary:
        temporary.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write a JSON file, all of it or nothing."""
    write_text(path, json.dumps(value, indent=1))
