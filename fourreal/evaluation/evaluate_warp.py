"""`fourreal evaluate warp`: a fixed-view video becomes a grid by geometry and a VACE, against the
model that makes it from the video alone.

The first view of an unseen scene is warped into the scene's other cameras, by its exact depth, by
the depth that the reconstructor predicts from it, and by what it predicts from the whole grid that
the model makes of that view. What is missing is filled in several ways; what is known is pasted
over each. Scores are of the views that were not given.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fourreal.carry import carried
from fourreal.data.cache import TensorCache, fingerprint
from fourreal.evaluation.drawing import beside
from fourreal.evaluation.evaluated_models import (
    ReconstructorModel,
    Sampling,
    generate_grid,
    reconstruction_model,
    vace_model,
    video_model,
)
from fourreal.evaluation.examples import examples
from fourreal.evaluation.report import Report, compare
from fourreal.evaluation.rivals import exact_and_rivals
from fourreal.files.media import write_image
from fourreal.fill import fill_column, fill_holes
from fourreal.metrics.parallax import Parallax
from fourreal.metrics.pixels import gradient_energy, mean_psnr, moving_region
from fourreal.paste import paste_known
from fourreal.scenes import Scene
from fourreal.training.warped_scenes import first_view_depth, first_view_scene, warp_first_view
from fourreal.warp import WarpedGrid, reference_cells

Geometry = Literal["exact", "predicted", "grid"]
GEOMETRIES: tuple[Geometry, ...] = get_args(Geometry)
COLUMNS = (
    *("known_share", "psnr_known", "psnr_missing", "psnr", "psnr_moving"),
    *("parallax_right", "parallax_error", "gradient_energy"),
)
STRENGTH, COLUMN_FIRST = "strength {:g}", "column first"  # names of rows
PICTURED = 3  # grids in the picture


@dataclass
class WarpEvaluation(ReconstructorModel, Sampling):
    """From a fixed-view video, a grid by geometry and a VACE: exact and predicted geometry, fills
    of several view strengths, the mean colour as a fill, and today's generation without geometry.
    """

    vace: Path | None = None
    """A VACE file (default: the package's)."""
    strengths: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0)
    """View strengths of the VACE; 0 fills each view on its own. Without any, the other ways."""
    vace_steps: int = 1
    """Sampling steps of the VACE. Where most is known one is best, as with both references."""
    geometries: tuple[Geometry, ...] = GEOMETRIES
    """Exact depth of the first view, depth predicted from its video, or depth of all views
    predicted from the grid that today's way makes of it (see carried)."""
    grow: tuple[int, int] = (0, 2)
    """Pixels by which holes are widened, with exact and with predicted geometry, whose edges are
    wrong by some."""
    column_first: bool = False
    """A row more for each geometry: the last view strength, the first time of all views filled as
    one clip before that."""
    feather: int = 0
    """Pixels over which pasted pixels fade into the fill."""
    montage: Path | None = None
    """Picture to write of the first 3 grids, filled with the last view strength by the last of the
    geometries, the exact ones at the right: every second view, seven times across."""


def mean_filled(warped: WarpedGrid) -> Tensor:
    """The warped frames with the holes of each in the mean colour of what it shows."""
    known = 1 - warped.missing
    total = (warped.frames * known).sum((-2, -1), keepdim=True)
    mean = total / known.sum((-2, -1), keepdim=True).clamp_min(1)
    return torch.where(warped.missing > 0.5, mean, warped.frames)


def score_warp(
    grid: Tensor, warped: WarpedGrid, scene: Scene, parallax: Parallax
) -> dict[str, float]:
    """Scores of a grid [V, T, 3, H, W] in the views after the first.

    The share of known pixels; PSNR in dB on them, on the missing ones, on the whole frame and on
    what moves, means over frames; the parallax of neighbouring views, the given one among them;
    gradient energy as a multiple of the exact grid's.
    """
    grid, missing = grid.to(scene.frames.device), warped.missing.to(scene.frames.device)
    made, exact, missing = grid[1:], scene.frames[1:], missing[1:, :, 0] > 0.5
    return {
        "known_share": float(warped.known_share[1:].mean()),
        "psnr_known": mean_psnr(made, exact, ~missing),
        "psnr_missing": mean_psnr(made, exact, missing),
        "psnr": mean_psnr(made, exact),
        "psnr_moving": mean_psnr(made, exact, moving_region(scene.frames)[1:]),
        "gradient_energy": gradient_energy(made) / gradient_energy(exact),
        **parallax.score(grid),
    }


class Grids:
    """The grids of a scene that are to be filled or compared with; kept in the config's cache."""

    def __init__(self, config: WarpEvaluation):
        self.config = config
        self.cache = TensorCache(config.cache) if config.cache else None
        self.video = video_model(config.model, config.device)
        self.reconstructor = reconstruction_model(config.reconstructor, config.device)
        self.name = fingerprint(self.reconstructor.model)

    def generated(self, index: int, scene: Scene) -> Tensor:
        """Today's way: the whole grid generated from the first view."""
        given = {"fixed_view": scene.frames[0]}
        return generate_grid(self.video, self.config, index, scene.caption, **given)

    def depth(
        self, scene: Scene, geometry: Geometry, generated: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Depth of the first view [1, T, H, W], with its confidence where it is predicted, or of
        all views of the generated grid."""
        if geometry == "exact":
            return scene.depth[:1], None
        if geometry == "predicted":
            return first_view_depth(scene, self.reconstructor)
        frames = torch.cat([scene.frames[:1], generated[1:].to(scene.frames)])
        cameras = scene.extrinsics, scene.intrinsics
        return self.reconstructor(frames, cameras=cameras, gaussians=False, detail=1).depth, None

    def warped(self, scene: Scene, geometry: Geometry, generated: Tensor) -> WarpedGrid:
        """The first view in the other cameras, by this geometry."""
        grow = self.config.grow[geometry == "predicted"]

        def warp() -> Tensor:
            depth, sure = self.depth(scene, geometry, generated)
            if geometry == "grid":
                views, times, height, width = scene.depth.shape
                shape = views, times, height, width
                given = reference_cells(shape, fixed_view=scene.frames[0])
                assert given is not None
                cameras = scene.extrinsics, scene.intrinsics
                depth = depth.to(self.reconstructor.device)
                grid = carried(generated, depth, cameras, given)
            else:
                device = self.reconstructor.device
                grid = warp_first_view(scene, depth, grow, device, confidence=sure)
            return torch.cat([grid.frames, grid.missing], dim=2)

        key = f"{self.name} {tuple(scene.frames.shape)} {scene.seed} {geometry} sure {grow}"
        kept = self.cache if geometry != "grid" else None  # which depends on the video model, too
        found = kept.get(key, warp).float() if kept else warp()
        return WarpedGrid(*found.split([3, 1], dim=2))


def fill_options(
    config: WarpEvaluation, index: int, caption: str, strength: float
) -> dict[str, Any]:
    """Options of fill_holes for example `index`, the seed of the noise."""
    return {
        "prompt": caption,
        "num_inference_steps": config.vace_steps,
        "guidance_scale": config.guidance_scale,
        "staged": config.staged,
        "view_strength": strength,
        "generator": torch.Generator().manual_seed(index),
        "scale": config.fill_scale,
        "feather": config.feather,
    }


def evaluate_warp(config: WarpEvaluation) -> dict[str, dict]:
    """Make and score grids in all ways; printed as two tables for each geometry, of which the
    second compares the view strengths with the first of them."""
    if config.data:
        raise ValueError("warping is scored by exact geometry, which only procedural scenes have.")
    made_first = Grids(config)
    vace = None
    if config.strengths:
        vace = vace_model(config.vace, config.model, config.device)
    reports: dict[str, dict[str, Report]] = {name: {} for name in config.geometries}
    pictures = []
    for index, example in enumerate(examples(config)):
        scene = example.scene
        assert scene is not None  # without a folder of clips, examples are scenes
        generated = made_first.generated(index, scene)
        shown = scene.to(made_first.reconstructor.device)  # where it is scored
        rivals = exact_and_rivals(shown.frames)
        parallax = Parallax(shown.frames, shown.depth, shown.extrinsics, shown.intrinsics)
        for geometry in config.geometries:
            warped = made_first.warped(scene, geometry, generated)
            grids = {
                "fixed view": generated,
                "fixed view, pasted": paste_known(generated, warped, feather=config.feather),
                "mean colour": mean_filled(warped),
                **rivals,
            }
            for strength in config.strengths:
                assert vace is not None
                options = fill_options(config, index, scene.caption, strength)
                grids[STRENGTH.format(strength)] = fill_holes(vace, warped, **options)
            if vace and config.column_first:
                options = fill_options(config, index, scene.caption, config.strengths[-1])
                depth, sure = made_first.depth(scene, geometry, generated)
                seen = first_view_scene(scene, depth[:1], sure)
                cameras = scene.extrinsics, scene.intrinsics
                column = fill_column(vace, seen, warped, cameras, vace.device, **options)
                grids[COLUMN_FIRST] = fill_holes(vace, column, **options)
            for name, grid in grids.items():
                report = reports[geometry].setdefault(name, Report())
                report.add(score_warp(grid, warped, shown, parallax))
        if config.montage and index < PICTURED:
            pictures.append(beside(grid.cpu(), scene.frames))
    if config.montage:
        write_image(config.montage, torch.cat(pictures, -2))
    return tables(config, reports)


def tables(config: WarpEvaluation, reports: dict[str, dict[str, Report]]) -> dict[str, Any]:
    """The tables of the reports, by geometry and row; see evaluate_warp."""
    found = {}
    strengths = [STRENGTH.format(strength) for strength in config.strengths]
    for geometry, rows in reports.items():
        print(f"\n{geometry} geometry")
        results = {name: [report.result(config)] for name, report in rows.items()}
        found[geometry] = compare(config, results, COLUMNS, f"_{geometry}")
        filled = {name: results[name] for name in strengths}
        compare(config, filled, COLUMNS, f"_{geometry}_strengths")
    return found
