"""`fourreal evaluate video`: grids made from references, against the exact ones."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fourreal.carry import carry_references
from fourreal.evaluation.drawing import beside
from fourreal.evaluation.evaluated_models import (
    ReconstructorModel,
    Sampling,
    generate_grid,
    reconstruction_model,
    video_model,
)
from fourreal.evaluation.examples import examples
from fourreal.evaluation.report import Report
from fourreal.evaluation.rivals import blurred_rows, exact_and_rivals, mean_image
from fourreal.files.media import write_image
from fourreal.metrics.learned import Learned, LearnedMetrics
from fourreal.metrics.parallax import Parallax
from fourreal.metrics.pixels import gradient_energy, mean_psnr, moving_region, ssim
from fourreal.scenes import Scene
from fourreal.warp import reference_cells

References = Literal["both", "fixed_view", "freeze_time"]
REFERENCES: tuple[References, ...] = get_args(References)
PICTURED = 3  # grids in the picture that shows the exact ones as well
ENLARGED_BLUR = 2.5  # pixels: what enlarged grids are compared with, besides the others' blurs


@dataclass
class VideoEvaluation(LearnedMetrics, ReconstructorModel, Sampling):
    """Given references, how close are the cells that no reference shows? (Paper, section 5.)"""

    references: tuple[References, ...] = REFERENCES
    """What is given: the fixed view, the freeze time, or both."""
    carry: bool = False
    """Rows more: the grids with what is given carried into them, as `fourreal generate` does it."""
    montage: Path | None = None
    """Picture to write of the first 3 grids of the first references, the exact ones at the
    right: every second view, seven times across."""


def score_grid(grid: Tensor, exact: Tensor, parallax: Parallax | None = None) -> dict[str, float]:
    """Scores of a grid [V, T, 3, H, W] on the cells of neither reference (not row 0, not column 0).

    psnr and ssim, the first the mean over frames, and psnr_moving on the moving region; sharpness:
    gradient energy as a multiple of the exact grid's; where the geometry is known, the parallax of
    neighbouring views, all of them.
    """
    made, wanted = grid[1:, 1:], exact[1:, 1:]
    scores = {
        "psnr": mean_psnr(made, wanted),
        "psnr_moving": mean_psnr(made, wanted, moving_region(exact)[1:, 1:]),
        "ssim": ssim(made, wanted),
        "sharpness": gradient_energy(made) / gradient_energy(wanted),
    }
    return scores | (parallax.score(grid) if parallax else {})


def copies(exact: Tensor) -> dict[str, Tensor]:
    """The two grids that a user could make of both references without a model: one view, and the
    first time at all times."""
    return {"one_view": exact[:1].expand_as(exact), "first_time": exact[:, :1].expand_as(exact)}


def exact_parallax(exact: Tensor, scene: Scene | None, device: torch.device) -> Parallax | None:
    """The parallax of a scene's exact frames, where it has geometry."""
    if scene is None:
        return None
    geometry = scene.depth, scene.extrinsics, scene.intrinsics
    return Parallax(exact, *(part.to(device) for part in geometry))


def score_rows(
    generated: dict[str, Tensor], exact: Tensor, parallax: Parallax | None
) -> dict[str, float]:
    """Scores of generated grids by their names, of exact and blurred grids, still pictures and
    copies; gain_on_moving: of a generated grid over the better copy on the moving region."""
    rows = generated | exact_and_rivals(exact) | blurred_rows(exact, (ENLARGED_BLUR,))
    rows |= {"mean_image": mean_image(exact)} | copies(exact)
    found = {name: score_grid(grid, exact, parallax) for name, grid in rows.items()}
    best = max(found[name]["psnr_moving"] for name in copies(exact))
    for name in generated:
        own = found[name]
        own["gain_on_moving"] = own["psnr_moving"] - best
    return {f"{name}/{key}": value for name, own in found.items() for key, value in own.items()}


def evaluate_video(config: VideoEvaluation) -> dict[str, Any]:
    """Generate grids from the references of exact ones and score them; printed as a table."""
    pipeline, learned = video_model(config.model, config.device), Learned(config, config.device)
    reconstructor = config.carry and reconstruction_model(config.reconstructor, config.device)
    report, pictures, device = Report(), [], learned.device
    for index, example in enumerate(examples(config)):
        exact = example.frames.to(device)
        generated: dict[str, Tensor] = {}
        for given in config.references:
            shown: dict[str, Any] = {
                "fixed_view": exact[0] if given != "freeze_time" else None,
                "freeze_time": exact[:, 0] if given != "fixed_view" else None,
            }
            grid = generate_grid(pipeline, config, index, example.caption, **shown).to(device)
            grids = {f"{given}/generated": grid}
            if reconstructor:
                known = reference_cells((*exact.shape[:2], *exact.shape[-2:]), **shown)
                assert known is not None
                grid, _ = carry_references(reconstructor, grid, known, device=device)
                grids[f"{given}/carried"] = grid = grid.to(device)
            for name, made in grids.items():
                judged = learned.likeness(made[1:, 1:], exact[1:, 1:]) | learned.views(made)
                report.add(judged, f"{name}/")
            generated |= grids
            learned.watch(given, grid[1:], exact[1:])
            if config.montage and given == config.references[0] and index < PICTURED:
                pictures.append(beside(grid, exact))
        parallax = exact_parallax(exact, example.scene, device)
        report.add(score_rows(generated, exact, parallax))
    report.of_all = learned.of_all()
    if config.montage:
        write_image(config.montage, torch.cat(pictures, -2))
    return report.finish(config)
