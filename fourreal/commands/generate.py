"""The main job: a prompt (or the user's own videos) to a grid, Gaussians and videos on disk."""

import importlib.metadata
import json
import logging
import platform
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import psutil
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor
from tqdm import tqdm

from fourreal import __version__, weights
from fourreal.files.atomic import REPORT, results_folder
from fourreal.files.media import (
    read_image,
    read_images,
    read_synchronised,
    read_video,
    view_files,
    write_image,
    write_video,
)
from fourreal.formats import save_ply_sequence, save_scene
from fourreal.gaussians import GaussianScene
from fourreal.grid import contact_sheet, tile_views
from fourreal.rendering import render_path, scene_path

logger = logging.getLogger(__name__)

VIEWING_SIZE = 192  # tiles of the contact sheet and grid video are enlarged to about this
# What is not given on the command line. Wan: the paper's size and steps, Wan's frame rate.
EMBEDDED_DEFAULTS = {"height": 64, "width": 64, "steps": 10, "fps": 8.0}
EMBEDDED_STEPS_BOTH = 4  # more score less: both references leave little to decide
WAN_DEFAULTS = {"height": 288, "width": 512, "steps": 40, "fps": 16.0}
PARTS = ("transformer", "vae", "text_encoder")


@dataclass
class GenerateConfig:
    """Generate a 4D scene from a prompt, or one for each line of a file.

    With the embedded models, a Wan model in diffusers' layout (--model), or three files as ComfyUI
    has them (--transformer, --vae, --text-encoder).
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
    model: Path | None = None
    """Folder of Wan 2.1 T2V or Wan 2.2 TI2V in diffusers' layout, or of a saved pipeline."""
    transformer: Path | None = None
    """Single file of Wan 2.1 T2V 1.3B or 14B or Wan 2.2 TI2V 5B (fp16, bf16 or fp8_scaled)."""
    vae: Path | None = None
    """Single file of the Wan 2.1 or 2.2 VAE."""
    text_encoder: Path | None = None
    """Single file of UMT5-XXL."""
    tokenizer: Path | None = None
    """spiece.model or tokenizer folder, where the text encoder's file holds none."""
    lora: Path | None = None
    """LoRA for the transformer, in the key form of diffusers, ComfyUI or musubi-tuner."""
    reconstructor: Path | None = None
    """A reconstructor file: VGGT-1B, AnySplat or one of this project's (default: embedded)."""
    offload: Literal["none", "model", "group"] = "none"
    """Keep the weights in main memory but for the part (model) or block (group) at work."""
    vae_tiling: bool = False
    """Encode and decode in tiles, for large frames in little memory."""
    fixed_view: Path | None = None
    """Video of the first view: its motion is kept."""
    freeze_time: Path | None = None
    """Video or folder of images of the first time, one per view: its viewpoints are kept."""
    image: Path | None = None
    """Image of the first time of the first view, instead of those two."""
    fit: bool = False
    """Resize and crop references to the grid's size, and take as many frames as it has."""
    views: int = 8
    frames: int = 29
    """Frames per view, 4k + 1; more than the model was made for are generated in windows."""
    window: int | None = None
    """Frames of a window, 4k + 1 (default: as many as the model was made for)."""
    height: int | None = None
    """Default: 64 with the embedded models, 288 with Wan."""
    width: int | None = None
    """Default: 64 with the embedded models, 512 with Wan."""
    steps: int | None = None
    """Sampling steps (default: 10 with the embedded models, 4 where both references are given, and
    40 with Wan)."""
    guidance: float | None = None
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


@dataclass
class ReconstructConfig:
    """Reconstruct a 4D scene from synchronised videos, one per view."""

    inputs: tuple[Path, ...]
    """Videos (or photos) of still cameras, in order along their arc, or one folder that holds them,
    in the natural order of their names."""
    out: Path = Path("out/reconstruct")
    weights: Path | None = None
    """A reconstructor file: VGGT-1B, AnySplat or one of this project's (default: embedded)."""
    max_frames: int | None = None
    """Use only so many frames of each video."""
    offsets: tuple[float, ...] | None = None
    """Per view, the seconds of its video at which the common beginning is, for cameras that started
    at different moments; all are cut to the shortest."""
    fps: float | None = None
    """Frames per second to resample the videos to (default: their own, which must be one)."""
    trim: bool = False
    """Cut all videos to the shortest."""
    refine: int = 0
    """Steps of optimising the Gaussians on the videos' own frames; 200 sharpen, and take longer."""
    orbit_size: int = 256


@dataclass
class Report:
    """Seconds and peak memory of each stage, logged as they end."""

    stages: dict[str, dict[str, float]] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str):
        """Time a stage and watch the process's resident memory ten times a second."""
        process, peak, ended = psutil.Process(), [0], threading.Event()

        def watch():
            while not ended.wait(0.1):
                peak[0] = max(peak[0], process.memory_info().rss)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
        peak[0] = max(peak[0], process.memory_info().rss)
        figures = {
            "seconds": round(time.perf_counter() - start, 2),
            "peak_memory_mb": round(peak[0] / 2**20),
        }
        if torch.cuda.is_available():
            figures["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
        self.stages[name] = figures
        logger.info("%s: %s", name, ", ".join(f"{v} {k}" for k, v in figures.items()))


def _bar(name: str, total: int) -> tuple[tqdm, Callable[[int, int], None]]:
    bar = tqdm(total=total, desc=name)
    return bar, lambda done, _: bar.update(done - bar.n)


def enlarge(frames: Tensor) -> Tensor:
    """Frames [..., 3, H, W] enlarged by a whole factor to about VIEWING_SIZE, for looking at."""
    factor = max(1, VIEWING_SIZE // min(frames.shape[-2:]))
    if factor == 1:
        return frames
    flat = frames.flatten(0, -4)
    large = F.interpolate(flat, scale_factor=factor, mode="bicubic", align_corners=False)
    return large.clamp(0, 1).unflatten(0, frames.shape[:-3])


def read_reference(path: Path, count: int, config: GenerateConfig, name: str) -> Tensor:
    """Frames [count, 3, H, W] of a video, a folder of images or (name image) an image, of the
    grid's size.

    Raises ValueError naming the file when it has too few frames or another size (without fit).
    """
    assert config.height is not None and config.width is not None  # list_jobs fills them in
    fit = (config.height, config.width) if config.fit else None
    wanted = count if config.fit else count + 1  # one more shows that there are too many
    if name == "image":
        frames = read_image(path, fit)[None]
    elif path.is_dir():
        frames = read_images(path, wanted, fit=fit)
    else:
        frames = read_video(path, wanted, fit=fit)[0]
    if frames.shape != (count, 3, config.height, config.width):
        found = f"more than {count}" if len(frames) > count else f"{len(frames)}"
        raise ValueError(
            f"the {name} reference {path} has {found} frames of {frames.shape[-2]} x "
            f"{frames.shape[-1]}, but this grid needs {count} of {config.height} x {config.width}; "
            + ("give a longer one." if config.fit else "give one of that size or add --fit.")
        )
    return frames


def write_results(
    folder: Path, frames: Tensor, scene: GaussianScene, fps: float, size: int, report
):
    """Everything but the report: videos, contact sheet, orbit, PLY sequence, scene file."""
    with report.stage("render"):
        count = max(scene.num_frames, 2 * round(fps))
        path = scene_path(scene, size, num_frames=count)
        bar, progress = _bar("rendering", count)
        with bar:
            color, _, _ = render_path(scene, path, progress=progress)
        write_video(folder / "orbit.mp4", color.movedim(-1, 1), fps)
    with report.stage("write"):
        write_video(folder / "grid.mp4", enlarge(tile_views(frames)), fps)
        write_video(folder / "fixed_view.mp4", frames[0], fps)
        write_video(folder / "freeze_time.mp4", frames[:, 0], fps)
        write_image(folder / "contact_sheet.png", contact_sheet(enlarge(frames)))
        save_ply_sequence(scene, folder / "scene")
        save_scene(scene, folder / "scene.safetensors")


def write_report(folder: Path, report: Report, scene: GaussianScene, settings: dict) -> None:
    """report.json: stages, Gaussians, settings, versions."""
    packages = ("torch", "diffusers", "transformers", "av", "numpy", "safetensors")
    (folder / REPORT).write_text(
        json.dumps(
            {
                "stages": report.stages,
                "seconds": round(sum(s["seconds"] for s in report.stages.values()), 2),
                "gaussians": {
                    "static": len(scene.static),
                    "dynamic_per_time": [len(g) for g in scene.dynamic],
                },
                "settings": as_json(settings),
                "versions": {
                    "fourreal": __version__,
                    "python": platform.python_version(),
                    **{p: importlib.metadata.version(p) for p in packages},
                },
            },
            indent=1,
        )
    )


def as_json(settings: dict) -> dict:
    """Settings as they read in a report."""
    return json.loads(json.dumps(settings, default=str))


def reconstruct_grid(
    frames: Tensor, path: Path, fps: float, report: Report, refine: int = 0
) -> GaussianScene:
    """Gaussians of grid frames [V, T, 3, H, W] with the reconstructor of a file, after `refine`
    steps of refinement."""
    from fourreal.reconstruction import Reconstructor

    with report.stage("reconstruct"):
        reconstructor = Reconstructor.from_file(path)
        bar, progress = _bar("reconstructing", frames.shape[1] + refine)
        with bar, torch.no_grad():
            return reconstructor(frames, fps=fps, refine=refine, progress=progress).scene


def load_pipeline(config: GenerateConfig, device: torch.device):
    """The ViewTimePipeline that the config asks for, on the device or offloaded from it.

    bfloat16 on CUDA, float32 elsewhere. Raises ValueError when the files do not fit together.
    """
    from fourreal.video import ViewTimePipeline, load_embedded_pipeline

    parts = {name: getattr(config, name) for name in PARTS}
    given = [name for name, path in parts.items() if path]
    if config.offload != "none" and device.type != "cuda":
        raise ValueError(f"--offload {config.offload} is for CUDA devices, and there is none here.")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if config.model:
        if given:
            raise ValueError(f"give either --model or single files, not both (--{given[0]}).")
        if not (config.model / "model_index.json").is_file():
            raise ValueError(
                f"{config.model} has no model_index.json; give the folder of a Wan model in "
                "diffusers' layout, or its single files with --transformer, --vae and "
                "--text-encoder."
            )
        index = json.loads((config.model / "model_index.json").read_text())
        if index.get("transformer_2", [None])[0]:
            raise ValueError(
                f"{config.model} has two transformers (Wan 2.2 A14B), but only models of one work "
                "here: Wan 2.1 T2V 1.3B or 14B, or Wan 2.2 TI2V 5B."
            )
        pipeline = ViewTimePipeline.from_pretrained(
            config.model, torch_dtype=dtype, local_files_only=True
        )
    elif len(given) == len(PARTS):
        pipeline = ViewTimePipeline.from_single_files(
            **parts, tokenizer=config.tokenizer, torch_dtype=dtype
        )
    elif given:
        raise ValueError(
            f"--transformer, --vae and --text-encoder are needed together, but only "
            f"{', '.join(given)} was given."
        )
    else:
        pipeline = load_embedded_pipeline()
    if config.lora:
        pipeline.load_lora_weights(config.lora)
    if config.vae_tiling:
        pipeline.enable_vae_tiling()
    if config.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif config.offload == "group":
        pipeline.enable_group_offload(device, num_blocks_per_group=1)
    else:
        pipeline.to(device)
    pipeline.set_progress_bar_config(desc="sampling")
    return pipeline


def list_jobs(config: GenerateConfig) -> list[GenerateConfig]:
    """One config for each prompt, defaults filled in. Raises ValueError when there is none."""
    if (config.prompt is None) == (config.prompts is None):
        raise ValueError("give one prompt, or a file of prompts with --prompts.")
    embedded = not (config.model or any(getattr(config, name) for name in PARTS))
    defaults = EMBEDDED_DEFAULTS if embedded else WAN_DEFAULTS
    if embedded and config.fixed_view and config.freeze_time:
        defaults = defaults | {"steps": EMBEDDED_STEPS_BOTH}
    missing = {name: v for name, v in defaults.items() if getattr(config, name) is None}
    config = replace(config, **missing)
    if config.prompts is None:
        return [config]
    try:
        lines = config.prompts.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{config.prompts} cannot be read as text ({error}).") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"{config.prompts} holds no prompts; write one in each line.")
    return [
        replace(
            config,
            prompt=prompt,
            prompts=None,
            seed=config.seed + i,
            out=config.out / f"{i + 1:04d}",
        )
        for i, prompt in enumerate(prompts)
    ]


def is_finished(job: GenerateConfig) -> bool:
    """Whether the job's folder holds the results of exactly this job."""
    try:
        settings = json.loads((job.out / REPORT).read_text())["settings"]
    except (OSError, ValueError, KeyError):
        return False
    return settings == as_json(vars(job)) | {"out": settings.get("out")}


def generate(config: GenerateConfig) -> Path:
    """Run the whole job and return the results' folder. Raises ValueError for wrong input before
    any long work; a stopped or failed run leaves `out`, or of a list the folder it was working on,
    as it was."""
    from accelerate import PartialState

    jobs, state = list_jobs(config), PartialState()
    if config.prompts:
        waiting = [job for job in jobs if not is_finished(job)]
        logger.info("%d of %d prompts are finished.", len(jobs) - len(waiting), len(jobs))
        jobs = waiting
    state.wait_for_everyone()  # all see the same list before anyone finishes a part of it
    with state.split_between_processes(jobs) as share:
        jobs = list(share)
    if not jobs:
        return config.out
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", state.local_process_index) if cuda else torch.device("cpu")
    loading = Report()
    with loading.stage("load"):
        pipeline = load_pipeline(config, device)
    first = jobs[0]
    references = {
        name: read_reference(path, count, first, name) if path else None
        for name, path, count in (
            ("fixed_view", first.fixed_view, first.frames),
            ("freeze_time", first.freeze_time, first.views),
            ("image", first.image, 1),
        )
    }
    if references["image"] is not None:
        references["image"] = references["image"][0]
    options = {
        "num_views": first.views,
        "num_frames": first.frames,
        "height": first.height,
        "width": first.width,
        "view_strength": first.view_strength,
        "window_frames": first.window,
        **references,
    }
    for job in jobs:
        _generate_one(job, pipeline, options, Report(dict(loading.stages)))
    return config.out


def _generate_one(config: GenerateConfig, pipeline, options: dict, report: Report) -> None:
    """Sample with options (of the pipeline's call), reconstruct, render, and write config.out."""
    with results_folder(config.out) as folder:
        with report.stage("video"):
            answer = pipeline(
                config.prompt,
                negative_prompt=config.negative_prompt,
                num_inference_steps=config.steps,
                guidance_scale=config.guidance,
                staged=config.staged,
                generator=torch.Generator().manual_seed(config.seed),
                **options,
            )
        video = report.stages["video"]
        video["seconds_per_step"] = round(video["seconds"] / pipeline.num_timesteps, 4)
        file = config.reconstructor or weights.folder() / "reconstructor.safetensors"
        scene = reconstruct_grid(answer.frames, file, config.fps, report)
        scene.metadata["prompt"] = config.prompt
        write_results(folder, answer.frames, scene, config.fps, config.orbit_size, report)
        write_report(folder, report, scene, vars(config))


def reconstruct(config: ReconstructConfig) -> Path:
    """The second half of the job on the user's own synchronised videos."""
    frames, rate = read_synchronised(
        view_files(config.inputs),
        offsets=config.offsets,
        max_frames=config.max_frames,
        fps=config.fps,
        trim=config.trim,
    )
    report = Report()
    with results_folder(config.out) as folder:
        file = config.weights or weights.folder() / "reconstructor.safetensors"
        scene = reconstruct_grid(frames, file, rate, report, config.refine)
        write_results(folder, frames, scene, rate, config.orbit_size, report)
        write_report(folder, report, scene, vars(config))
    return config.out
