"""The progress of long work: bars of one look, and which part of it begins.

There are no bars where TQDM_DISABLE is set, as --quiet sets it.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

logger = logging.getLogger(__name__)
T = TypeVar("T")


def bars_are_hidden() -> bool:
    """Whether the environment asks for no bars. tqdm itself looks only when it is imported."""
    return os.environ.get("TQDM_DISABLE", "0") not in ("", "0")


def bar(items: Iterable | None = None, *, name: str, disable: bool = False, **options: Any) -> tqdm:
    """tqdm's bar over items, or of a total: count, share, time so far and time that is left.

    options: those of tqdm, such as total, initial and mininterval.
    """
    return tqdm(items, desc=name, disable=disable or bars_are_hidden(), **options)


def announce(kind: str, number: int, names: Sequence[object]) -> None:
    """Log that a part of long work begins, the first being number 1, and what comes after it:
    "Stage 2 of 3: work (then write)"."""
    left = ", ".join(map(str, names[number:]))
    then = f" (then {left})" if left else ""
    logger.info("%s %d of %d: %s%s", kind, number, len(names), names[number - 1], then)


def each(kind: str, items: Sequence[T]) -> Iterator[T]:
    """The items, each announced before it is worked on."""
    for number, item in enumerate(items, 1):
        announce(kind, number, items)
        yield item
