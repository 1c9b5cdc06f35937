"""What a finished job leaves in its folder: videos, a contact sheet, Gaussians, and the report."""

import importlib.metadata
import logging
import platform
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal import __version__
from fourreal.bars import bar
from fourreal.commands.next_steps import SHOWS_INPUTS
from fourreal.files.atomic import REPORT
from fourreal.files.json_files import as_json, write_json
from fourreal.files.media import write_image, write_video
from fourreal.files.temporary import folder_beside
from fourreal.formats import save_ply_sequence, save_scene
from fourreal.gaussians import GaussianScene
from fourreal.grid import contact_sheet, tile_views
from fourreal.profiling import StageProfiler
from fourreal.reconstruction.fidelity import EMBEDDED, input_fidelity
from fourreal.rendering import render_path, scene_path

logger = logging.getLogger(__name__)

WRITING = ("render", "write")  # the stages of write_results
VIEWS = "views"  # the folder of a finished grid whose scene is not finished
VIEWING_SIZE = 192  # tiles of the contact sheet and grid video are enlarged to about this
PACKAGES = ("torch", "diffusers", "transformers", "av", "numpy", "safetensors")


@contextmanager
def progress_bar(name: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """progress(done, total) for the library's long work, shown as a bar."""
    with bar(name=name, total=total) as shown:

        def progress(done: int, of: int) -> None:
            shown.total = of
            shown.update(done - shown.n)

        yield progress


def enlarge(frames: Tensor) -> Tensor:
    """Frames [..., 3, H, W] enlarged by a whole factor to about VIEWING_SIZE, for looking at."""
    factor = max(1, VIEWING_SIZE // min(frames.shape[-2:]))
    if factor == 1:
        return frames
    flat = frames.flatten(0, -4)
    large = F.interpolate(flat, scale_factor=factor, mode="bicubic", align_corners=False)
    return large.clamp(0, 1).unflatten(0, frames.shape[:-3])


@contextmanager
def kept_grid(out: Path, options: list[str]) -> Iterator[Callable[[Tensor, float], None]]:
    """A context for the whole of a job, with keep(frames, fps) to call with its finished grid
    [V, T, 3, H, W]: `out`/views then holds a video of each view, from which `fourreal reconstruct`
    can go on, with these options.

    They stay when something fails, with a sentence that says so, and when the process is killed.
    They go when the job is done or stopped by the user.
    """
    folder, kept = out / VIEWS, False

    def keep(frames: Tensor, fps: float) -> None:
        nonlocal kept
        with folder_beside(folder) as temporary:
            for view, video in enumerate(frames.cpu()):
                write_video(temporary / f"view_{view + 1:02d}.mp4", video, fps)
            shutil.rmtree(folder, ignore_errors=True)  # of a run, or a stage, before
            temporary.rename(folder)
            kept = True

    try:
        yield keep
    except Exception:
        if kept:
            go_on = ["fourreal", "reconstruct", str(folder), "--out", str(out), *options]
            logger.error("The finished frames are in %s; go on with: %s", folder, shlex.join(go_on))
        raise
    except BaseException:
        if kept:
            remove_grid(out)
        raise
    remove_grid(out)


def remove_grid(out: Path) -> None:
    """Remove what kept_grid kept, and `out` when nothing else is in it."""
    shutil.rmtree(out / VIEWS, ignore_errors=True)
    with suppress(OSError):
        out.rmdir()


def write_results(
    folder: Path, frames: Tensor, scene: GaussianScene, orbit_size: int, profiler: StageProfiler
) -> dict[str, float | bool]:
    """Write everything but the report: grid, fixed view and freeze time as videos, a contact sheet,
    an orbit of orbit_size pixels height, the PLY sequence and the scene file.

    frames [V, T, 3, H, W] in [0, 1]. The orbit is rendered on the profiler's device. Returns
    figures for the report: PSNR at the frames, of the scene and of flat colours, and whether the
    scene shows them well enough, which is told too.
    """
    count = max(scene.num_frames, 2 * round(scene.fps))
    path = scene_path(scene, orbit_size, num_frames=count)
    with profiler.stage("render"):
        figures = tell_fidelity(frames, scene, profiler.device)
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
    return figures


def tell_fidelity(
    frames: Tensor, scene: GaussianScene, device: torch.device
) -> dict[str, float | bool]:
    """Tell how well the scene shows the frames [V, T, 3, H, W] that it was made of, with a warning
    where it does not; returns figures for the report."""
    fidelity = input_fidelity(scene, frames, device)
    warning = fidelity.warning(scene.metadata.get("reconstructor", EMBEDDED))
    logger.log(logging.WARNING if warning else logging.INFO, "%s", warning or fidelity.report())
    return {
        "psnr_at_inputs": round(fidelity.psnr, 2),
        "psnr_of_flat_colours": round(fidelity.flat, 2),
        SHOWS_INPUTS: warning is None,
    }


def write_report(
    folder: Path,
    profiler: StageProfiler,
    scene: GaussianScene,
    settings: dict[str, Any],
    **figures: Any,
) -> None:
    """Write report.json: stages, Gaussians, other figures, settings, versions."""
    stages = profiler.stages
    report = {
        "stages": stages,
        "seconds": round(sum(figures["seconds"] for figures in stages.values()), 2),
        "gaussians": {
            "static": len(scene.static),
            "dynamic_per_time": [len(gaussians) for gaussians in scene.dynamic],
        },
        **figures,
        "settings": as_json(settings),
        "versions": {
            "fourreal": __version__,
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in PACKAGES},
        },
    }
    write_json(folder / REPORT, report)
