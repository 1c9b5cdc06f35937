"""`fourreal evaluate text`: grids made from text alone, against what their prompts say."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from fourreal.carry import carry_first_time
from fourreal.evaluation.drawing import excerpt, marked, montage
from fourreal.evaluation.evaluated_models import (
    ReconstructorModel,
    Sampling,
    generate_grid,
    reconstruction_model,
    video_model,
)
from fourreal.evaluation.examples import examples
from fourreal.evaluation.prompt_score import MEASURED_MOTIONS, object_scores, prompt_scores
from fourreal.evaluation.report import Report
from fourreal.evaluation.rivals import (
    colored_squares,
    exact_and_rivals,
    is_new,
    nearest_training_grid,
    training_captions,
)
from fourreal.files.media import write_image
from fourreal.grid import spaced_times
from fourreal.metrics.learned import Learned, LearnedMetrics
from fourreal.metrics.pixels import gradient_energy

PICTURED = 16  # grids in the montage
LEARNED_TIMES = 3  # at which networks judge a grid


@dataclass
class TextEvaluation(LearnedMetrics, ReconstructorModel, Sampling):
    """From text alone: does the grid show the objects of the prompt, in colour, shape and motion?

    The prompts are the captions of scenes that no training scene has, or --prompts.
    """

    prompts: tuple[str, ...] = ()
    """Prompts to use instead of the captions of the scenes."""
    num_inference_steps: Annotated[int, tyro.conf.arg(aliases=["--steps"])] = 20
    """Sampling steps of each stage."""
    carry: bool = False
    """A row more: the grids with their first time carried into the others, as `fourreal generate`
    does it."""
    montage: Path | None = None
    """Picture to write of the first 16 grids: two views of each, four times across, and a bar
    below, green where the prompt is right and red where it is not."""


def prompts_of(config: TextEvaluation) -> Iterator[tuple[str, Tensor | None]]:
    """The prompts, and the exact frames [V, T, 3, H, W] of those that are captions; of procedural
    scenes those whose caption no training scene has."""
    if config.prompts:
        for prompt in config.prompts:
            yield prompt, None
        return
    seen = frozenset() if config.data else frozenset(training_captions())
    for example in examples(config, lambda caption: caption not in seen):
        yield example.caption, example.frames


class TextScores:
    """The scores of all rows, prompt by prompt; sizes of motion by row and kind, and how often each
    shape is told as each (the confusion matrix, which of exact grids is the classifier's own)."""

    def __init__(self) -> None:
        self.report = Report()
        self.sizes: dict[tuple[str, str], list[tuple[float, float]]] = {}
        self.exact_sizes: list[float] = []  # of the present prompt's exact grid
        self.told: dict[str, Counter[str]] = {}

    def add(self, row: str, frames: Tensor, prompt: str, sharp: float | None) -> None:
        """Score a row's grid, a prompt's exact grid before the others; sharp: the gradient energy
        of the exact grid, where there is one."""
        objects = object_scores(frames, prompt)
        if sharp is None or row == "exact":
            self.exact_sizes = [score.size if sharp else float("nan") for _, score in objects]
        found = prompt_scores(frames, objects)
        nothing = float("nan")
        found["new_prompt"] = found["prompt"] if is_new(prompt) else nothing
        if sharp is not None:
            found["sharpness"] = gradient_energy(frames) / sharp
        self.report.add(found, f"{row}/")
        for (named, score), of_exact in zip(objects, self.exact_sizes):
            pair = score.size, score.size / of_exact
            self.sizes.setdefault((row, named.motion), []).append(pair)
            self.told.setdefault(row, Counter())[f"{named.shape} told as {score.told}"] += 1

    def medians(self) -> dict[str, float]:
        """For each row and kind of motion, of what should move like that and has a path: the median
        size as a multiple of the median that the word means, and where there are exact grids, the
        median of its ratio to the size in the exact grid of the same prompt."""
        found = {}
        for (row, kind), pairs in sorted(self.sizes.items()):
            if kind in MEASURED_MOTIONS:
                of_word, of_exact = torch.tensor(pairs).nanmedian(0).values.tolist()
                found[f"{row}/size_of_{kind}"] = of_word
                found[f"{row}/size_of_{kind}_to_exact"] = of_exact
        return {name: size for name, size in found.items() if math.isfinite(size)}


def evaluate_text(config: TextEvaluation) -> dict[str, Any]:
    """Generate grids from text alone and score what they show; printed as a table.

    With captions as prompts, the exact frames of the same scenes are scored alike, as a bound, and
    beside them what a score must not mistake for them (see rivals).
    """
    pipeline, learned = video_model(config.model, config.device), Learned(config, config.device)
    reconstructor = config.carry and reconstruction_model(config.reconstructor, config.device)
    scores, pictures = TextScores(), []
    for index, (prompt, exact) in enumerate(prompts_of(config)):
        grid = generate_grid(pipeline, config, index, prompt)
        rows = {"generated": grid}
        if reconstructor:
            rows["carried"], _ = carry_first_time(reconstructor, grid, device=learned.device)
        if exact is not None:
            rows = exact_and_rivals(exact) | rows
            rows["colored_squares"] = colored_squares(prompt, exact)
            rows["nearest_training_scene"] = nearest_training_grid(prompt, exact)
            learned.watch("generated", grid, exact)
        sharp = None if exact is None else gradient_energy(exact)
        for name, frames in rows.items():
            scores.add(name, frames, prompt, sharp)
        times = spaced_times(LEARNED_TIMES, config.num_frames)
        judged = learned.prompt(grid[:, times], prompt) | learned.views(grid)
        judged |= learned.video(grid[len(grid) // 2], prompt)
        scores.report.add(judged, "generated/")
        if config.montage and index < PICTURED:
            right = scores.report.scores["generated/prompt"][-1]
            pictures.append(marked(excerpt(grid), right))
    scores.report.of_all = learned.of_all() | scores.medians()
    scores.report.notes["shapes"] = scores.told
    if config.montage:
        write_image(config.montage, montage(pictures))
    return scores.report.finish(config)
