"""Progress bars of long work: one look, and none where TQDM_DISABLE is set, as --quiet sets it."""

import os
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def bars_are_hidden() -> bool:
    """Whether the environment asks for no bars. tqdm itself looks only when it is imported."""
    return os.environ.get("TQDM_DISABLE", "0") not in ("", "0")


def bar(items: Iterable | None = None, *, name: str, disable: bool = False, **options: Any) -> tqdm:
    """tqdm's bar over items, or of a total: count, share, time so far and time that is left.

    options: those of tqdm, such as total, initial and mininterval.
    """
    return tqdm(items, desc=name, disable=disable or bars_are_hidden(), **options)
