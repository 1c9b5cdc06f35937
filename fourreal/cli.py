"""The command line: the names of the commands, each of which is a file of fourreal/commands."""

import importlib
import os
import sys
import time
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fourreal.commands.interrupts import Interrupts, Terminated

if TYPE_CHECKING:
    from tyro.extras import SubcommandApp

# Modules of fourreal.commands; only the one that is asked for is imported. They hold COMMAND, the
# options and the function that takes them, or COMMANDS, those of each command of a group.
COMMANDS = {
    "generate": "Generate a 4D scene from a prompt, or one for each line of a file.",
    "reconstruct": "Reconstruct a 4D scene from synchronised videos, one per view.",
    "warp": "Show a scene, a video or photos to still cameras on an arc, with what is missing.",
    "track": "Follow points of one frame through synchronised videos.",
    "render": "Render a scene file along a camera path to a video or images.",
    "convert": "Convert a scene from any format into any other.",
    "view": "Explore a scene file in the browser.",
    "info": "Print versions, devices, and the attention and rasterizer that would be used.",
}
GROUPS = {
    "train": "Train the autoencoder, the video model or the reconstructor.",
    "evaluate": "Score models on scenes or clips that they were not trained on.",
    "ablate": "Compare variants of the method.",
    "benchmark": "Measure time and memory on this device.",
}
FILES = {"warp": "warping"}  # of commands that are not in a file of their own name
EXAMPLES = (
    (
        "text to a 4D scene, with the embedded models on any machine",
        'fourreal generate "a red ball bouncing" --out out/ball',
    ),
    (
        "your own synchronised videos to a 4D scene, and a look at it",
        "fourreal reconstruct cam0.mp4 cam1.mp4 cam2.mp4 --out out/mine\n"
        "    fourreal view out/mine/scene.safetensors",
    ),
)
STOPPED = "fourreal: stopped; nothing was left half-written."
Runs = dict[type, Callable[[Any], object]]  # what is done with the options of each class


def module_of(name: str) -> ModuleType:
    """The file of a command or a group."""
    return importlib.import_module(f"fourreal.commands.{FILES.get(name, name)}")


def check_name(name: str, accepted: Iterable[str], group: str = "") -> None:
    """Raise ValueError, with the name that is most alike, for a word in place of a command that is
    none; what begins with a dash is left to tyro."""
    names = list(accepted)
    if name in names or name.startswith("-"):
        return
    import difflib

    alike = difflib.get_close_matches(name, names, n=1)
    advice = f"did you mean {alike[0]}?" if alike else f"give one of {', '.join(names)}."
    raise ValueError(f"{name!r} is no command{group and f' of {group}'}; {advice}")


def gather(asked: str | None) -> "tuple[SubcommandApp, Runs]":
    """All commands by name; only the one or the group that is asked for gets its options."""
    from tyro.extras import SubcommandApp

    from fourreal.commands.verbosity import with_verbosity

    app, runs = SubcommandApp(), Runs()
    for name, summary in (COMMANDS | GROUPS).items():
        if name != asked:
            app.command(name=name, help=summary)(lambda: None)
            continue
        module = module_of(name)
        if name in COMMANDS:
            options, run = module.COMMAND
            app.command(name=name)(with_verbosity(options))
            runs[options] = run
            continue
        group = SubcommandApp()
        for inner, (options, run) in module.COMMANDS.items():
            group.command(name=inner)(with_verbosity(options))
            runs[options] = run
        app.command(group, name=name, help=summary)
    return app, runs


def overview() -> str:
    """What `fourreal` can do: the commands, a line each, and two examples."""
    lines = ["Text to explorable 4D: a grid of synchronised videos, and moving 3D Gaussians of it."]
    for title, names in (("Commands", COMMANDS), ("Groups of commands", GROUPS)):
        width = max(map(len, (*COMMANDS, *GROUPS)))
        lines += ["", f"{title}:", *(f"  {n.ljust(width)}  {help}" for n, help in names.items())]
    lines += ["", "Examples:"]
    for what, line in EXAMPLES:
        lines += [f"  # {what}", f"    {line}"]
    lines += ["", "`fourreal COMMAND --help` explains the options of a command. All of them take"]
    lines += ["--quiet (warnings and results only) and --verbose (settings and libraries, too)."]
    return "\n".join(lines)


def run_command(arguments: list[str], interrupts: Interrupts) -> None:
    """Read the arguments, check every option, do it, and say what to do next."""
    import logging

    if os.environ.get("NO_COLOR"):  # tyro does not know it, but this, when it is imported
        os.environ["PYTHON_TYRO_ANSI_CODES"] = "0"
    logging.basicConfig(format="%(message)s")
    name = arguments[0]
    check_name(name, COMMANDS | GROUPS)
    if name in GROUPS:
        check_name(arguments[1], module_of(name).COMMANDS, name)
    app, runs = gather(name)
    options, verbosity = app.cli(prog="fourreal", args=arguments)
    from fourreal.commands.next_steps import tell_next
    from fourreal.commands.option_rules import check_options
    from fourreal.commands.verbosity import set_verbosity

    set_verbosity(verbosity)
    check_options(options)
    logging.getLogger("fourreal.cli").debug("%s", options)
    interrupts.clean_up_first()
    start = time.monotonic()
    runs[type(options)](options)
    tell_next(options, time.monotonic() - start)


def main(arguments: list[str] | None = None) -> int:
    """Run a command: 0 when it worked, 2 for wrong input (one sentence), 1 for a defect of this
    project (a traceback), 130 when it was stopped by Ctrl-C, 143 by SIGTERM."""
    arguments, is_process = sys.argv[1:] if arguments is None else arguments, arguments is None
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0
    if len(arguments) == 1 and arguments[0] in GROUPS:
        arguments = [*arguments, "--help"]
    with Interrupts(STOPPED, last=is_process) as interrupts:
        try:
            run_command(arguments, interrupts)
        except SystemExit as stop:  # help was asked for, or tyro has said what is wrong
            return int(stop.code or 0)
        except (KeyboardInterrupt, Terminated) as stop:
            print(STOPPED, file=sys.stderr)
            return 143 if isinstance(stop, Terminated) else 130
        except Exception as error:
            return tell(error, interrupts)
        return 0


def tell(error: Exception, interrupts: Interrupts) -> int:
    """Print what went wrong and return the exit code."""
    if interrupts.code:  # a library took the signal's exception for an error of its own
        print(STOPPED, file=sys.stderr)
        return interrupts.code
    import traceback

    from fourreal.commands.failures import REPORT_TO, sentence_of
    from fourreal.commands.verbosity import is_verbose

    sentence = sentence_of(error)
    if sentence is None or is_verbose():
        traceback.print_exception(error)
    if sentence is not None:
        print(f"fourreal: {sentence}", file=sys.stderr)
        return 2
    print(
        "fourreal: this is a defect of 4Real, not of what you gave it; please report the lines "
        f"above at {REPORT_TO}.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
