"""The main job: a prompt (or the user's own videos) to a grid, Gaussians and videos on disk."""

import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from fourreal import __version__, weights
from fourreal.cameras import CameraPath, camera_path, scale_intrinsics
from fourreal.formats import save_ply_sequence, save_scene
from fourreal.gaussians import GaussianScene
from fourreal.grid import contact_sheet, tile_views
from fourreal.rendering import render_path
from fourreal.rendering.video import read_images, read_video, write_image, write_video

VIEWING_SIZE = 192  # tiles of the contact sheet and grid video are enlarged to about this


@dataclass
class GenerateConfig:
    """Generate a 4D scene from a prompt with the embedded models."""

    prompt: str
    """What the scene shows and how it moves."""
    out: Path = Path("out/generate")
    """Folder for the results; what an earlier run left there is replaced."""
    fixed_view: Path | None = None
    """Video of the first view: its motion is kept."""
    freeze_time: Path | None = None
    """Video or folder of images of the first time, one per view: its viewpoints are kept."""
    fit: bool = False
    """Resize and crop references to the grid's size, and take as many frames as it has."""
    views: int = 8
    frames: int = 29
    """Frames per view, 4k + 1."""
    height: int = 64
    width: int = 64
    steps: int = 20
    """Sampling steps."""
    guidance: float | None = None
    """Text guidance; by default 1 with both references and the model's own otherwise."""
    seed: int = 0
    fps: float = 8.0
    orbit_size: int = 256
    """Height of the orbit video in pixels."""


@dataclass
class ReconstructConfig:
    """Reconstruct a 4D scene from synchronised videos, one per view."""

    inputs: tuple[Path, ...]
    """Videos of still cameras, in order along their arc, or one folder that holds them."""
    out: Path = Path("out/reconstruct")
    weights: Path | None = None
    """A reconstructor file: VGGT-1B, AnySplat or one of this project's (default: embedded)."""
    max_frames: int | None = None
    """Use only so many frames of each video."""
    orbit_size: int = 256


@dataclass
class Report:
    """Seconds and peak memory of each stage, printed as they end."""

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
        start = time.perf_counter()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
        peak[0] = max(peak[0], process.memory_info().rss)
        self.stages[name] = {
            "seconds": round(time.perf_counter() - start, 2),
            "peak_memory_mb": round(peak[0] / 2**20),
        }


def _bar(name: str, total: int) -> tuple[tqdm, Callable[[int, int], None]]:
    bar = tqdm(total=total, desc=name)
    return bar, lambda done, _: bar.update(done - bar.n)


@contextmanager
def results_folder(out: Path):
    """A folder to write into; its entries replace those of `out` when all is done, and are
    removed when anything goes wrong."""
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder for the results.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise ValueError(
            f"cannot write to {out}: {error.strerror}; choose another folder with --out."
        ) from error
    try:
        if out.exists() and not os.access(out, os.W_OK):
            raise ValueError(f"cannot write to {out}: permission denied; choose another --out.")
        yield temporary
        out.mkdir(exist_ok=True)
        for entry in temporary.iterdir():
            target = out / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(entry, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def enlarge(frames: Tensor) -> Tensor:
    """Frames [..., 3, H, W] enlarged by a whole factor to about VIEWING_SIZE, for looking at."""
    factor = max(1, VIEWING_SIZE // min(frames.shape[-2:]))
    if factor == 1:
        return frames
    flat = frames.flatten(0, -4)
    large = F.interpolate(flat, scale_factor=factor, mode="bicubic", align_corners=False)
    return large.clamp(0, 1).unflatten(0, frames.shape[:-3])


def fit_frames(frames: Tensor, count: int, height: int, width: int) -> Tensor:
    """The first `count` frames, resized to cover height x width and cropped at the centre."""
    scale = max(height / frames.shape[-2], width / frames.shape[-1])
    size = [max(n, round(o * scale)) for n, o in zip((height, width), frames.shape[-2:])]
    frames = F.interpolate(frames[:count], size=size, mode="bilinear", antialias=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return frames[..., top : top + height, left : left + width]


def read_reference(path: Path, count: int, config: GenerateConfig, name: str) -> Tensor:
    """Frames [count, 3, H, W] of a video or a folder of images, of the grid's size.

    Raises ValueError naming the file when it has too few frames or another size (without fit).
    """
    frames = read_images(path) if path.is_dir() else read_video(path)[0]
    if config.fit and len(frames) >= count:
        frames = fit_frames(frames, count, config.height, config.width)
    if frames.shape != (count, 3, config.height, config.width):
        raise ValueError(
            f"the {name} reference {path} has {len(frames)} frames of {frames.shape[-2]} x "
            f"{frames.shape[-1]}, but this grid needs {count} of {config.height} x {config.width}; "
            + ("give a longer one." if config.fit else "give one of that size or add --fit.")
        )
    return frames


def scene_path(scene: GaussianScene, height: int, **options) -> CameraPath:
    """A path through the scene's cameras for images of `height` pixels, of even width.

    The options are camera_path's: kind, num_frames, freeze_at.
    """
    width = round(height * scene.width / scene.height / 2) * 2
    intrinsics = scale_intrinsics(scene.intrinsics, width / scene.width, height / scene.height)
    return camera_path(scene.extrinsics, intrinsics, width, height, scene.num_frames, **options)


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
    (folder / "report.json").write_text(
        json.dumps(
            {
                "stages": report.stages,
                "seconds": round(sum(s["seconds"] for s in report.stages.values()), 2),
                "gaussians": {
                    "static": len(scene.static),
                    "dynamic_per_time": [len(g) for g in scene.dynamic],
                },
                "settings": json.loads(json.dumps(settings, default=str)),
                "versions": {
                    "fourreal": __version__,
                    "python": platform.python_version(),
                    **{p: importlib.metadata.version(p) for p in packages},
                },
            },
            indent=1,
        )
    )


def reconstruct_grid(frames: Tensor, path: Path, fps: float, report: Report) -> GaussianScene:
    """Gaussians of grid frames [V, T, 3, H, W] with the reconstructor of a file."""
    from fourreal.reconstruction import Reconstructor

    with report.stage("reconstruct"):
        reconstructor = Reconstructor.from_file(path)
        bar, progress = _bar("reconstructing", frames.shape[1])
        with bar, torch.no_grad():
            return reconstructor(frames, fps=fps, progress=progress).scene


def generate(config: GenerateConfig) -> Path:
    """Run the whole job and return the results' folder. Raises ValueError for wrong input before
    any long work; a stopped or failed run leaves `out` as it was."""
    from fourreal.video.embedded import load_embedded_pipeline

    report = Report()
    with report.stage("load"):
        pipeline = load_embedded_pipeline()
    references = {
        name: read_reference(path, count, config, name) if path else None
        for name, path, count in (
            ("fixed_view", config.fixed_view, config.frames),
            ("freeze_time", config.freeze_time, config.views),
        )
    }
    pipeline.check_inputs(
        config.prompt, config.views, config.frames, config.height, config.width,
        references["fixed_view"], references["freeze_time"], config.steps,
    )  # fmt: skip
    with results_folder(config.out) as folder:
        with report.stage("video"):
            pipeline.set_progress_bar_config(desc="sampling")
            frames = pipeline(
                config.prompt,
                num_views=config.views,
                num_frames=config.frames,
                height=config.height,
                width=config.width,
                num_inference_steps=config.steps,
                guidance_scale=config.guidance,
                generator=torch.Generator().manual_seed(config.seed),
                **references,
            ).frames
        scene = reconstruct_grid(
            frames, weights.folder() / "reconstructor.safetensors", config.fps, report
        )
        scene.metadata["prompt"] = config.prompt
        write_results(folder, frames, scene, config.fps, config.orbit_size, report)
        write_report(folder, report, scene, vars(config))
    return config.out


def reconstruct(config: ReconstructConfig) -> Path:
    """The second half of the job on the user's own synchronised videos."""
    paths = list(config.inputs)
    if len(paths) == 1 and paths[0].is_dir():
        suffixes = (".mp4", ".mov", ".mkv", ".webm", ".avi")
        paths = sorted(p for p in paths[0].iterdir() if p.suffix.lower() in suffixes)
        if not paths:
            raise ValueError(f"{config.inputs[0]} holds no videos ({', '.join(suffixes)}).")
    videos, rates = zip(*(read_video(p, config.max_frames) for p in paths))
    for path, video in zip(paths, videos):
        if video.shape != videos[0].shape:
            raise ValueError(
                f"{path} has {len(video)} frames of {video.shape[-2]} x {video.shape[-1]}, but "
                f"{paths[0]} has {len(videos[0])} of {videos[0].shape[-2]} x "
                f"{videos[0].shape[-1]}; the views must be of equal length and size."
            )
    frames, report = torch.stack(videos), Report()
    with results_folder(config.out) as folder:
        file = config.weights or weights.folder() / "reconstructor.safetensors"
        scene = reconstruct_grid(frames, file, rates[0], report)
        write_results(folder, frames, scene, rates[0], config.orbit_size, report)
        write_report(folder, report, scene, vars(config))
    return config.out
