"""What `fourreal generate` is asked for: its options, a job for each prompt, which are finished."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from fourreal import weights
from fourreal.commands.arc_options import ArcOptions
from fourreal.commands.pipelines import PipelineOptions, is_embedded
from fourreal.files.atomic import REPORT
from fourreal.files.json_files import as_json, read_json
from fourreal.files.text_files import read_text, text_lines
from fourreal.video.conditioning import STEPS_BOTH

# What is not given on the command line. Wan: the paper's size and steps, Wan's frame rate.
EMBEDDED_DEFAULTS = {"height": 64, "width": 64, "num_inference_steps": 20, "fps": 8.0}
WAN_SIZES = {"height": 288, "width": 512, "num_inference_steps": 40, "fps": 16.0}


@dataclass
class GenerateConfig(PipelineOptions, ArcOptions):
    """Generate a 4D scene from a prompt, or one for each line of a file.

    With the embedded models, a Wan model in diffusers' layout (--model), or three files as ComfyUI
    has them (--transformer, --vae, --text-encoder). With --arc and a VACE transformer, geometry
    carries the first view, which is given or made first, into the other views.
    """

    prompt: Annotated[str | None, tyro.conf.Positional] = None
    """What the scene shows and how it moves."""
    prompts: Path | None = None
    """A text file with a prompt in each line. Each gets a numbered folder in --out, the seed counts
    up, and what is finished is skipped. Under `accelerate launch` the processes share the work."""
    negative_prompt: str | None = None
    """What guidance leads away from."""
    out: Path = Path("out/generate")
    """Folder for the results; what an earlier run left there is replaced."""
    reconstructor: Path | None = None
    """A reconstructor file: VGGT-1B, AnySplat or one of this project's (default: embedded)."""
    fixed_view: Path | None = None
    """Video of the first view: its motion is kept."""
    freeze_time: Path | None = None
    """Video or folder of images of the first time, one per view: its viewpoints are kept."""
    image: Path | None = None
    """Image of the first time of the first view, instead of those two."""
    fit: bool = False
    """Resize and crop references to the grid's size, and take as many frames as it has."""
    num_views: Annotated[int, tyro.conf.arg(aliases=["--views"])] = 8
    """Views of the grid."""
    num_frames: Annotated[int, tyro.conf.arg(aliases=["--frames"])] = 29
    """Frames per view, 4k + 1; more than the model was made for are generated in windows."""
    window: int | None = None
    """Frames of a window, 4k + 1 (default: as many as the model was made for)."""
    window_overlap: int = 1
    """Frames, 4k + 1, that a window has in common with the one before. The embedded model was
    trained for 1 and 5; more keep motion smoother and take longer."""
    height: int | None = None
    """Default: 64 with the embedded models, 288 with Wan."""
    width: int | None = None
    """Default: 64 with the embedded models, 512 with Wan."""
    num_inference_steps: Annotated[int | None, tyro.conf.arg(aliases=["--steps"])] = None
    """Sampling steps (default: 10 with the embedded models, 4 where both references are given, and
    40 with Wan)."""
    guidance_scale: Annotated[float | None, tyro.conf.arg(aliases=["--guidance"])] = None
    """Text guidance; by default 1 with both references and the model's own otherwise."""
    staged: bool | None = None
    """Generate references that are missing before the rest: the freeze time, then the fixed view
    (default: where the model was trained for such small grids, as the embedded one)."""
    view_strength: float = 1.0
    """How much views attend to each other: 1 as trained, 0 gives independent views."""
    seed: int = 0
    fps: float | None = None
    """Default: 8 with the embedded models, 16 with Wan."""
    orbit_size: int = 256
    """Height of the orbit video in pixels."""
    device: str | None = None
    """Where all of it runs: cpu, cuda or cuda:N (default: CUDA where there is one)."""
    rounds: int = 1
    """With --arc: fill the views in so many rounds, each warped from those before, for arcs that
    are wider than about 45 degrees."""
    fill_scale: int = 1
    """Generate at 1 / N of the height and width, and enlarge; what the references show keeps its
    full size. The embedded models were made for 64 pixels."""
    column_clip: bool | None = None
    """With --arc: first fill the first time of all views as one clip, of a camera that moves
    through them (default: with Wan models, which know such clips)."""
    plan: bool = False
    """Only print how much memory each stage needs, computed without loading weights."""

    def embedded_transformer(self) -> Path | None:
        """A VACE for an arc."""
        return None if self.arc is None else weights.folder() / "vace.safetensors"


def list_jobs(config: GenerateConfig) -> list[GenerateConfig]:
    """One config for each prompt, defaults filled in. Raises ValueError when there is none."""
    if (config.prompt is None) == (config.prompts is None):
        raise ValueError("give one prompt, or a file of prompts with --prompts.")
    embedded = is_embedded(config)
    defaults: dict[str, Any] = EMBEDDED_DEFAULTS if embedded else WAN_SIZES
    if embedded and config.fixed_view and config.freeze_time:
        defaults = defaults | {"num_inference_steps": STEPS_BOTH}
    missing = {name: v for name, v in defaults.items() if getattr(config, name) is None}
    if config.column_clip is None:
        missing["column_clip"] = not embedded
    config = replace(config, **missing)
    if config.prompts is None:
        return [config]
    return [
        replace(
            config,
            prompt=prompt,
            prompts=None,
            seed=config.seed + i,
            out=config.out / f"{i + 1:04d}",
        )
        for i, prompt in enumerate(read_prompts(config.prompts))
    ]


def read_prompts(path: Path) -> list[str]:
    """The lines of a text file that are not blank. Raises ValueError when there are none."""
    prompts = [line.strip() for line in text_lines(read_text(path)) if line.strip()]
    if not prompts:
        raise ValueError(f"{path} holds no prompts; write one in each line.")
    return prompts


def is_carried(job: GenerateConfig) -> bool:
    """Whether sharp frames are carried into a grid that is made without an arc: given ones, or of
    the embedded models the first time of all views, which they draw before the rest."""
    given = bool(job.fixed_view or job.freeze_time)
    return given or (is_embedded(job) and job.staged is not False)


def is_finished(job: GenerateConfig) -> bool:
    """Whether the job's folder holds the results of exactly this job."""
    try:
        settings = read_json(job.out / REPORT).get("settings").items()
    except ValueError:
        return False
    # Not the folder and the device, which say where it was done, not what.
    asked = as_json(asdict(job))
    ignored = {"out": None, "device": None, "plan": None}
    noted = {name: entry.value for name, entry in settings.items()}
    return {**noted, **ignored} == {**asked, **ignored}
