"""Optional packages, those of an extra, and sentences that say that one is missing."""

import importlib
from typing import Any


def install_extra(extra: str) -> str:
    """The command that installs an extra of this project, and the one in a clone of it."""
    return f"pip install 'fourreal[{extra}]' (in a clone: pip install -e '.[{extra}]')"


def import_extra(module: str, sentence: str) -> Any:
    """A module of a package that an extra installs. Raises ValueError with the sentence where it
    is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(sentence) from error
