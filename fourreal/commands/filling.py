"""The grid of `fourreal generate` by way of geometry: warp what is given, fill what is missing.

A fixed-view video, photos or both become a scene, which still cameras on an arc see with holes; a
VACE fills them, all views at once, and the known pixels are pasted back. From text alone the VACE
makes the first view before that.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fourreal.commands.arc_options import Cameras, cameras_on_arc, warp_to
from fourreal.commands.jobs import GenerateConfig
from fourreal.commands.pipelines import Models
from fourreal.commands.results import enlarge, progress_bar
from fourreal.files.media import write_image
from fourreal.fill import fill_column, fill_holes
from fourreal.gaussians import GaussianScene
from fourreal.grid import contact_sheet
from fourreal.profiling import StageProfiler
from fourreal.reconstruction import Reconstructor, predicted_scene, scene_from_depth
from fourreal.warp import WarpedGrid, reference_cells

if TYPE_CHECKING:
    from fourreal.video import ViewTimePipeline

logger = logging.getLogger(__name__)
REFERENCES = ("fixed_view", "freeze_time", "image")


@dataclass
class FilledGrid:
    """frames [V, T, 3, H, W], the warped grid that they were filled from, and the cameras."""

    frames: Tensor
    warped: WarpedGrid
    cameras: Cameras

    def for_reconstruction(self) -> dict[str, Any]:
        """Options of a reconstructor: the cameras, and which pixels were made up."""
        return {"cameras": self.cameras, "filled": self.warped.missing[:, :, 0]}


def needs_geometry(job: GenerateConfig, pipeline: "ViewTimePipeline") -> bool:
    """Whether a grid is made by way of geometry: with an arc, or of a VACE with both references.

    Raises ValueError for an arc without a VACE.
    """
    if job.arc is None and not (job.fixed_view and job.freeze_time):
        return False
    vace = pipeline.config.conditioning == "mask"
    if job.arc is not None and not vace:
        raise ValueError(
            "--arc needs a VACE, which fills what is missing in the other views, but this "
            "transformer is none; give one of VACE with --transformer."
        )
    return vace


def filling_stages(job: GenerateConfig) -> list[str]:
    """The stages of fill_grid, in their order; a column is left out where nothing of it is
    missing."""
    names = [] if job.fixed_view or job.freeze_time else ["first view"]
    names += ["geometry", "warp"]
    for number, count in enumerate(round_sizes(job.num_views, job.rounds), 1):
        suffix = f" {number}" if count < job.num_views else ""
        names += ["column" + suffix] * bool(job.column_clip and job.arc is not None)
        names += ["video" + suffix]
        names += ["warp" + suffix] * bool(suffix)
    return names


def fill_grid(
    job: GenerateConfig,
    models: Models,
    options: dict[str, Any],
    profiler: StageProfiler,
) -> FilledGrid:
    """Make a grid by geometry; options are those of the pipeline's call, references included."""
    pipeline = models.pipeline
    options, given = dict(options), {name: options[name] for name in REFERENCES}
    options |= dict.fromkeys(REFERENCES)
    row, photos = given["fixed_view"], given["freeze_time"]
    if row is None and photos is None:
        with profiler.stage("first view"):
            row = pipeline(**options | {"num_views": 1, "image": given["image"]}).frames[0]
    with profiler.stage("geometry"), models.reconstructor_on(profiler.device) as reconstructor:
        scene = scene_of_references(job, reconstructor, row, photos)
    with profiler.stage("warp"):
        warped, cameras = warp_references(job, scene, row, photos, profiler.device)
    shares = ", ".join(f"{100 * share:.0f}%" for share in warped.known_share.tolist())
    logger.info("known of each view: %s", shares)
    frames = fill_views(job, models, options, profiler, (scene, warped, cameras))
    return FilledGrid(frames, warped, cameras)


def fill_views(
    job: GenerateConfig,
    models: Models,
    options: dict[str, Any],
    profiler: StageProfiler,
    start: tuple[GaussianScene, WarpedGrid, Cameras],
) -> Tensor:
    """The frames [V, T, 3, H, W] of a warped grid, what is missing filled, in the job's rounds.

    Each round fills the first views, up to its share of the arc. From these, whose cameras are
    known, a scene is made anew, which the next views see with smaller holes.
    """
    scene, known, cameras = start
    for number, count in enumerate(round_sizes(len(cameras[0]), job.rounds), 1):
        suffix = f" {number}" if count < len(cameras[0]) else ""  # the last one is "video"
        part = WarpedGrid(known.frames[:count], known.missing[:count])
        seen = cameras[0][:count], cameras[1][:count]
        fill = options | {"scale": job.fill_scale}
        if job.column_clip and part.missing[:, 0].any():
            with profiler.stage("column" + suffix):
                given = models.pipeline, scene, part, seen, profiler.device
                part = fill_column(*given, **fill)
        with profiler.stage("video" + suffix):
            frames = fill_holes(models.pipeline, part, **fill)
        if count < len(cameras[0]):
            with profiler.stage("warp" + suffix):
                scene = scene_of_filled(job, models, frames, seen, profiler.device)
                known = warp_further(scene, known, frames, cameras, profiler.device)
    return frames


def round_sizes(num_views: int, rounds: int) -> list[int]:
    """How many views there are after each round, two at least: round_sizes(8, 3) = [3, 6, 8]."""
    return sorted({max(2, -(-num_views * (i + 1) // rounds)) for i in range(rounds)})


def scene_of_filled(
    job: GenerateConfig, models: Models, frames: Tensor, cameras: Cameras, device: torch.device
) -> GaussianScene:
    """The scene of filled views [V, T, 3, H, W] with their cameras, by predicted depth."""
    assert job.fps is not None  # list_jobs fills it in
    with models.reconstructor_on(device) as reconstructor, torch.no_grad():
        depth = reconstructor(frames, cameras=cameras).depth
    return scene_from_depth(frames, depth, *cameras, fps=job.fps)


def warp_further(
    scene: GaussianScene,
    before: WarpedGrid,
    frames: Tensor,
    cameras: Cameras,
    device: torch.device,
) -> WarpedGrid:
    """The warped grid of a scene of the first views, filled frames [k, T, 3, H, W], which are known
    whole; `before` is the grid of the round before."""
    given, cells = before.frames.clone(), torch.zeros(before.frames.shape[:2]).bool()
    given[: len(frames)], cells[: len(frames)] = frames, True
    height, width = frames.shape[-2:]
    return warp_to(scene, cameras, width, height, device, references=(given, cells))


def scene_of_references(
    job: GenerateConfig, reconstructor: Reconstructor, row: Tensor | None, photos: Tensor | None
) -> GaussianScene:
    """predicted_scene of a video [T, 3, H, W], photos [V, 3, H, W], or both, with a bar."""
    assert job.fps is not None  # list_jobs fills it in
    with progress_bar("geometry", 1 if row is None else len(row)) as progress, torch.no_grad():
        return predicted_scene(
            reconstructor, fixed_view=row, freeze_time=photos, fps=job.fps, progress=progress
        )


def warp_references(
    job: GenerateConfig,
    scene: GaussianScene,
    row: Tensor | None,
    photos: Tensor | None,
    device: torch.device,
) -> tuple[WarpedGrid, Cameras]:
    """The grid that the model is shown, and its cameras: on the arc, or those of the photos."""
    assert job.height is not None and job.width is not None  # list_jobs fills them in
    cameras = cameras_on_arc(scene, job, job.num_views, job.width, job.height)
    shape = len(cameras[0]), job.num_frames, job.height, job.width
    column = photos if job.arc is None else None  # on an arc no other view is a photo's
    references = reference_cells(shape, fixed_view=row, freeze_time=column)
    if references is None:  # photos alone: the first of them is the first cell
        assert photos is not None
        references = torch.zeros(*shape[:2], 3, *shape[2:]), torch.zeros(shape[:2]).bool()
        references[0][0, 0], references[1][0, 0] = photos[0], True
    return warp_to(scene, cameras, job.width, job.height, device, references=references), cameras


def write_warped(folder: Path, warped: WarpedGrid) -> dict[str, Any]:
    """Write warped.png, the sheet that the model was shown; returns figures for the report."""
    write_image(folder / "warped.png", contact_sheet(enlarge(warped.frames)))
    return {"known_share": [round(share, 4) for share in warped.known_share.tolist()]}
