"""`fourreal warp`: a scene, a video or photos seen by still cameras on an arc, and what is missing.

It is what a video inpainting model would be given, to look at or to use elsewhere.
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from torch import Tensor

from fourreal.commands.arc_options import ArcOptions, Cameras, cameras_on_arc, warp_to
from fourreal.commands.reconstruct import read_reconstructor
from fourreal.commands.results import enlarge, progress_bar, write_report
from fourreal.devices import choose_device
from fourreal.files.atomic import results_folder
from fourreal.files.media import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    media_files,
    read_image,
    read_images,
    read_video,
    write_image,
    write_video,
)
from fourreal.formats import open_scene, save_scene
from fourreal.gaussians import Gaussians, GaussianScene
from fourreal.grid import contact_sheet, tile_views
from fourreal.profiling import StageProfiler
from fourreal.reconstruction import predicted_scene
from fourreal.warp import WarpedGrid, reference_cells

logger = logging.getLogger(__name__)
STILL_FPS = 8.0  # of photos, whose scene has one time


@dataclass(kw_only=True)
class WarpConfig(ArcOptions):
    """Show a scene, a video or photos to still cameras on an arc, and say what is missing there."""

    source: Annotated[Path, tyro.conf.Positional]
    """A scene file (or PLY, SPZ, .splat, OpenUSD, a folder of these), a video of a camera that
    stands still, a photo, or a folder of photos of a still scene."""
    out: Path = Path("out/warp")
    """Folder for the results; what an earlier run left there is replaced."""
    arc: float | None = 40.0
    """Degrees of the whole arc, to the right; negative to the left. Little is known of a view
    beyond about 45."""
    num_views: Annotated[int, tyro.conf.arg(aliases=["--views"])] = 8
    """Cameras on the arc; the first one is that of the source."""
    height: int | None = None
    """Pixels; videos and photos are resized and cropped (default: as the source)."""
    width: int | None = None
    """Needed with --height."""
    max_frames: int | None = None
    """Use only so many frames of a video or times of a scene."""
    fps: float | None = None
    """Frames per second to resample a video to."""
    reconstructor: Path | None = None
    """A reconstructor file for videos and photos: VGGT-1B, AnySplat or one of this project's
    (default: embedded)."""
    repaint_all: bool = False
    """Mark every pixel but the source's own frames as missing."""
    device: str | None = None
    """Where all of it runs: cpu, cuda or cuda:N (default: CUDA where there is one)."""


def read_source(config: WarpConfig) -> GaussianScene | tuple[Tensor, float]:
    """A scene, or frames [V, T, 3, H, W] and their rate: V photos of one time, or a video."""
    path, suffix = config.source, config.source.suffix.lower()
    fit = (config.height, config.width) if config.height and config.width else None
    if path.is_dir() and media_files(path, IMAGE_SUFFIXES):
        return read_images(path, fit=fit)[:, None], STILL_FPS
    if suffix in IMAGE_SUFFIXES:
        return read_image(path, fit)[None, None], STILL_FPS
    if suffix in VIDEO_SUFFIXES:
        frames, rate = read_video(path, config.max_frames, fit=fit, fps=config.fps)
        return frames[None], rate
    return open_scene(path).first_times(config.max_frames)


def scene_of_frames(
    frames: Tensor, rate: float, config: WarpConfig, profiler: StageProfiler
) -> GaussianScene:
    """The scene of a video or of photos, frames [V, T, 3, H, W], as the stage "geometry"."""
    with profiler.stage("load"):
        reconstructor = read_reconstructor(config.reconstructor, profiler.device)
    with profiler.stage("geometry"), progress_bar("geometry", frames.shape[1]) as progress:
        photos = frames.shape[1] == 1
        given = {"freeze_time": frames[:, 0]} if photos else {"fixed_view": frames[0]}
        return predicted_scene(reconstructor, fps=rate, progress=progress, **given)


def warp_source(config: WarpConfig) -> Path:
    """Warp, write the results, and return their folder.

    Raises ValueError for wrong input; a stopped or failed run leaves `out` as it was.
    """
    device = choose_device(config.device)
    source = read_source(config)
    before = () if isinstance(source, GaussianScene) else ("load", "geometry")
    profiler = StageProfiler(device, plan=(*before, "warp", "write"))
    with results_folder(config.out) as folder:
        if isinstance(source, GaussianScene):
            scene, references = source, None
        else:
            scene = scene_of_frames(*source, config, profiler)
            shape = config.num_views, scene.num_frames, scene.height, scene.width
            references = reference_cells(shape, fixed_view=source[0][0])
        width, height = config.width or scene.width, config.height or scene.height
        with profiler.stage("warp"):
            cameras = cameras_on_arc(scene, config, config.num_views, width, height)
            warped = warp_to(
                scene,
                cameras,
                width,
                height,
                device,
                references=references,
                repaint_all=config.repaint_all,
            )
        with profiler.stage("write"):
            write_warp(folder, warped, scene, cameras)
        shares = [round(share, 4) for share in warped.known_share.tolist()]
        write_report(folder, profiler, scene, asdict(config), known_share=shares)
    logger.info("known of each view: %s", ", ".join(f"{100 * share:.0f}%" for share in shares))
    print(f"results: {config.out}")
    return config.out


def write_warp(folder: Path, warped: WarpedGrid, scene: GaussianScene, cameras: Cameras) -> None:
    """Write everything but the report: per view a video of its frames and one of its mask (white
    where pixels are missing), the grid as one video and as contact sheets, the scene that was
    warped, and the cameras as a scene file without Gaussians, for --known-cameras."""
    frames, masks = warped.frames, warped.missing.expand_as(warped.frames)
    for name, grid in (("views", frames), ("missing", masks)):
        for view, video in enumerate(grid):
            write_video(folder / name / f"view_{view + 1:02d}.mp4", video, scene.fps)
    write_video(folder / "grid.mp4", enlarge(tile_views(frames)), scene.fps)
    write_image(folder / "contact_sheet.png", contact_sheet(enlarge(frames)))
    write_image(folder / "missing.png", contact_sheet(enlarge(masks)))
    save_scene(scene.to("cpu"), folder / "scene.safetensors")
    times = [Gaussians.empty() for _ in range(frames.shape[1])]
    height, width = frames.shape[-2:]
    seen = GaussianScene(Gaussians.empty(), times, *cameras, width, height, scene.fps)
    save_scene(seen, folder / "cameras.safetensors")


COMMAND = (WarpConfig, warp_source)
