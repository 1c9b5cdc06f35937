"""`fourreal evaluate video|reconstruction|split`: protocols on unseen procedural scenes.

Test seeds are disjoint from training and validation seeds (fourreal.scenes.scene_seed). Results are
printed as JSON: means over scenes with 95% intervals (1.96 standard errors).
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from fourreal import weights
from fourreal.cameras import relative_to_first, scale_intrinsics
from fourreal.evaluation.metrics import psnr
from fourreal.formats.atomic import atomic_path
from fourreal.gaussians import GaussianScene
from fourreal.rendering import render
from fourreal.scenes import Scene, SceneBatch, describe, make_scene, scene_seed

MOVED = 0.06  # a pixel has moved when a channel differs by more than this from time 0


@dataclass
class VideoEvaluation:
    """Score the embedded video model: given references, how close are the unseen cells?"""

    scenes: int = 32
    steps: int = 4
    """Sampling steps."""
    references: tuple[str, ...] = ("both",)
    """both, fixed_view, freeze_time."""
    split: str = "test"
    """validation while tuning, test to report."""
    size: int = 64
    out: Path | None = None
    """JSON file to write as well."""


@dataclass
class ReconstructionEvaluation:
    """Score the embedded reconstructor: held-out views of exact grids, cameras predicted."""

    scenes: int = 32
    times: int = 5
    """Times per scene, evenly spaced over 29."""
    split: str = "test"
    """validation while tuning, test to report."""
    size: int = 64
    weights: Path | None = None
    """A reconstructor file; the embedded one by default."""
    out: Path | None = None
    """JSON file to write as well."""


@dataclass
class SplitEvaluation:
    """Score the split into static and dynamic Gaussians on grids with exact depth and cameras."""

    scenes: int = 16
    num_views: int = 4
    num_frames: int = 9
    split: str = "test"
    """validation while tuning, test to report."""
    size: int = 64
    out: Path | None = None
    """JSON file to write as well."""


def summarise(values: list[float]) -> dict[str, float]:
    """Mean and 95% half-interval of the finite values."""
    kept = torch.tensor([v for v in values if v == v])
    half = 1.96 * kept.std() / len(kept) ** 0.5 if len(kept) > 1 else torch.tensor(0.0)
    return {"mean": round(float(kept.mean()), 3), "interval": round(float(half), 3)}


def moving_region(frames: Tensor) -> Tensor:
    """Mask [V, T, H, W] of pixels that differ from their view's time 0, dilated by 2 pixels."""
    moved = (frames - frames[:, :1]).abs().amax(2) > MOVED
    return F.max_pool2d(moved.float().flatten(0, 1)[:, None], 5, 1, 2)[:, 0].bool().view_as(moved)


def score_video(generated: Tensor, exact: Tensor) -> dict[str, float]:
    """PSNR on the unseen cells (not row 0, not column 0), of the whole frame and of the moving
    region, for the generated grid and for the two copies a user could make without a model."""
    unseen = (slice(1, None), slice(1, None))
    region = moving_region(exact)[unseen]
    grids = {
        "generated": generated,
        "fixed_view_copy": exact[:1].expand_as(exact),
        "freeze_time_copy": exact[:, :1].expand_as(exact),
    }
    scores = {}
    for name, grid in grids.items():
        scores[f"{name}_full"] = psnr(grid[unseen], exact[unseen])
        scores[f"{name}_moving"] = psnr(grid[unseen], exact[unseen], region)
    best = max(scores["fixed_view_copy_moving"], scores["freeze_time_copy_moving"])
    scores["gain_on_moving"] = scores["generated_moving"] - best
    return scores


def _add(scores: dict[str, list[float]], found: dict[str, float], prefix: str = "") -> None:
    """Append what was found to the lists of the same names."""
    for name, value in found.items():
        scores.setdefault(prefix + name, []).append(value)


def _finish(scores: dict[str, list[float]], config) -> dict:
    result = {
        "settings": json.loads(json.dumps(asdict(config), default=str)),
        "scores": {name: summarise(values) for name, values in scores.items()},
    }
    text = json.dumps(result, indent=1)
    print(text)
    if config.out:
        with atomic_path(config.out) as temporary:
            Path(temporary).write_text(text)
    return result


def evaluate_video(config: VideoEvaluation) -> dict:
    """Generate grids from the references of exact scenes and score them; also printed as JSON."""
    from fourreal.video.embedded import load_embedded_pipeline

    pipeline = load_embedded_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    scores: dict[str, list[float]] = {}
    for index in tqdm(range(config.scenes), desc="video"):
        scene = make_scene(scene_seed(config.split, index), 8, 29, config.size, config.size)
        for given in config.references:
            grid = pipeline(
                scene.caption,
                num_views=8,
                num_frames=29,
                height=config.size,
                width=config.size,
                fixed_view=scene.frames[0] if given != "freeze_time" else None,
                freeze_time=scene.frames[:, 0] if given != "fixed_view" else None,
                num_inference_steps=config.steps,
                generator=torch.Generator().manual_seed(index),
            ).frames
            _add(scores, score_video(grid, scene.frames), f"{given}/")
    return _finish(scores, config)


ENLARGED = 4  # Gaussians must close up when they are drawn larger than the input, too


def score_reconstruction(
    reconstructor, scene: Scene, time: int, enlarged: Tensor | None = None
) -> dict[str, float]:
    """Reconstruct one time from every other view and render the views between them.

    enlarged [4, 3, H', W']: those views drawn with more pixels, to compare with as well.

    As in the paper, the cameras of inputs and held-out views are predicted together, so that they
    lie in one frame of reference; depth and Gaussians come from the input views alone.
    """
    frames = scene.frames[:, time]
    inputs, held_out = list(range(0, 8, 2)), list(range(1, 8, 2))
    together = reconstructor.predict_geometry(frames)
    cameras = together.extrinsics[inputs], together.intrinsics[inputs]
    reconstruction = reconstructor(frames[inputs][:, None], cameras=cameras)
    height, width = frames.shape[-2:]

    def held_out_psnr(exact: Tensor) -> float:
        large, wide = exact.shape[-2:]
        intrinsics = scale_intrinsics(together.intrinsics[held_out], wide / width, large / height)
        rendering = render(
            reconstruction.scene.at(0), together.extrinsics[held_out], intrinsics, wide, large
        )
        return psnr(rendering.color.movedim(-1, 1).clamp(0, 1), exact)

    scores = {"held_out_psnr": held_out_psnr(frames[held_out])}
    if enlarged is not None:
        scores["held_out_psnr_enlarged"] = held_out_psnr(enlarged)
    exact_depth = scene.depth[inputs, time]
    depth_error = (reconstruction.depth[:, 0] / exact_depth - 1).abs().mean()
    exact = relative_to_first(scene.extrinsics)
    turn = together.extrinsics[..., :3] @ exact[..., :3].transpose(-1, -2)
    cosine = (turn.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return scores | {
        "depth_relative_error": float(depth_error),
        "rotation_error_degrees": float(cosine.clamp(-1, 1).acos()[1:].mean().rad2deg()),
    }


def evaluate_reconstruction(config: ReconstructionEvaluation) -> dict:
    """Score held-out views, and the stability over time, of exact grids; also printed as JSON."""
    from fourreal.evaluation.stability import score_stability
    from fourreal.reconstruction import Reconstructor

    path = config.weights or weights.folder() / "reconstructor.safetensors"
    reconstructor = Reconstructor.from_file(path)
    scores: dict[str, list[float]] = {}
    for index in tqdm(range(config.scenes), desc="reconstruction"):
        seed, large = scene_seed(config.split, index), ENLARGED * config.size
        scene = make_scene(seed, 8, 29, config.size, config.size)
        times = torch.linspace(0, 28, config.times).round().long().tolist()
        held_out = SceneBatch([describe(seed, 8, 29)]).select([1, 3, 5, 7], times)
        with torch.no_grad():
            enlarged = held_out.draw(large, large)[0]  # [4, T, 3, H', W']
        for k, time in enumerate(times):
            _add(scores, score_reconstruction(reconstructor, scene, time, enlarged[:, k]))
        if len(times) > 1:
            still = scene.frames[::2, times]
            _add(scores, score_stability(reconstructor, still, still))
    return _finish(scores, config)


def score_split(scene: Scene) -> dict[str, float]:
    """What the split saves and costs: the share of Gaussians that are not stored, and the change in
    PSNR at the input views, of whole frames and of the pixels that move, in dB."""
    from fourreal.reconstruction import Filters, StaticSplit
    from fourreal.reconstruction.emission import Maps, emit_gaussians

    num_times, (height, width) = scene.frames.shape[1], scene.frames.shape[-2:]
    depth = scene.depth.transpose(0, 1)
    maps = Maps(None, depth, torch.full_like(depth, 2.0), None)
    cameras = scene.extrinsics, scene.intrinsics
    times = sorted({round(k * (num_times - 1) / 4) for k in range(5)})
    exact, moving = scene.frames[:, times], scene.moving[:, times]

    def score(split: StaticSplit | None) -> tuple[int, float, float]:
        static, dynamic = emit_gaussians(
            "none", scene.frames.transpose(0, 1), maps, torch.ones(num_times), cameras, Filters(),
            split,
        )  # fmt: skip
        built = GaussianScene(static, dynamic, *cameras, width, height)
        shown = [render(built.at(t), *cameras, width, height).color for t in times]
        shown = torch.stack(shown, 1).movedim(-1, 2).clamp(0, 1)
        return built.num_gaussians, psnr(shown, exact), psnr(shown, exact, moving)

    (all_of_them, *before), (kept, *after) = score(None), score(StaticSplit())
    return {
        "fewer_gaussians": 1 - kept / all_of_them,
        "psnr_change": after[0] - before[0],
        "moving_psnr_change": after[1] - before[1],
    }


def evaluate_split(config: SplitEvaluation) -> dict:
    """Score the split on exact grids; also printed as JSON."""
    scores: dict[str, list[float]] = {}
    for index in tqdm(range(config.scenes), desc="split"):
        seed = scene_seed(config.split, index)
        scene = make_scene(seed, config.num_views, config.num_frames, config.size, config.size)
        _add(scores, score_split(scene))
    return _finish(scores, config)
