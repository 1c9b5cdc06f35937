"""`fourreal evaluate video`: grids made from references, against the exact ones."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fourreal.evaluation.drawing import beside
from fourreal.evaluation.evaluated_models import Sampling, generate_grid, video_model
from fourreal.evaluation.examples import examples
from fourreal.evaluation.report import Report
from fourreal.files.media import write_image
from fourreal.metrics.learned import Learned, LearnedMetrics
from fourreal.metrics.pixels import moving_region, psnr, smoothness, ssim, view_consistency
from fourreal.scenes import Scene

EQUAL = 60.0  # dB of images that are equal, so that a mean exists
References = Literal["both", "fixed_view", "freeze_time"]
REFERENCES: tuple[References, ...] = get_args(References)
ExactGeometry = tuple[Tensor, Tensor, Tensor]  # as view_consistency takes it
PICTURED = 3  # grids in the picture that shows the exact ones as well


@dataclass
class VideoEvaluation(LearnedMetrics, Sampling):
    """Given references, how close are the cells that no reference shows? (Paper, section 5.)"""

    references: tuple[References, ...] = REFERENCES
    """What is given: the fixed view, the freeze time, or both."""
    montage: Path | None = None
    """Picture to write of the first 3 grids of the first references, the exact ones at the
    right: every second view, seven times across."""


def score_video(generated: Tensor, exact: Tensor) -> dict[str, float]:
    """PSNR (dB) and SSIM on the cells of neither reference (not row 0, not column 0) of grids
    [V, T, 3, H, W], for the generated grid and for the two copies a user could make without a
    model; PSNR of the whole frame and of the moving region."""
    unseen = (slice(1, None), slice(1, None))
    region = moving_region(exact)[unseen]
    grids = {
        "generated": generated,
        "fixed_view_copy": exact[:1].expand_as(exact),
        "freeze_time_copy": exact[:, :1].expand_as(exact),
    }
    scores = {}
    for name, grid in grids.items():
        scores[f"{name}_full"] = min(psnr(grid[unseen], exact[unseen]), EQUAL)
        scores[f"{name}_moving"] = min(psnr(grid[unseen], exact[unseen], region), EQUAL)
        scores[f"{name}_ssim"] = ssim(grid[unseen], exact[unseen])
    best = max(scores["fixed_view_copy_moving"], scores["freeze_time_copy_moving"])
    scores["gain_on_moving"] = scores["generated_moving"] - best
    return scores


def geometry_of(scene: Scene | None, device: torch.device) -> ExactGeometry | None:
    """Depth, extrinsics and intrinsics of a scene's views, where there is one."""
    if scene is None:
        return None
    return scene.depth.to(device), scene.extrinsics.to(device), scene.intrinsics.to(device)


def score_agreement(name: str, frames: Tensor, geometry: ExactGeometry | None) -> dict[str, float]:
    """Smoothness over times and views of a grid [V, T, 3, H, W] and, where its geometry is known,
    the agreement of its views."""
    scores = {
        f"{name}_smooth_times": smoothness(frames, 1),
        f"{name}_smooth_views": smoothness(frames, 0),
    }
    if geometry:
        scores[f"{name}_view_consistency"] = view_consistency(frames, *geometry)
    return scores


def evaluate_video(config: VideoEvaluation) -> dict[str, Any]:
    """Generate grids from the references of exact ones and score them; printed as a table."""
    pipeline, learned = video_model(config.model, config.device), Learned(config, config.device)
    report, pictures, device = Report(), [], learned.device
    for index, example in enumerate(examples(config)):
        exact, geometry = example.frames.to(device), geometry_of(example.scene, device)
        bound = score_agreement("exact", exact, geometry)
        for given in config.references:
            grid = generate_grid(
                pipeline,
                config,
                index,
                example.caption,
                fixed_view=exact[0] if given != "freeze_time" else None,
                freeze_time=exact[:, 0] if given != "fixed_view" else None,
            ).to(device)
            found = score_agreement("generated", grid, geometry)
            judged = learned.likeness(grid[1:, 1:], exact[1:, 1:]) | learned.views(grid)
            report.add(score_video(grid, exact) | found | bound | judged, f"{given}/")
            learned.watch(given, grid[1:], exact[1:])
            if config.montage and given == config.references[0] and index < PICTURED:
                pictures.append(beside(grid, exact))
    report.of_all = learned.of_all()
    if config.montage:
        write_image(config.montage, torch.cat(pictures, -2))
    return report.finish(config)
