"""`fourreal ablate video|sampling|reconstruction`: what each idea earns (paper, section 5.3).

Variants are trained alike, from one base and with several seeds, of which each gives all of them
the same examples and noise, and scored on the same scenes. What differs is also given scene by
scene and seed by seed, with an interval that holds the chance of both.
"""

import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
import tyro

from fourreal import weights
from fourreal.bars import bar, each
from fourreal.data.grids import DataConfig
from fourreal.evaluation.evaluate_text import TextEvaluation, evaluate_text
from fourreal.evaluation.evaluate_video import (
    References,
    VideoEvaluation,
    evaluate_video,
    exact_parallax,
    score_grid,
)
from fourreal.evaluation.evaluated_models import (
    ReconstructorModel,
    Sampling,
    VideoModel,
    generate_grid,
    reconstruction_model,
    video_model,
)
from fourreal.evaluation.examples import Evaluation, examples
from fourreal.evaluation.prompt_score import PARTS
from fourreal.evaluation.report import Report, compare
from fourreal.evaluation.two_views import score_pairs
from fourreal.grid import spaced_times
from fourreal.reconstruction.checkpoint import load_model, save_model
from fourreal.training.loop import LoopConfig
from fourreal.training.train_reconstructor import ReconstructorConfig, train_reconstructor
from fourreal.training.video_config import VideoConfig

Variant = Literal["fused", "fused-sum", "sequential", "parallel-hard", "parallel-soft"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
GIVEN: tuple[References, ...] = ("both", "fixed_view")
VIDEO_SCORES = tuple(
    f"{given}/generated/{score}"
    for given in GIVEN
    for score in ("psnr", "psnr_moving", "parallax_right", "sharpness")
)
SAMPLING_SCORES = VIDEO_SCORES[:4]
TEXT_SCORES = tuple(f"generated/{part}" for part in ("prompt", *PARTS))
# The temporal layers of the dynamic stage, and whether camera tokens are replaced.
Temporal = Literal["token", "none"]
RECONSTRUCTIONS: dict[str, tuple[Temporal, bool]] = {
    "full": ("token", True),
    "without camera token replacement": ("token", False),
    "without temporal attention": ("none", True),
}
# The same where the pair of views changes: then no token is replaced, for each is of one camera.
CHANGING: dict[str, Temporal] = {"full": "token", "without temporal attention": "none"}
PAIR_SCORES = ("held_out_psnr", "held_out_psnr_moving", "held_out_ssim")
RECONSTRUCTION_SCORES = (*PAIR_SCORES, "flicker")
SHIFT = 8.0  # of timesteps
SEEDS = (0, 1, 2)


@dataclass
class VideoAblation(Evaluation):
    """View-time attention in the ways it can be done, trained alike: as in the paper, a model of
    single videos learns to make views by its self-attention alone.

    That model is trained first, from nothing and once; each variant goes on from it with all views,
    once for each seed.
    """

    num_views: Annotated[int, tyro.conf.arg(aliases=["--views"])] = 4
    num_frames: Annotated[int, tyro.conf.arg(aliases=["--frames"])] = 13
    variants: tuple[Variant, ...] = VARIANTS
    """Architectures, the first being what the others are compared with."""
    seeds: tuple[int, ...] = SEEDS
    """Seeds of the training runs of each variant."""
    num_inference_steps: Annotated[int, tyro.conf.arg(aliases=["--steps"])] = 4
    """Sampling steps of the grids that are scored."""
    folder: Path = Path("out/ablations")
    """Where the runs live. Finished ones are not repeated, an interrupted one goes on."""
    base_steps: int = 1200
    """Training steps of the model of single videos, of 16 videos each."""
    train_steps: int = 250
    """Training steps of each variant, of 2 grids each."""
    learning_rate: float = 1e-3
    training_scenes: int = 500
    cache: Path = Path("out/train/scenes")
    autoencoder: Path | None = None
    """An autoencoder file (default: the package's)."""


@dataclass
class SamplingAblation(VideoModel):
    """Sampling steps with both references, and guidance from text alone, of one model. Without
    values for either, that table is left out. A choice is made on validation scenes."""

    split: Literal["validation", "test"] = "validation"

    step_counts: tuple[int, ...] = (1, 4, 8, 16, 40)
    """Numbers of sampling steps to compare."""
    guidance_scales: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 6.0)
    """Text guidance to compare."""
    text_steps: int = 20
    """Sampling steps from text."""


@dataclass
class ReconstructionAblation(ReconstructorModel, Evaluation):
    """Two views at several times together: the dynamic stage of the reconstructor with temporal
    layers and without, trained alike, and the first without camera token replacement.

    The temporal layers of the given reconstructor are forgotten first. Once both views are the same
    at all times; once each time shows another pair, so that the other times see what it does not.
    """

    times: int = 4
    """Times per scene, evenly spaced, in training and evaluation."""
    seeds: tuple[int, ...] = SEEDS
    """Seeds of the training runs of each variant."""
    folder: Path = Path("out/ablations")
    """Where the runs live. Finished ones are not repeated."""
    train_steps: int = 150
    """Training steps of each variant, of a scene each."""
    learning_rate: float = 1e-3


def train_variants(config: VideoAblation) -> dict[str, list[Path]]:
    """The folders of the trained models, by variant, one for each seed."""
    from fourreal.training.train_video import train_video  # diffusers takes seconds

    data = DataConfig(
        scenes=config.training_scenes, cache=config.cache, height=config.height, width=config.width
    )
    autoencoder = config.autoencoder or weights.folder() / "autoencoder.safetensors"

    def run(name: str, seed: int, steps: int, batch_size: int, **options: Any) -> Path:
        out = config.folder / name
        out.mkdir(parents=True, exist_ok=True)
        shutil.copy(autoencoder, out / "autoencoder.safetensors")
        loop = LoopConfig(
            out,
            steps=steps,
            batch_size=batch_size,
            learning_rate=config.learning_rate,
            warmup_steps=min(50, steps // 4),
            ema_decay=0.98,
            seed=seed,
        )
        video = VideoConfig(
            loop, data, autoencoder=autoencoder, reverse_views=0.0, shift=SHIFT, **options
        )
        if not (out / "transformer.safetensors").is_file():
            train_video(video)
        text = out / "text_encoder.safetensors"
        if video.start_from and not text.is_file():  # it is not tuned
            shutil.copy(video.start_from / text.name, text)
        return out

    # A first frame is the only reference of a single video. Positions need the grid's frames.
    base = run(
        "base",
        0,
        config.base_steps,
        16,
        grids=(f"1x{config.num_frames}",),
        grid_starts=(0.0,),
        reference_odds=(0.6, 0.0, 0.4, 0.0),
    )
    runs = [(seed, name) for seed in config.seeds for name in config.variants]
    folders: dict[str, list[Path]] = {}
    for seed, name in each("Training", runs):
        out = run(
            f"{name}-{seed}",
            seed,
            config.train_steps,
            2,
            start_from=base,
            tune="attention",
            architecture=name,
            grids=(f"{config.num_views}x{config.num_frames}",),
            grid_starts=(0.0,),
            reference_odds=(0.1, 0.3, 0.1, 0.5),
        )
        folders.setdefault(name, []).append(out)
    return folders


def score_variants(config: VideoAblation, folders: dict[str, list[Path]]) -> dict[str, list[dict]]:
    """The results of all models, on the same scenes, each drawn once."""
    sampling = Sampling(**shared(config), num_inference_steps=config.num_inference_steps)
    models = {out: video_model(out, config.device) for runs in folders.values() for out in runs}
    reports = {out: Report() for out in models}
    for index, example in enumerate(examples(config)):
        exact = example.frames
        parallax = exact_parallax(exact, example.scene, exact.device)
        for given in GIVEN:
            freeze_time = exact[:, 0] if given == "both" else None
            references = {"fixed_view": exact[0], "freeze_time": freeze_time}
            for out, model in models.items():
                grid = generate_grid(model, sampling, index, example.caption, **references)
                reports[out].add(score_grid(grid.cpu(), exact, parallax), f"{given}/generated/")
    return {name: [reports[out].result(config) for out in runs] for name, runs in folders.items()}


def ablate_video(config: VideoAblation) -> dict[str, dict]:
    """Train and score all variants; printed as a table."""
    return compare(config, score_variants(config, train_variants(config)), VIDEO_SCORES)


def ablate_sampling(config: SamplingAblation) -> dict[str, dict]:
    """Score one model at each number of steps and guidance; printed as two tables."""
    common = shared(config) | {"model": config.model}
    results = {
        f"{steps} steps": [
            evaluate_video(
                VideoEvaluation(**common, num_inference_steps=steps, references=("both",))
            )
        ]
        for steps in each("Number of steps", config.step_counts)
    }
    options = common | {"num_inference_steps": config.text_steps}
    texts = {
        f"guidance {scale:g}": [evaluate_text(TextEvaluation(**options, guidance_scale=scale))]
        for scale in each("Guidance", config.guidance_scales)
    }
    return compare(config, results, SAMPLING_SCORES) | compare(config, texts, TEXT_SCORES, "_text")


def train_reconstructors(config: ReconstructionAblation) -> dict[str, list[Path]]:
    """The files of the trained models, by their temporal layers, one for each seed."""
    start = config.folder / "start.safetensors"
    model, _ = load_model(config.reconstructor or weights.folder() / "reconstructor.safetensors")
    model.aggregator.start_temporal_from_global()
    config.folder.mkdir(parents=True, exist_ok=True)
    save_model(model, start, torch.float16)
    runs = [(seed, temporal) for seed in config.seeds for temporal in get_args(Temporal)]
    files: dict[str, list[Path]] = {}
    for seed, temporal in each("Training", runs):
        out = config.folder / f"reconstructor-{temporal}-{seed}"
        files.setdefault(temporal, []).append(out / "reconstructor.safetensors")
        if files[temporal][-1].is_file():
            continue
        loop = LoopConfig(
            out,
            steps=config.train_steps,
            batch_size=1,
            learning_rate=config.learning_rate,
            warmup_steps=min(20, config.train_steps // 4),
            ema_decay=0.98,
            seed=seed,
        )
        stage = ReconstructorConfig(
            loop,
            "dynamic",
            start,
            fewest_views=2,
            most_views=2,
            num_times=config.times,
            changing_views=0.5,
            temporal=temporal,
        )
        train_reconstructor(stage)
    return files


def score_reconstructors(
    config: ReconstructionAblation, files: dict[str, list[Path]]
) -> tuple[dict[str, list[dict]], dict[str, list[dict]]]:
    """The results from one pair of views, and from another pair at each time, by variant."""
    times = spaced_times(config.times, config.num_frames)
    apart = config.num_views // 2
    middle = (config.num_views - apart) // 2
    one = [(middle, middle + apart)] * config.times
    starts = [time % (config.num_views - apart) for time in range(config.times)]
    others = [(first, first + apart) for first in starts]
    grids = [example.frames[:, times] for example in examples(config)]

    def score(file: Path, pairs: list[tuple[int, int]], replaced: bool) -> dict[str, Any]:
        reconstructor, report = reconstruction_model(file, config.device), Report()
        for frames in bar(grids, name=file.parent.name):
            report.add(score_pairs(reconstructor, frames, pairs, replaced))
        return report.result(config)

    still = {
        name: [score(file, one, replaced) for file in files[temporal]]
        for name, (temporal, replaced) in RECONSTRUCTIONS.items()
    }
    changing = {
        name: [score(file, others, False) for file in files[temporal]]
        for name, temporal in CHANGING.items()
    }
    return still, changing


def ablate_reconstruction(config: ReconstructionAblation) -> dict[str, dict]:
    """Train and score all variants; printed as two tables."""
    still, changing = score_reconstructors(config, train_reconstructors(config))
    compare(config, changing, PAIR_SCORES, "_pairs")
    return compare(config, still, RECONSTRUCTION_SCORES)


def shared(config: Evaluation) -> dict[str, Any]:
    """The options of Evaluation itself, without the file to write."""
    names = {field.name for field in fields(Evaluation)} - {"out"}
    return {name: getattr(config, name) for name in names}
