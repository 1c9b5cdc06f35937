"""`fourreal ablate video|sampling|reconstruction`: what each idea earns (paper, section 5.3).

Variants are trained alike, from one base and with the same seed, so the same examples and noise,
and scored on the same scenes; what differs is also given scene by scene, whose intervals are
narrower than those of the means.
"""

import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from fourreal import weights
from fourreal.bars import each
from fourreal.data.cache import SceneCache
from fourreal.data.grids import DataConfig
from fourreal.evaluation.evaluate_reconstruction import score_times
from fourreal.evaluation.evaluate_text import TextEvaluation, evaluate_text
from fourreal.evaluation.evaluate_video import VideoEvaluation, evaluate_video
from fourreal.evaluation.evaluated_models import (
    ReconstructorModel,
    VideoModel,
    reconstruction_model,
)
from fourreal.evaluation.examples import Evaluation, examples
from fourreal.evaluation.prompt_score import PARTS
from fourreal.evaluation.report import Report, compare
from fourreal.files.json_files import write_text
from fourreal.files.media import write_video
from fourreal.grid import spaced_times
from fourreal.training.loop import LoopConfig
from fourreal.training.train_reconstructor import ReconstructorConfig, train_reconstructor
from fourreal.training.video_config import VideoConfig

Variant = Literal["fused", "fused-sum", "sequential", "parallel-hard", "parallel-soft", "pseudo-4d"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
VIDEO_SCORES = tuple(
    f"{given}/generated/{score}"
    for given in ("both", "fixed_view")
    for score in ("psnr", "psnr_moving", "sharpness", "parallax_error")
)
SAMPLING_SCORES = VIDEO_SCORES[:4]
TEXT_SCORES = tuple(f"generated/{part}" for part in ("prompt", *PARTS))
# The temporal layers of the dynamic stage, and whether camera tokens are replaced.
RECONSTRUCTIONS: dict[str, tuple[Literal["token", "none"], bool]] = {
    "full": ("token", True),
    "without camera token replacement": ("token", False),
    "without temporal attention": ("none", True),
}
RECONSTRUCTION_SCORES = ("held_out_psnr", "held_out_psnr_moving", "held_out_ssim", "flicker")
PSEUDO_4D_SHARE = 30.0  # percent of the examples
PSEUDO_4D_VIDEOS = 200
SHIFT = 8.0  # of timesteps


@dataclass
class VideoAblation(Evaluation):
    """View-time attention in the ways it can be done, and pseudo-4D data, trained alike.

    First a model of single videos is trained, from nothing; each variant goes on from it with all
    views.
    """

    num_views: Annotated[int, tyro.conf.arg(aliases=["--views"])] = 4
    num_frames: Annotated[int, tyro.conf.arg(aliases=["--frames"])] = 13
    variants: tuple[Variant, ...] = VARIANTS
    """Architectures, the first being what the others are compared with; pseudo-4d is fused,
    trained on warped videos as well."""
    num_inference_steps: Annotated[int, tyro.conf.arg(aliases=["--steps"])] = 4
    """Sampling steps of the grids that are scored."""
    folder: Path = Path("out/ablations")
    """Where the runs live. Finished ones are not repeated, an interrupted one goes on."""
    base_steps: int = 1600
    """Training steps of the model of single videos, of 16 videos each."""
    train_steps: int = 800
    """Training steps of each variant, of 2 grids each."""
    learning_rate: float = 1e-3
    training_scenes: int = 1000
    cache: Path = Path("out/train/scenes")
    autoencoder: Path | None = None
    """An autoencoder file (default: the package's)."""
    seed: int = 0


@dataclass
class SamplingAblation(VideoModel):
    """Sampling steps with both references, and guidance from text alone, of one model. Without
    values for either, that table is left out. A choice is made on validation scenes."""

    split: Literal["validation", "test"] = "validation"

    step_counts: tuple[int, ...] = (1, 4, 8, 16, 40)
    """Numbers of sampling steps to compare."""
    guidance_scales: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 6.0)
    """Text guidance to compare."""
    text_steps: int = 10
    """Sampling steps from text."""


@dataclass
class ReconstructionAblation(ReconstructorModel, Evaluation):
    """The dynamic stage of the reconstructor with temporal layers and without, trained alike, and
    the first without camera token replacement: held-out views at several times together."""

    times: int = 4
    """Times per scene, evenly spaced, in training and evaluation."""
    folder: Path = Path("out/ablations")
    """Where the runs live. Finished ones are not repeated."""
    train_steps: int = 300
    """Training steps of each variant, of 2 scenes each."""
    learning_rate: float = 1e-3
    seed: int = 0


def ordinary_videos(config: VideoAblation) -> Path:
    """A folder of videos of one camera each, of procedural scenes that the variants do not see."""
    folder = config.folder / "videos"
    scenes = SceneCache(config.cache, "train", 8, 29, config.height, config.width)
    for index in range(config.training_scenes, config.training_scenes + PSEUDO_4D_VIDEOS):
        path = folder / f"{index}.mp4"
        if not path.exists():
            write_video(path, scenes.frames(index, [index % 8])[0], 8.0)
            write_text(path.with_suffix(".txt"), scenes.caption(index))
    return folder


def train_variants(config: VideoAblation) -> dict[str, Path]:
    """The folders of the trained models, by variant."""
    from fourreal.training.train_video import train_video  # diffusers takes seconds

    data = DataConfig(
        scenes=config.training_scenes, cache=config.cache, height=config.height, width=config.width
    )
    autoencoder = config.autoencoder or weights.folder() / "autoencoder.safetensors"
    views, frames = config.num_views, config.num_frames

    def run(name: str, steps: int, batch_size: int, **options: Any) -> Path:
        out = config.folder / name
        out.mkdir(parents=True, exist_ok=True)
        shutil.copy(autoencoder, out / "autoencoder.safetensors")
        loop = LoopConfig(
            out,
            steps=steps,
            batch_size=batch_size,
            learning_rate=config.learning_rate,
            warmup_steps=min(50, steps // 4),
            ema_decay=0.99,
            seed=config.seed,
        )
        if not (out / "transformer.safetensors").is_file():
            train_video(
                VideoConfig(
                    loop, autoencoder=autoencoder, reverse_views=0.0, shift=SHIFT, **options
                )
            )
        return out

    # A first frame is the only reference of a single video. Positions need the grid's frames.
    base = run(
        "base",
        config.base_steps,
        16,
        data=data,
        grids=(f"1x{frames}",),
        grid_starts=(0.0,),
        reference_odds=(0.6, 0.0, 0.4, 0.0),
    )
    grid = {"grids": (f"{views}x{frames}",), "grid_starts": (0.0,), "start_from": base}
    folders: dict[str, Path] = {}
    for name in each("Training", config.variants):
        used, architecture = data, name
        if name == "pseudo-4d":
            shares = (0.0, 0.0, PSEUDO_4D_SHARE, 100 - PSEUDO_4D_SHARE)
            used = replace(data, videos=(ordinary_videos(config),), shares=shares)
            architecture = "fused"
        folders[name] = run(
            name,
            config.train_steps,
            2,
            data=used,
            architecture=architecture,
            reference_odds=(0.1, 0.3, 0.1, 0.5),
            **grid,
        )
    return folders


def ablate_video(config: VideoAblation) -> dict[str, dict]:
    """Train and score all variants; printed as a table."""
    results = {}
    folders = train_variants(config)
    for name in each("Scoring", list(folders)):
        evaluation = VideoEvaluation(
            **shared(config),
            num_inference_steps=config.num_inference_steps,
            references=("both", "fixed_view"),
            model=folders[name],
        )
        results[name] = evaluate_video(evaluation)
    return compare(config, results, VIDEO_SCORES)


def ablate_sampling(config: SamplingAblation) -> dict[str, dict]:
    """Score one model at each number of steps and guidance; printed as two tables."""
    common = shared(config) | {"model": config.model}
    results = {
        f"{steps} steps": evaluate_video(
            VideoEvaluation(**common, num_inference_steps=steps, references=("both",))
        )
        for steps in each("Number of steps", config.step_counts)
    }
    options = common | {"num_inference_steps": config.text_steps}
    texts = {
        f"guidance {scale:g}": evaluate_text(TextEvaluation(**options, guidance_scale=scale))
        for scale in each("Guidance", config.guidance_scales)
    }
    return compare(config, results, SAMPLING_SCORES) | compare(config, texts, TEXT_SCORES, "_text")


def ablate_reconstruction(config: ReconstructionAblation) -> dict[str, dict]:
    """Train and score all variants; printed as a table."""
    results = {}
    start = config.reconstructor or weights.folder() / "reconstructor.safetensors"
    for name in each("Variant", list(RECONSTRUCTIONS)):
        temporal, replaced = RECONSTRUCTIONS[name]
        out = config.folder / f"reconstructor-{temporal}"
        if not (file := out / "reconstructor.safetensors").is_file():
            loop = LoopConfig(
                out,
                steps=config.train_steps,
                batch_size=2,
                learning_rate=config.learning_rate,
                warmup_steps=min(20, config.train_steps // 4),
                ema_decay=0.98,
                seed=config.seed,
            )
            stage = ReconstructorConfig(
                loop,
                "dynamic",
                start,
                num_times=config.times,
                temporal=temporal,
                temporal_from_global=True,
            )
            train_reconstructor(stage)
        reconstructor, report = reconstruction_model(file, config.device), Report()
        times = spaced_times(config.times, config.num_frames)
        for example in examples(config):
            report.add(score_times(reconstructor, example.frames[:, times], replaced))
        results[name] = report.finish(replace(config, out=None))
    return compare(config, results, RECONSTRUCTION_SCORES)


def shared(config: Evaluation) -> dict[str, Any]:
    """The options of Evaluation itself, without the file to write."""
    names = {field.name for field in fields(Evaluation)} - {"out"}
    return {name: getattr(config, name) for name in names}
