"""What is evaluated on, and the report: means with 95% intervals as JSON and as a table."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from fourreal import weights
from fourreal.files.atomic import atomic_path
from fourreal.gaussians import GaussianScene
from fourreal.rendering import render
from fourreal.scenes import Scene, make_scene, scene_seed


@dataclass
class Evaluation:
    """Options that all evaluations share."""

    scenes: int = 32
    """Number of scenes, or of clips at most."""
    num_views: int = 8
    num_frames: int = 29
    split: str = "test"
    """Of the procedural scenes: validation while tuning, test to report."""
    data: Path | None = None
    """A folder of synchronised clips of still cameras instead of procedural scenes: plain (as
    Neural 3D Video's), or of NVIDIA Dynamic's, SynCamVideo's or Kubric-4D's layout."""
    caption: str = ""
    """Caption of clips that have none of their own."""
    height: int = 64
    width: int = 64
    out: Path | None = None
    """JSON file to write as well, and a table beside it (.md)."""


@dataclass
class VideoModel:
    """Options of evaluations that generate, or encode."""

    video: Path | None = None
    """A folder of models, embedded or of diffusers, instead of the package's."""


@dataclass
class Sampling(VideoModel):
    """Options of evaluations that generate."""

    steps: int = 4
    """Sampling steps."""
    guidance: float | None = None
    """Guidance scale; by default the model's, and 1 with both references."""
    staged: bool | None = None
    """Generate missing references before the rest; by default as the model was trained."""


@dataclass
class ReconstructorModel:
    """Options of evaluations that reconstruct."""

    reconstructor: Path | None = None
    """A reconstructor file instead of the package's."""


@dataclass
class Example:
    """Exact frames [V, T, 3, H, W] in [0, 1], their caption, and geometry where it is known."""

    frames: Tensor
    caption: str
    scene: Scene | None


def examples(config: Evaluation) -> Iterator[Example]:
    """The scenes or clips of an evaluation.

    Raises ValueError when the folder's clips cannot be used, when there are none, and for a wrong
    split.
    """
    if config.scenes < 1:
        raise ValueError(f"scenes is {config.scenes}, but must be at least 1.")
    if config.data is None:
        for index in tqdm(range(config.scenes)):
            seed = scene_seed(config.split, index)
            scene = make_scene(
                seed, config.num_views, config.num_frames, config.height, config.width
            )
            yield Example(scene.frames, scene.caption, scene)
        return
    from fourreal.data.clips import find_clips, read_window
    from fourreal.files.media import fit_frames

    clips, problems = find_clips(
        "multiview", config.data, config.num_views, config.num_frames, config.caption
    )
    if problems or not clips:
        found = "; ".join(problems[:5]) or f"{config.data} holds no clips"
        raise ValueError(f"{found}. An evaluation needs all of its clips.")
    for clip in tqdm(clips[: config.scenes]):
        size = config.num_frames, config.height, config.width
        views = [read_window(view, 0, config.num_frames) for view in clip.views[: config.num_views]]
        frames = torch.stack([fit_frames(view, *size) for view in views])
        yield Example(frames, clip.caption, None)


def video_model(folder: Path | None):
    """A pipeline from a folder of embedded models (by default the package's) or of diffusers."""
    from fourreal.video import ViewTimePipeline, load_embedded_pipeline

    if folder and (folder / "model_index.json").is_file():
        pipeline = ViewTimePipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    else:
        pipeline = load_embedded_pipeline(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to("cuda") if torch.cuda.is_available() else pipeline


def reconstruction_model(file: Path | None):
    """The reconstructor of a file, by default the embedded one."""
    from fourreal.reconstruction import Reconstructor

    device = "cuda" if torch.cuda.is_available() else None
    file = file or weights.folder() / "reconstructor.safetensors"
    return Reconstructor.from_file(file, device=device)


def generate(
    pipeline, config, index: int, caption: str, num_views: int, **references: Tensor | None
) -> Tensor:
    """The grid [V, T, 3, H, W] of example `index`; references: fixed_view, freeze_time.

    config: an Evaluation with Sampling.
    """
    return pipeline(
        caption,
        num_views=num_views,
        num_frames=config.num_frames,
        height=config.height,
        width=config.width,
        num_inference_steps=config.steps,
        guidance_scale=config.guidance,
        staged=config.staged,
        generator=torch.Generator().manual_seed(index),
        **references,
    ).frames


def draw(scene: GaussianScene, times: list[int], cameras: tuple[Tensor, Tensor]) -> Tensor:
    """A scene at some times from cameras (extrinsics [V, 3, 4], intrinsics [V, 3, 3]) of its size:
    [V, T, 3, H, W] in [0, 1]."""
    shown = render([scene.at(t) for t in times], *cameras, scene.width, scene.height).color
    return shown.transpose(0, 1).movedim(-1, 2).clamp(0, 1)


def mean_and_interval(values: list[float]) -> dict[str, float]:
    """Mean and 95% half-interval (1.96 standard errors) of the finite values."""
    kept = torch.tensor([v for v in values if abs(v) < float("inf")])
    half = 1.96 * kept.std() / len(kept) ** 0.5 if len(kept) > 1 else torch.tensor(0.0)
    return {"mean": round(float(kept.mean()), 3), "interval": round(float(half), 3)}


class Report:
    """Scores by name, one value per scene; `of_all`: those that are one number for all scenes."""

    def __init__(self):
        self.scores: dict[str, list[float]] = {}
        self.of_all: dict[str, float] = {}

    def add(self, found: dict[str, float], prefix: str = "") -> None:
        """Append what was found to the lists of the same names."""
        for name, value in found.items():
            self.scores.setdefault(prefix + name, []).append(value)

    def finish(self, config: Evaluation) -> dict:
        """{"settings", "scores", "values"}, the last being those of each scene; the scores are
        printed as a table, and written where the config says."""
        scores = {name: mean_and_interval(values) for name, values in self.scores.items()}
        scores |= {n: {"mean": round(v, 3), "interval": None} for n, v in self.of_all.items()}
        result = {"settings": settings_of(config), "scores": scores}
        rows = [f"| {name} | {shown(score)} |" for name, score in scores.items()]
        write_report(config.out, result, ["| score | mean and 95% interval |", "|---|---|", *rows])
        return result | {"values": self.scores}


def shown(score: dict[str, float]) -> str:
    """mean ± interval, where there is one"""
    if score["interval"] is None:
        return f"{score['mean']:g}"
    return f"{score['mean']:g} ± {score['interval']:g}"


def settings_of(config: Evaluation) -> dict:
    """The config as JSON has it."""
    return json.loads(json.dumps(asdict(config), default=str))


def write_report(out: Path | None, result: dict, table: list[str]) -> None:
    """Print the lines of a table; write the result as JSON, and the table beside it (.md)."""
    text = "\n".join(table)
    print(text)
    if out is None:
        return
    for path, content in ((out, json.dumps(result, indent=1)), (out.with_suffix(".md"), text)):
        with atomic_path(path) as temporary:
            Path(temporary).write_text(content + "\n")


def compare(
    config: Evaluation, results: dict[str, dict], columns: tuple[str, ...], suffix: str = ""
) -> dict:
    """A table with one row for each of the variants' results (of Report.finish, by name), and one
    column for each of the scores `columns`; printed, and written where the config says, `suffix`
    added to the file's name.

    The rows after the first also tell by how much they differ from it, scene by scene. Without
    results there is no table.
    """
    if not results:
        return {}
    first, *_ = results.values()
    rows, variants = [], {}
    for name, result in results.items():
        variants[name] = {"scores": {c: result["scores"][c] for c in columns}}
        cells = [shown(result["scores"][c]) for c in columns]
        if result is not first:
            pairs = {c: zip(result["values"][c], first["values"][c]) for c in columns}
            change = {c: mean_and_interval([a - b for a, b in both]) for c, both in pairs.items()}
            variants[name]["difference"] = change
            signed = (f"{d['mean']:+g} ± {d['interval']:g}" for d in change.values())
            cells = [f"{cell} ({change})" for cell, change in zip(cells, signed)]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    header = [f"| variant | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    out = config.out and config.out.with_stem(config.out.stem + suffix)
    result = {"settings": settings_of(config), "variants": variants}
    write_report(out, result, header + rows)
    return variants
