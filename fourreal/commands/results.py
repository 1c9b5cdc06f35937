"""What a finished job leaves in its folder: videos, a contact sheet, Gaussians, and the report."""

import importlib.metadata
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from fourreal import __version__
from fourreal.files.atomic import REPORT
from fourreal.files.json_files import as_json, write_json
from fourreal.files.media import write_image, write_video
from fourreal.formats import save_ply_sequence, save_scene
from fourreal.gaussians import GaussianScene
from fourreal.grid import contact_sheet, tile_views
from fourreal.profiling import StageProfiler
from fourreal.rendering import render_path, scene_path

VIEWING_SIZE = 192  # tiles of the contact sheet and grid video are enlarged to about this
PACKAGES = ("torch", "diffusers", "transformers", "av", "numpy", "safetensors")


@contextmanager
def progress_bar(name: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """progress(done, total) for the library's long work, shown as a bar."""
    with tqdm(total=total, desc=name) as bar:

        def progress(done: int, _: int) -> None:
            bar.update(done - bar.n)

        yield progress


def enlarge(frames: Tensor) -> Tensor:
    """Frames [..., 3, H, W] enlarged by a whole factor to about VIEWING_SIZE, for looking at."""
    factor = max(1, VIEWING_SIZE // min(frames.shape[-2:]))
    if factor == 1:
        return frames
    flat = frames.flatten(0, -4)
    large = F.interpolate(flat, scale_factor=factor, mode="bicubic", align_corners=False)
    return large.clamp(0, 1).unflatten(0, frames.shape[:-3])


def write_results(
    folder: Path, frames: Tensor, scene: GaussianScene, orbit_size: int, profiler: StageProfiler
) -> None:
    """Write everything but the report: grid, fixed view and freeze time as videos, a contact sheet,
    an orbit of orbit_size pixels height, the PLY sequence and the scene file.

    frames [V, T, 3, H, W] in [0, 1]. The orbit is rendered on the profiler's device.
    """
    count = max(scene.num_frames, 2 * round(scene.fps))
    path = scene_path(scene, orbit_size, num_frames=count)
    with profiler.stage("render"):
        with progress_bar("rendering", count) as progress:
            color, _, _ = render_path(scene.to(profiler.device), path, progress=progress)
        write_video(folder / "orbit.mp4", color.movedim(-1, 1), scene.fps)
    with profiler.stage("write"):
        frames, scene = frames.cpu(), scene.to("cpu")
        write_video(folder / "grid.mp4", enlarge(tile_views(frames)), scene.fps)
        write_video(folder / "fixed_view.mp4", frames[0], scene.fps)
        write_video(folder / "freeze_time.mp4", frames[:, 0], scene.fps)
        write_image(folder / "contact_sheet.png", contact_sheet(enlarge(frames)))
        save_ply_sequence(scene, folder / "scene")
        save_scene(scene, folder / "scene.safetensors")


def write_report(
    folder: Path, profiler: StageProfiler, scene: GaussianScene, settings: dict[str, Any]
) -> None:
    """Write report.json: stages, Gaussians, settings, versions."""
    stages = profiler.stages
    report = {
        "stages": stages,
        "seconds": round(sum(figures["seconds"] for figures in stages.values()), 2),
        "gaussians": {
            "static": len(scene.static),
            "dynamic_per_time": [len(gaussians) for gaussians in scene.dynamic],
        },
        "settings": as_json(settings),
        "versions": {
            "fourreal": __version__,
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in PACKAGES},
        },
    }
    write_json(folder / REPORT, report)
