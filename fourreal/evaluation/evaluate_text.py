"""`fourreal evaluate text`: grids made from text alone, against what their prompts name."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import Tensor

from fourreal.evaluation.drawing import draw_scene, excerpt, montage
from fourreal.evaluation.evaluated_models import (
    ReconstructorModel,
    Sampling,
    generate_grid,
    reconstruction_model,
    video_model,
)
from fourreal.evaluation.examples import examples
from fourreal.evaluation.report import Report
from fourreal.files.media import write_image
from fourreal.grid import spaced_times
from fourreal.metrics.learned import Learned, LearnedMetrics
from fourreal.metrics.pixels import color_shares, psnr, smoothness

SHOWN_PIXELS = 0.004  # of a frame in an object's colour
SHOWN_CELLS = 0.75  # of the grid
PICTURED = 16  # grids in the montage


@dataclass
class TextEvaluation(LearnedMetrics, ReconstructorModel, Sampling):
    """From text alone: does the grid show the objects of the prompt, and do its views agree?

    The prompts are the captions of the scenes, or --prompts.
    """

    prompts: tuple[str, ...] = ()
    """Prompts to use instead of the captions of the scenes."""
    num_inference_steps: Annotated[int, tyro.conf.arg(aliases=["--steps"])] = 10
    """Sampling steps of each stage."""
    times: int = 3
    """Times that are reconstructed."""
    montage: Path | None = None
    """Picture to write of the first 16 grids: two views of each, four times across."""


def score_colors(frames: Tensor, prompt: str) -> dict[str, float]:
    """Which of the colours that a prompt names (white left out) a grid [V, T, 3, H, W] shows.

    cells: the share of cells that show a colour, in the mean over the colours; colors: the share of
    colours that enough cells show; prompts: 1 where that is all of them, else 0. NaN when the
    prompt names none.
    """
    named = {c: s for c, s in color_shares(frames).items() if c in prompt.lower().split()}
    if not named:
        return dict.fromkeys(("cells", "colors", "prompts"), float("nan"))
    cells = [float((share > SHOWN_PIXELS).float().mean()) for share in named.values()]
    shown = [share >= SHOWN_CELLS for share in cells]
    return {
        "cells": sum(cells) / len(cells),
        "colors": sum(shown) / len(shown),
        "prompts": float(all(shown)),
    }


def prompts_of(config: TextEvaluation) -> Iterator[tuple[str, Tensor | None]]:
    """The prompts, and the exact frames [V, T, 3, H, W] of those that are captions."""
    if config.prompts:
        for prompt in config.prompts:
            yield prompt, None
    else:
        for example in examples(config):
            yield example.caption, example.frames


def evaluate_text(config: TextEvaluation) -> dict[str, Any]:
    """Generate grids from text alone and score what they show; printed as a table.

    With captions as prompts, the exact frames of the same scenes are scored alike, as a bound.
    """
    pipeline, learned = video_model(config.model, config.device), Learned(config, config.device)
    reconstructor = reconstruction_model(config.reconstructor, config.device)
    report, pictures = Report(), []
    times = spaced_times(config.times, config.num_frames)

    def score(name: str, frames: Tensor, prompt: str) -> None:
        report.add(score_colors(frames, prompt), f"{name}/shown_")
        scene = reconstructor(frames[:, times], split=None).scene
        cameras = scene.extrinsics, scene.intrinsics
        views = draw_scene(scene, list(range(len(times))), cameras, reconstructor.device)
        found = {"reconstructed_psnr": psnr(views, frames[:, times])}
        judged = learned.prompt(frames[:, times], prompt) | learned.views(frames)
        judged |= learned.video(frames[len(frames) // 2], prompt)
        report.add(found | judged | {"smooth_times": smoothness(frames, 1)}, f"{name}/")

    for index, (prompt, exact) in enumerate(prompts_of(config)):
        grid = generate_grid(pipeline, config, index, prompt)
        if config.montage and index < PICTURED:
            pictures.append(excerpt(grid))
        score("generated", grid, prompt)
        if exact is not None:
            score("exact", exact, prompt)
            learned.watch("generated", grid, exact)
    report.of_all = learned.of_all()
    if config.montage:
        write_image(config.montage, montage(pictures))
    return report.finish(config)
