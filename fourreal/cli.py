"""The command line: the names of the commands, each of which is a file of fourreal/commands."""

import importlib
import logging
import sys
from collections.abc import Callable
from typing import Any

from tyro.extras import SubcommandApp

# Modules of fourreal.commands; only the one that is asked for is imported. They hold COMMAND, the
# options and the function that takes them, or COMMANDS, those of each command of a group.
COMMANDS = {
    "generate": "Generate a 4D scene from a prompt, or one for each line of a file.",
    "reconstruct": "Reconstruct a 4D scene from synchronised videos, one per view.",
    "render": "Render a scene file along a camera path to a video or images.",
    "view": "Explore a scene file in the browser.",
    "info": "Print versions, devices, and the attention and rasterizer that would be used.",
}
GROUPS = {
    "train": "Train the autoencoder, the video model or the reconstructor.",
    "evaluate": "Score models on scenes or clips that they were not trained on.",
    "ablate": "Compare variants of the method.",
    "benchmark": "Measure time and memory on this device.",
}
Runs = dict[type, Callable[[Any], object]]  # what is done with the options of each class


def gather(asked: str | None) -> tuple[SubcommandApp, Runs]:
    """All commands by name; only the one or the group that is asked for gets its options."""
    app, runs = SubcommandApp(), Runs()
    for name, summary in (COMMANDS | GROUPS).items():
        if name != asked:
            app.command(name=name, help=summary)(lambda: None)
            continue
        module = importlib.import_module(f"fourreal.commands.{name}")
        if name in COMMANDS:
            options, run = module.COMMAND
            app.command(name=name)(options)
            runs[options] = run
            continue
        group = SubcommandApp()
        for inner, (options, run) in module.COMMANDS.items():
            group.command(name=inner)(options)
            runs[options] = run
        app.command(group, name=name, help=summary)
    return app, runs


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 when it worked, 2 for wrong input (one sentence), 130 when stopped."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or (len(arguments) == 1 and arguments[0] in GROUPS):
        arguments = [*arguments, "--help"]
    logging.basicConfig(format="%(message)s")
    logging.getLogger("fourreal").setLevel(logging.INFO)
    try:
        app, runs = gather(arguments[0])
        options = app.cli(prog="fourreal", description="Text to explorable 4D.", args=arguments)
        runs[type(options)](options)
    except SystemExit as stop:  # help was asked for, or tyro has said what is wrong
        return int(stop.code or 0)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"fourreal: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fourreal: stopped; nothing was left half-written.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
