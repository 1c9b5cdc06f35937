"""How much a command says: --quiet and --verbose, which every command takes.

Results go to stdout. What happens meanwhile, warnings and errors go to stderr.
"""

import logging
import os
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

LIBRARIES = ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY")  # read when they are imported


@dataclass
class Verbosity:
    """How much a command says."""

    quiet: Annotated[bool, tyro.conf.arg(aliases=["-q"])] = False
    """Say only what is wrong and where the results are."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False
    """Say also the settings, what libraries tell, and where in the code an error came from."""


def with_verbosity(options: type) -> Any:
    """A command for tyro that takes the options of a class and those of Verbosity, and returns
    both."""

    def command(options: Any, verbosity: Any) -> tuple[Any, Verbosity]:
        return options, verbosity

    flat = tyro.conf.arg(name="")
    command.__annotations__ = {
        "options": Annotated[options, flat],
        "verbosity": Annotated[Verbosity, flat, tyro.conf.FlagCreatePairsOff],
    }
    command.__doc__ = options.__doc__
    return command


def set_verbosity(asked: Verbosity) -> None:
    """Say as much as was asked for. Raises ValueError when both were."""
    if asked.quiet and asked.verbose:
        raise ValueError("--quiet and --verbose contradict each other; give one of them.")
    level = logging.DEBUG if asked.verbose else logging.WARNING if asked.quiet else logging.INFO
    logging.getLogger("fourreal").setLevel(level)
    if asked.quiet:
        os.environ["TQDM_DISABLE"] = "1"  # read by our bars and by those of libraries
    if asked.quiet or asked.verbose:
        for name in LIBRARIES:
            os.environ.setdefault(name, "info" if asked.verbose else "error")


def is_verbose() -> bool:
    """Whether --verbose was given."""
    return logging.getLogger("fourreal").isEnabledFor(logging.DEBUG)
