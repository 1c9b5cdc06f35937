"""`fourreal reconstruct`: synchronised videos of still cameras to a 4D scene."""

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor

from fourreal import weights
from fourreal.cameras import scale_intrinsics
from fourreal.commands.late_views import tell_late_views
from fourreal.commands.results import WRITING, progress_bar, write_report, write_results
from fourreal.devices import choose_device, is_small, matrix_dtype
from fourreal.files.atomic import results_folder
from fourreal.files.media import read_synchronised, view_files
from fourreal.formats import load_scene
from fourreal.gaussians import GaussianScene
from fourreal.profiling import StageProfiler
from fourreal.reconstruction import Filters, Reconstructor, StaticSplit
from fourreal.reconstruction.options import CameraMode

logger = logging.getLogger(__name__)

SEEN = 518  # pixels of the longer side that VGGT sees, the largest of the known models

# Options of the command that are options of the reconstructor's call, under the same names.
OPTIONS = (
    *("shared_intrinsics", "resolution", "window", "align", "adjust", "detail", "filters"),
    *("sh_degree", "refine"),
)


@dataclass
class ReconstructConfig:
    """Reconstruct a 4D scene from synchronised videos, one per view."""

    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Videos of still cameras, in order along their arc, or one folder that holds them."""
    out: Path = Path("out/reconstruct")
    """Folder for the results; what an earlier run left there is replaced."""
    reconstructor: Annotated[Path | None, tyro.conf.arg(aliases=["--weights"])] = None
    """A reconstructor file: VGGT-1B, AnySplat or one of this project's (default: embedded)."""
    max_frames: int | None = None
    """Use only so many frames of each video."""
    offsets: tuple[float, ...] | None = None
    """Per view, the seconds of its video at which the common beginning is, for cameras that started
    at different moments; all are cut to the shortest."""
    check_synchrony: bool = True
    """Tell before the work when the cameras seem to have started at different moments; it takes a
    network with a track head (VGGT-1B) and some seconds on a GPU."""
    fps: float | None = None
    """Frames per second to resample the videos to (default: their own, which must be one)."""
    trim: bool = False
    """Cut all videos to the shortest."""
    cameras: CameraMode = "first"
    """Which times decide about the cameras, one per view: the first one (the method), or the mean
    or median over all. even: the first one, and from each camera to the next is the same step, as
    in videos that `generate` made of text."""
    known_cameras: Path | None = None
    """A scene file whose cameras are those of the videos, instead of predicted ones."""
    shared_intrinsics: bool = False
    """All views were taken with the same lens and zoom."""
    resolution: int | None = None
    """Longer side of what the network sees, in pixels (default: the size it was trained on)."""
    window: int | None = None
    """Times per run of the network (default: 8 with trained temporal layers, which see one window
    at a time, else 1)."""
    align: bool | None = None
    """Match the scale of each time's depth to that of the first (default: where no trained temporal
    layers do so)."""
    adjust: bool = True
    """Move cameras and depth from where the network has them to where the views agree."""
    detail: int | None = None
    """Gaussians along each side of a pixel that the network sees, if the videos have as many pixels
    (default: 2 with the embedded network, which sees 64 pixels, else 1)."""
    filters: Filters = field(default_factory=Filters)
    store_static_once: bool = True
    """Find what stands still and store it once, not at every time."""
    sh_degree: int = 0
    """Degree of the view-dependent colours to keep of a network that predicts them (AnySplat)."""
    refine: int = 0
    """Steps of optimising the Gaussians on the videos' own frames; 200 sharpen, and take longer."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of the network's matrix products (default: bfloat16 on CUDA, float32 elsewhere; the others
    are tens of times slower on a CPU without instructions for them)."""
    device: str | None = None
    """Where all of it runs: cpu, cuda or cuda:N (default: CUDA where there is one)."""
    orbit_size: int = 256
    """Height of the orbit video in pixels."""
    plan: bool = False
    """Only print how much memory it needs, computed without loading weights."""


def read_reconstructor(
    file: Path | None, device: torch.device, dtype: torch.dtype | None = None
) -> Reconstructor:
    """The reconstructor of a file (default: the embedded one) on a device."""
    file = file or weights.folder() / "reconstructor.safetensors"
    return Reconstructor.from_file(file, device=device, dtype=dtype)


def read_cameras(file: Path, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The cameras of a scene file, for images of another size: extrinsics [V, 3, 4] and intrinsics
    [V, 3, 3] in their pixels."""
    scene = load_scene(file)
    factors = width / scene.width, height / scene.height
    return scene.extrinsics, scale_intrinsics(scene.intrinsics, *factors)


def reconstruct_grid(
    reconstructor: Reconstructor, frames: Tensor, profiler: StageProfiler, **options: Any
) -> GaussianScene:
    """Gaussians of grid frames [V, T, 3, H, W], as the stage "reconstruct"; the options are those
    of the reconstructor's call."""
    bar = progress_bar("reconstructing", frames.shape[1])
    with profiler.stage("reconstruct"), bar as progress, torch.no_grad():
        return reconstructor(frames, progress=progress, **options).scene


def reconstruct(config: ReconstructConfig) -> Path:
    """Reconstruct the videos, write the results, and return their folder.

    Raises ValueError for wrong input before any long work; a stopped or failed run leaves `out` as
    it was.
    """
    device = choose_device(config.device)
    files = view_files(config.inputs)
    frames, rate = read_synchronised(
        files,
        offsets=config.offsets,
        max_frames=config.max_frames,
        fps=config.fps,
        trim=config.trim,
    )
    if len(files) == 1:
        logger.warning(
            "%s is the only view, so the scene will look right from there only; give two or more "
            "synchronised videos for a scene that can be seen from elsewhere.",
            files[0],
        )
    dtype = getattr(torch, config.dtype) if config.dtype else matrix_dtype(device)
    size = (frames.shape[0], frames.shape[1], frames.shape[-2], frames.shape[-1])
    asked = (config.reconstructor, size, dtype, config.window, config.resolution, config.detail)
    if config.plan:
        from fourreal.commands.plan import plan_reconstruction, plan_table  # diffusers: seconds

        print(plan_table([plan_reconstruction(*asked)], device))
        return config.out
    side = max(config.resolution or SEEN, *size[2:])
    if not is_small(
        (*size[:2], side, side), [config.reconstructor] if config.reconstructor else [], device
    ):
        from fourreal.commands.plan import check_fits, plan_reconstruction

        check_fits([plan_reconstruction(*asked)], device)
    cameras: str | tuple[Tensor, Tensor] = config.cameras
    if config.known_cameras:
        cameras = read_cameras(config.known_cameras, *frames.shape[-2:])
    profiler = StageProfiler(device, plan=("load", "reconstruct", *WRITING))
    with results_folder(config.out) as folder:
        with profiler.stage("load"):
            reconstructor = read_reconstructor(config.reconstructor, device, dtype)
        if config.check_synchrony and reconstructor.track_head is not None:
            with profiler.stage("synchrony"):
                tell_late_views(reconstructor, frames, rate, files, config.offsets)
        scene = reconstruct_grid(
            reconstructor,
            frames,
            profiler,
            cameras=cameras,
            fps=rate,
            split=StaticSplit() if config.store_static_once else None,
            **{name: getattr(config, name) for name in OPTIONS},
        )
        figures = write_results(folder, frames, scene, config.orbit_size, profiler)
        write_report(folder, profiler, scene, asdict(config), **figures)
    print(f"results: {config.out}")
    return config.out


COMMAND = (ReconstructConfig, reconstruct)
