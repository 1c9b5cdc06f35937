"""`fourreal evaluate autoencoder|video|text`: grids that were encoded and decoded, or generated,
against exact ones, and against their prompt."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.evaluation.report import (
    Evaluation,
    ReconstructorModel,
    Report,
    Sampling,
    VideoModel,
    draw,
    examples,
    generate,
    reconstruction_model,
    video_model,
)
from fourreal.files.media import write_image
from fourreal.grid import contact_sheet, spaced_times
from fourreal.metrics.learned import Learned, LearnedMetrics
from fourreal.metrics.pixels import color_shares, psnr, smoothness, ssim, view_consistency
from fourreal.scenes import Scene

MOVED = 0.06  # a pixel has moved when a channel differs by more than this from time 0
EQUAL = 60.0  # dB of images that are equal, so that a mean exists
REFERENCES = ("both", "fixed_view", "freeze_time")
SHOWN_PIXELS = 0.004  # of a frame in an object's colour
SHOWN_CELLS = 0.75  # of the grid
MONTAGE = 16  # grids in one picture
COMPARED = 3  # of a picture that shows the exact ones as well


@dataclass
class AutoencoderEvaluation(VideoModel, Evaluation):
    """Exact grids, encoded and decoded."""


@dataclass
class VideoEvaluation(LearnedMetrics, Sampling, Evaluation):
    """Given references, how close are the unseen cells? (Paper, section 5.)"""

    references: tuple[str, ...] = REFERENCES
    """both, fixed_view, freeze_time."""
    montage: Path | None = None
    """Picture to write of the first 3 grids of the first references, the exact ones at the
    right: every second view, seven times across."""


@dataclass
class TextEvaluation(LearnedMetrics, ReconstructorModel, Sampling, Evaluation):
    """From text alone: does the grid show the objects of the prompt, and do its views agree?

    The prompts are the captions of the scenes, or --prompts.
    """

    prompts: tuple[str, ...] = ()
    steps: int = 10
    """Sampling steps."""
    times: int = 3
    """Times that are reconstructed."""
    montage: Path | None = None
    """Picture to write of the first 16 grids: two views of each, four times across."""


def evaluate_autoencoder(config: AutoencoderEvaluation) -> dict:
    """Score exact grids after encoding and decoding; printed as a table."""
    pipeline, report = video_model(config.video), Report()
    for example in examples(config):
        exact = example.frames
        with torch.no_grad():
            decoded = pipeline.decode_views(pipeline.encode_views(exact))
        report.add(
            {
                "psnr": psnr(decoded, exact),
                "ssim": ssim(decoded, exact),
                "decoded_smooth_times": smoothness(decoded, 1),
                "exact_smooth_times": smoothness(exact, 1),
            }
        )
    return report.finish(config)


def moving_region(frames: Tensor) -> Tensor:
    """Mask [V, T, H, W] of pixels that differ from their view's time 0, dilated by 2 pixels."""
    moved = (frames - frames[:, :1]).abs().amax(2) > MOVED
    return F.max_pool2d(moved.float().flatten(0, 1)[:, None], 5, 1, 2)[:, 0].bool().view_as(moved)


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


def score_agreement(name: str, frames: Tensor, scene: Scene | None) -> dict[str, float]:
    """Smoothness over times and views of a grid [V, T, 3, H, W] and, where the scene is known, the
    agreement of its views."""
    scores = {
        f"{name}_smooth_times": smoothness(frames, 1),
        f"{name}_smooth_views": smoothness(frames, 0),
    }
    if scene:
        geometry = scene.depth, scene.extrinsics, scene.intrinsics
        scores[f"{name}_view_consistency"] = view_consistency(frames, *geometry)
    return scores


def evaluate_video(config: VideoEvaluation) -> dict:
    """Generate grids from the references of exact ones and score them; printed as a table."""
    if wrong := [name for name in config.references if name not in REFERENCES]:
        raise ValueError(f"references are {', '.join(REFERENCES)}, but {wrong[0]!r} was given.")
    pipeline, learned = video_model(config.video), Learned(config)
    report, sheets = Report(), []
    for index, example in enumerate(examples(config)):
        exact = example.frames
        bound = score_agreement("exact", exact, example.scene)
        for given in config.references:
            grid = generate(
                pipeline,
                config,
                index,
                example.caption,
                config.num_views,
                fixed_view=exact[0] if given != "freeze_time" else None,
                freeze_time=exact[:, 0] if given != "fixed_view" else None,
            )
            found = score_agreement("generated", grid, example.scene)
            judged = learned.likeness(grid[1:, 1:], exact[1:, 1:]) | learned.views(grid)
            report.add(score_video(grid, exact) | found | bound | judged, f"{given}/")
            learned.watch(given, grid[1:], exact[1:])
            if config.montage and given == config.references[0] and index < COMPARED:
                pair = [contact_sheet(frames[::2], 7) for frames in (grid, exact)]
                sheets.append(torch.cat([F.pad(pair[0], (0, 6), value=1.0), pair[1]], -1))
    report.of_all = learned.of_all()
    if config.montage:
        write_image(config.montage, torch.cat(sheets, -2))
    return report.finish(config)


def score_colors(frames: Tensor, prompt: str) -> dict[str, float]:
    """Which of the colours that a prompt names (white left out) a grid [V, T, 3, H, W] shows: the
    share of them that enough cells show, and whether that is all of them; {} when it names none."""
    named = {c: s for c, s in color_shares(frames).items() if c in prompt.lower().split()}
    cells = [float((share > SHOWN_PIXELS).float().mean()) for share in named.values()]
    if not cells:
        return {}
    shown = [share >= SHOWN_CELLS for share in cells]
    return {
        "cells": sum(cells) / len(cells),
        "colors": sum(shown) / len(shown),
        "prompts": float(all(shown)),
    }


def evaluate_text(config: TextEvaluation) -> dict:
    """Generate grids from text alone and score what they show; printed as a table.

    With captions as prompts, the exact frames of the same scenes are scored alike, as a bound.
    """
    pipeline = video_model(config.video)
    reconstructor, learned = reconstruction_model(config.reconstructor), Learned(config)
    report = Report()
    times = spaced_times(config.times, config.num_frames)

    def score(name: str, frames: Tensor, prompt: str) -> None:
        report.add(score_colors(frames, prompt), f"{name}/shown_")
        scene = reconstructor(frames[:, times], split=None).scene
        views = draw(scene, list(range(len(times))), (scene.extrinsics, scene.intrinsics))
        found = {"reconstructed_psnr": psnr(views, frames[:, times])}
        judged = learned.prompt(frames[:, times], prompt) | learned.views(frames)
        judged |= learned.video(frames[len(frames) // 2], prompt)
        report.add(found | judged | {"smooth_times": smoothness(frames, 1)}, f"{name}/")

    def prompts():
        if config.prompts:
            for prompt in config.prompts:
                yield prompt, None
        else:
            for example in examples(config):
                yield example.caption, example.frames

    sheets = []
    for index, (prompt, exact) in enumerate(prompts()):
        grid = generate(pipeline, config, index, prompt, config.num_views)
        if config.montage and index < MONTAGE:
            views = spaced_times(2, config.num_views)
            sheets.append(F.pad(contact_sheet(grid[views], 4), (0, 8, 0, 8), value=1.0))
        score("generated", grid, prompt)
        if exact is not None:
            score("exact", exact, prompt)
            learned.watch("generated", grid, exact)
    report.of_all = learned.of_all()
    if config.montage:
        sheets += [torch.ones_like(sheets[0])] * (-len(sheets) % 4)
        rows = [torch.cat(sheets[i : i + 4], -1) for i in range(0, len(sheets), 4)]
        write_image(config.montage, torch.cat(rows, -2))
    return report.finish(config)
