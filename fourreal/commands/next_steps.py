"""The last line of a run: how long it took, and what to do with what it made."""

import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fourreal.files.atomic import REPORT
from fourreal.files.json_files import read_json

logger = logging.getLogger(__name__)
Part = str | Path
SHOWS_INPUTS = "shows_its_inputs"  # in reports: whether the scene shows what it was made of


def program() -> str:
    """What calls `fourreal` from here: its name, or its path where the shell does not find it."""
    path = Path(sys.executable).with_name("fourreal.exe" if os.name == "nt" else "fourreal")
    if shutil.which("fourreal") or not path.exists():
        return "fourreal"
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def command_line(*parts: Part) -> str:
    """A command line of `fourreal`, to be copied."""
    join = subprocess.list2cmdline if os.name == "nt" else shlex.join
    return join([program(), *map(str, parts)])


def view_scene_of(folder: Path) -> str:
    """Look at the scene of a folder of results."""
    return command_line("view", folder / "scene.safetensors")


def after_generate(config: Any) -> str | None:
    if config.plan:
        return None
    return view_scene_of(config.out / "0001" if config.prompts else config.out)


def after_reconstruct(config: Any) -> str | None:
    return None if config.plan else view_scene_of(config.out)


def after_track(config: Any) -> str:
    return f"open {config.out / 'tracks.mp4'}; the numbers are in tracks.npz"


def after_render(config: Any) -> str:
    return f"open {config.out}"


def after_convert(config: Any) -> str:
    page = config.out.suffix.lower() == ".html"
    return f"open {config.out} in a browser" if page else command_line("view", config.out)


def after_view(config: Any) -> str | None:
    return f"open {config.html} in a browser" if config.html else None


def after_autoencoder(config: Any) -> str:
    return command_line(
        "train", "video", "--autoencoder", config.loop.out / "autoencoder.safetensors"
    )


def after_video(config: Any) -> str:
    """Generate with what was trained, and with the models that it was trained with."""
    made, start = config.loop.out, config.start_from
    if config.check_data:
        return f"open {made / 'data.png'}; without --check-data it is trained on"
    lora = config.tune == "lora"
    if lora and start and (start / "model_index.json").is_file():
        return command_line(
            "generate", "PROMPT", "--model", start, "--lora", made / "lora.safetensors"
        )
    files: dict[str, Part | None] = {"transformer": start, "vae": config.autoencoder}
    files["text-encoder"] = config.text_encoder
    if start and start.is_dir():  # of embedded models
        files["transformer"] = start / "transformer.safetensors"
        files["vae"] = config.autoencoder or start / "autoencoder.safetensors"
        files["text-encoder"] = start / "text_encoder.safetensors"
    if not lora:
        kind = "vace" if config.vace else "transformer"
        files["transformer"] = made / f"{kind}.safetensors"
        if (made / "text_encoder.safetensors").exists():
            files["text-encoder"] = made / "text_encoder.safetensors"
    options = [p for name, file in files.items() for p in (f"--{name}", file or name.upper())]
    return command_line(
        "generate", "PROMPT", *options, *(["--lora", made / "lora.safetensors"] * lora)
    )


def after_reconstructor(config: Any) -> str:
    file = config.loop.out / "reconstructor.safetensors"
    return command_line("reconstruct", "VIDEOS", "--reconstructor", file)


# By the class of a command's options. What only prints has nothing that comes next.
NEXT: dict[str, Callable[[Any], str | None]] = {
    "GenerateConfig": after_generate,
    "ReconstructConfig": after_reconstruct,
    "WarpConfig": lambda config: view_scene_of(config.out),
    "TrackConfig": after_track,
    "RenderConfig": after_render,
    "ConvertConfig": after_convert,
    "ViewConfig": after_view,
    "AutoencoderConfig": after_autoencoder,
    "VideoConfig": after_video,
    "ReconstructorConfig": after_reconstructor,
}


def after_scores(config: Any) -> str | None:
    """Where the scores of an evaluation, an ablation or a benchmark are, or how to keep them."""
    if not hasattr(config, "out"):
        return None
    if config.out is None:
        return "the same with --out scores.json keeps these numbers"
    table = config.out.with_suffix(".md")
    return f"open {table}; more is in {config.out}" if table.exists() else f"open {config.out}"


def shortcoming(config: Any) -> str:
    """A clause about a reconstruction that is none, as its report has it, or nothing."""
    if type(config).__name__ not in ("GenerateConfig", "ReconstructConfig"):
        return ""
    try:
        shown = read_json(config.out / REPORT).get(SHOWS_INPUTS).value
    except ValueError:  # a list of prompts has a report for each
        return ""
    return "" if shown else ", but that is no reconstruction (see the warning above)"


def duration(seconds: float) -> str:
    """duration(3.21) = "3.2 s", duration(71.4) = "1 min 11 s", duration(7325) = "2 h 2 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def tell_next(config: Any, seconds: float) -> None:
    """Say after a run of so many seconds what to do next, if anything; of processes that share the
    work the first one says it."""
    step = NEXT.get(type(config).__name__, after_scores)(config)
    if step and int(os.environ.get("RANK", 0)) == 0:
        sys.stdout.flush()  # what the command printed comes first
        logger.info("Done in %s%s. Next: %s", duration(seconds), shortcoming(config), step)
