"""`fourreal evaluate reconstruction|split|pipeline`: views that the reconstruction did not see."""

from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from fourreal.cameras import aligned_cameras, relative_to_first, scale_intrinsics
from fourreal.carry import carry_references
from fourreal.evaluation.drawing import draw_scene
from fourreal.evaluation.evaluated_models import (
    ReconstructorModel,
    Sampling,
    generate_grid,
    reconstruction_model,
    video_model,
)
from fourreal.evaluation.examples import Evaluation, examples
from fourreal.evaluation.report import Report
from fourreal.evaluation.rivals import blurred_rows
from fourreal.gaussians import Gaussians, GaussianScene
from fourreal.grid import spaced_times
from fourreal.metrics.learned import Learned, LearnedMetrics
from fourreal.metrics.pixels import gradient_energy, mean_psnr, moving_region, psnr, ssim
from fourreal.metrics.stability import camera_jitter, flicker, still_pixels
from fourreal.reconstruction import (
    Filters,
    Maps,
    Reconstruction,
    Reconstructor,
    StaticSplit,
)
from fourreal.reconstruction.alignment import baseline_scale, scales_over_time
from fourreal.reconstruction.pixels_to_gaussians import emit_gaussians, pixels_to_gaussians
from fourreal.rendering import render
from fourreal.scenes import Scene, SceneBatch, describe
from fourreal.training.warped_scenes import first_view_depth
from fourreal.warp import reference_cells

Cameras = tuple[Tensor, Tensor]  # extrinsics and intrinsics
ENLARGED = 2  # Gaussians must close up when they are drawn larger than the input, too
HELD_OUT = slice(1, None, 3)  # 1, 4, 7 and 10 of twelve views, as the paper's


@dataclass
class ReconstructionEvaluation(LearnedMetrics, ReconstructorModel, Evaluation):
    """Every other view of exact grids is held out; cameras are predicted, of all views together as
    in the paper, and from the inputs alone. Beside them, the depth of the first view's video."""

    times: int = 5
    """Times per scene, evenly spaced."""


@dataclass
class SplitEvaluation(Evaluation):
    """The split into static and dynamic Gaussians on grids with exact depth and cameras."""

    scenes: int = 16
    num_views: Annotated[int, tyro.conf.arg(aliases=["--views"])] = 4
    num_frames: Annotated[int, tyro.conf.arg(aliases=["--frames"])] = 9


@dataclass
class PipelineEvaluation(LearnedMetrics, ReconstructorModel, Sampling, Evaluation):
    """The whole method: from one video and one set of photos of 8 of 12 cameras, the grid of the 8
    is generated, gets what the references show of it, and is reconstructed; cameras 1, 4, 7 and 10
    show how good it is (paper, table 5).

    Beside it, the same without what the references show, and from these alone: photos wherever
    there is no video.
    """

    num_views: Annotated[int, tyro.conf.arg(aliases=["--views"])] = 12
    times: int = 4
    """Times that are reconstructed, evenly spaced from the first on, which is left out."""


def held_out_cameras(
    reconstructor: Reconstructor, frames: Tensor, inputs: list[int]
) -> tuple[Tensor, Tensor]:
    """Cameras of all views [V, 3, H, W], predicted together as in the paper, so that those of the
    held-out ones lie in the inputs' frame of reference: extrinsics [V, 3, 4] and intrinsics, in the
    order of `frames`."""
    order = inputs + [v for v in range(len(frames)) if v not in inputs]
    found = reconstructor(frames[order][:, None], detail=1)
    back = torch.tensor(order).argsort()
    return found.extrinsics[back], found.intrinsics[back]


def reconstructions_by_protocol(
    reconstructor: Reconstructor, frames: Tensor, inputs: list[int], held_out: list[int]
) -> dict[str, tuple[Reconstruction, Cameras]]:
    """Reconstructions from the input views of views [V, 3, H, W], and the held-out cameras.

    together: all cameras are predicted together, as in the paper, which helps the inputs too.
    inputs_alone: those of the inputs are predicted from these alone, as a user has them; the
    held-out ones of the first protocol are then brought into their world.
    """
    extrinsics, intrinsics = held_out_cameras(reconstructor, frames, inputs)
    images = frames[inputs][:, None]
    together = reconstructor(images, cameras=(extrinsics[inputs], intrinsics[inputs]))
    alone = reconstructor(images)
    aligned = aligned_cameras(extrinsics[held_out], extrinsics[inputs], alone.extrinsics)
    return {
        "together": (together, (extrinsics[held_out], intrinsics[held_out])),
        "inputs_alone": (alone, (aligned, intrinsics[held_out])),
    }


def score_reconstruction(
    reconstructor: Reconstructor,
    frames: Tensor,
    enlarged: Tensor | None,
    scene: Scene | None,
    time: int,
    learned: Learned,
) -> dict[str, float]:
    """Reconstruct views [V, 3, H, W] of one time from every other one and render those between, by
    both protocols of the cameras.

    enlarged [V // 2, 3, 2 H, 2 W]: those views drawn with more pixels, to compare with as well;
    scene: exact geometry, where it is known. Depth and Gaussians come from the input views alone.
    """
    inputs, held_out = list(range(0, len(frames), 2)), list(range(1, len(frames), 2))
    protocols = reconstructions_by_protocol(reconstructor, frames, inputs, held_out)
    scores = score_rivals(frames, inputs, held_out)
    for protocol, (reconstruction, targets) in protocols.items():
        gaussians = reconstruction.scene.at(0).to(reconstructor.device)
        views = drawn_views(gaussians, targets, frames, 1)
        found = score_views(views, frames[held_out]) | learned.likeness(views, frames[held_out])
        if enlarged is not None:
            larger = drawn_views(gaussians, targets, frames, ENLARGED)
            found["psnr_enlarged"] = mean_psnr(larger[None], enlarged[None])
        if scene is not None:
            exact = scene.depth[inputs, time]
            found["depth_relative_error"] = depth_error(reconstruction.depth[:, 0], exact)
            found["rotation_error_degrees"] = rotation_error(
                reconstruction.extrinsics, scene.extrinsics[inputs]
            )
        scores |= {f"{protocol}/{name}": value for name, value in found.items()}
    return scores


def drawn_views(gaussians: Gaussians, cameras: Cameras, frames: Tensor, factor: int) -> Tensor:
    """Gaussians as cameras see them [V, 3, factor H, factor W], on the CPU; their intrinsics are in
    pixels of frames [..., H, W]."""
    height, width = (factor * size for size in frames.shape[-2:])
    intrinsics = scale_intrinsics(cameras[1], factor, factor)
    color = render(gaussians, cameras[0], intrinsics, width, height).color
    return color.movedim(-1, 1).clamp(0, 1).cpu()


def score_views(views: Tensor, wanted: Tensor) -> dict[str, float]:
    """psnr (mean over views), ssim and sharpness of views [V, 3, H, W]."""
    return {
        "psnr": mean_psnr(views[None], wanted[None]),
        "ssim": ssim(views, wanted),
        "sharpness": gradient_energy(views) / gradient_energy(wanted),
    }


def score_rivals(frames: Tensor, inputs: list[int], held_out: list[int]) -> dict[str, float]:
    """The same of exact and blurred held-out views of views [V, 3, H, W], of a copy of the first
    input, and of the best that costs no model: a copy of the neighbour, or the mean of both."""
    wanted = frames[held_out]
    before = [max(v for v in inputs if v < h) for h in held_out]
    after = [min((v for v in inputs if v > h), default=inputs[-1]) for h in held_out]
    rows = {"exact": wanted, "still_copy": frames[:1].expand_as(wanted)}
    rows |= blurred_rows(wanted)
    found = {name: score_views(row, wanted) for name, row in rows.items()}
    free = (frames[before], frames[after], (frames[before] + frames[after]) / 2)
    found["best_copy"] = max((score_views(c, wanted) for c in free), key=lambda s: s["psnr"])
    return {f"{name}/{key}": value for name, own in found.items() for key, value in own.items()}


def depth_error(depth: Tensor, exact: Tensor) -> float:
    """The mean relative error of depth maps of one shape."""
    return float((depth / exact - 1).abs().mean())


def rotation_error(extrinsics: Tensor, exact: Tensor) -> float:
    """The mean angle in degrees between predicted and exact cameras [V, 3, 4], relative to the
    first ones."""
    found, wanted = relative_to_first(extrinsics), relative_to_first(exact)
    turn = found[..., :3] @ wanted[..., :3].transpose(-1, -2)
    cosine = (turn.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return float(cosine.clamp(-1, 1).acos()[1:].mean().rad2deg())


def score_times(reconstructor: Reconstructor, frames: Tensor, replaced: bool) -> dict[str, float]:
    """Reconstruct every other view of frames [V, T, 3, H, W] at all times together, and render the
    views between with the cameras of the first time.

    replaced: with camera token replacement, or else with the cameras that each time has on its own.
    Both as the network says, unadjusted.
    """
    inputs, held_out = list(range(0, len(frames), 2)), list(range(1, len(frames), 2))
    extrinsics, intrinsics = reconstructor.predict_cameras(frames[inputs + held_out])
    cameras, targets = slice(len(inputs)), slice(len(inputs), None)
    target = extrinsics[0, targets], intrinsics[0, targets]
    num_times = frames.shape[1]

    def shown(camera_time: int, times: list[int]) -> Tensor:
        own = extrinsics[camera_time, cameras].clone()
        own[..., 3] *= baseline_scale(extrinsics[0], extrinsics[camera_time])
        given = own, intrinsics[camera_time, cameras]
        plain: dict[str, Any] = {"window": num_times, "adjust": False, "detail": 1}
        found = reconstructor(frames[inputs], cameras=given, split=None, **plain)
        return draw_scene(found.scene, times, target, reconstructor.device)

    times = range(num_times)
    parts = [shown(0, list(times))] if replaced else [shown(t, [t]) for t in times]
    views, wanted = torch.cat(parts, 1), frames[held_out]
    return {
        "held_out_psnr": mean_psnr(views, wanted),
        "held_out_psnr_moving": mean_psnr(views, wanted, moving_region(wanted)),
        "held_out_ssim": ssim(views, wanted),
        "flicker": flicker(views, still_pixels(wanted)),
    }


@torch.no_grad()
def score_stability(reconstructor: Reconstructor, frames: Tensor) -> dict[str, float]:
    """Flicker at frames [V, T, 3, H, W] of still cameras, reconstructed with camera token
    replacement and, as `..._without`, with the cameras that each time has on its own, which jitter.

    All pixels of every time are kept, and rendered from the cameras of the first time.
    """
    fit = reconstructor.fit(frames)
    fitted = fit.images(frames)
    images = fitted.transpose(0, 1)  # [T, V, 3, h, w]
    head, device = reconstructor.model.config.gaussian_head, reconstructor.device
    trained = reconstructor.model.aggregator.temporal_is_trained()
    scores = {}
    for name, replaced in (("", True), ("_without", False)):
        maps = reconstructor.predict(images, camera_replacement=replaced)
        if not trained:
            maps = maps.scaled(scales_over_time(maps, images, device))
        extrinsics, intrinsics = reconstructor.cameras(maps.pose_encodings, fit)
        if not replaced:  # replaced cameras are in the unit of the first time
            moved = extrinsics[..., 3:] * maps.scales[:, None, None, None]
            extrinsics = torch.cat([extrinsics[..., :3], moved], -1)
            scores["camera_jitter_without"] = camera_jitter(extrinsics)
        extrinsics, intrinsics, shown = extrinsics.to(device), intrinsics.to(device), []
        for time in range(len(maps)):
            cameras, now = (extrinsics[time], intrinsics[time]), maps[time : time + 1].to(device)
            gaussians = pixels_to_gaussians(head, images[time].to(device), now, cameras)
            color = render(gaussians, extrinsics[0], intrinsics[0], fit.width, fit.height).color
            shown.append(color.movedim(-1, 1).clamp(0, 1).cpu())
        scores[f"flicker{name}"] = flicker(torch.stack(shown, 1), still_pixels(fitted))
    return scores


def evaluate_reconstruction(config: ReconstructionEvaluation) -> dict[str, Any]:
    """Score held-out views, and the stability over time, of exact grids; printed as a table."""
    reconstructor = reconstruction_model(config.reconstructor, config.device)
    learned, report = Learned(config, config.device), Report()
    count = config.num_frames
    times = spaced_times(config.times, count)
    for example in examples(config):
        enlarged: list[Tensor | None] = [None] * len(times)
        if example.scene:
            description = describe(example.scene.seed, config.num_views, count)
            batch = SceneBatch([description]).select(list(range(1, config.num_views, 2)), times)
            batch = batch.to(reconstructor.device)
            with torch.no_grad():
                drawn = batch.draw(ENLARGED * config.height, ENLARGED * config.width)
            enlarged = list(drawn[0].transpose(0, 1).cpu())
        found = [
            score_reconstruction(
                reconstructor, example.frames[:, time], large, example.scene, time, learned
            )
            for time, large in zip(times, enlarged)
        ]
        report.add({name: fmean(own[name] for own in found) for name in found[0]})
        if example.scene:
            depth, _ = first_view_depth(example.scene, reconstructor)
            error = depth_error(depth, example.scene.depth[:1])
            report.add({"one_view/depth_relative_error": error})
        if len(times) > 1:
            report.add(score_stability(reconstructor, example.frames[::2, times]))
            for name, replaced in (("", True), ("_without", False)):
                shown = score_times(reconstructor, example.frames[:, times], replaced)
                report.add({f"held_out_psnr_all_times{name}": shown["held_out_psnr"]})
    return report.finish(config)


def evaluate_pipeline(config: PipelineEvaluation) -> dict[str, Any]:
    """Score held-out views of the whole pipeline and of its references; printed as a table."""
    pipeline, learned = video_model(config.model, config.device), Learned(config, config.device)
    reconstructor = reconstruction_model(config.reconstructor, config.device)
    report = Report()
    held_out = list(range(config.num_views))[HELD_OUT]
    inputs = [v for v in range(config.num_views) if v not in held_out]
    times = spaced_times(config.times + 1, config.num_frames)
    for index, example in enumerate(examples(config)):
        exact = example.frames[inputs]
        wanted = example.frames[held_out][:, times[1:]]
        region = moving_region(example.frames[held_out])[:, times[1:]]
        given: dict[str, Any] = {"fixed_view": exact[0], "freeze_time": exact[:, 0]}
        grid = generate_grid(
            pipeline, config, index, example.caption, num_views=len(inputs), **given
        )
        copied = torch.cat([exact[:1], exact[1:, :1].expand_as(exact[1:])])
        extrinsics, intrinsics = held_out_cameras(reconstructor, example.frames[:, 0], inputs)
        cameras = extrinsics[inputs], intrinsics[inputs]
        targets = extrinsics[held_out], intrinsics[held_out]
        known = reference_cells((*exact.shape[:2], *exact.shape[-2:]), **given)
        assert known is not None
        carried, _ = carry_references(
            reconstructor, grid, known, cameras, device=reconstructor.device
        )
        made = {"generated": grid, "references": copied, "exact": exact, "carried": carried}
        grids = {name: frames[:, times] for name, frames in made.items()}
        for name, frames in grids.items():
            scene = reconstructor(frames, cameras=cameras, split=None).scene
            shown = list(range(1, len(times)))
            views = draw_scene(scene, shown, targets, reconstructor.device)
            found = score_shown(views, wanted, region) | learned.likeness(views, wanted)
            report.add(found, f"{name}/")
        rivals = pipeline_rivals(example.frames[:, times[1:]], exact[:, 0], inputs, held_out)
        for name, views in rivals.items():
            report.add(score_shown(views, wanted, region), f"{name}/")
    return report.finish(config)


def score_shown(views: Tensor, wanted: Tensor, region: Tensor) -> dict[str, float]:
    """Scores of views [V, T, 3, H, W], their moving region [V, T, H, W] among them."""
    moving = {"psnr_moving": mean_psnr(views, wanted, region)}
    return score_views(views.flatten(0, 1), wanted.flatten(0, 1)) | moving


def pipeline_rivals(
    frames: Tensor, photos: Tensor, inputs: list[int], held_out: list[int]
) -> dict[str, Tensor]:
    """What held-out views of frames [V, T, 3, H, W] could be taken for: themselves, blurred;
    and at all times the first of the photos of the input cameras [V, 3, H, W], and the mean of both
    neighbours' photos, which costs no model."""
    wanted = frames[held_out]
    last = len(inputs) - 1
    right = [next((i for i, v in enumerate(inputs) if v > h), last) for h in held_out]
    between = torch.stack([(photos[i - 1] + photos[i]) / 2 for i in right])[:, None]
    rows = {"exact_views": wanted, "still_copy": photos[:1, None].expand_as(wanted)}
    return rows | blurred_rows(wanted) | {"mean_of_neighbours": between.expand_as(wanted)}


def score_split(scene: Scene) -> dict[str, float]:
    """What the split saves and costs: the share of Gaussians that are not stored, and the change in
    PSNR at the input views, of whole frames and of the pixels that move, in dB."""
    num_times, (height, width) = scene.frames.shape[1], scene.frames.shape[-2:]
    cameras = scene.extrinsics, scene.intrinsics
    maps = Maps.known(scene.depth.transpose(0, 1), *cameras)
    times = spaced_times(5, num_times)
    exact, moving = scene.frames[:, times], scene.moving[:, times]

    def score(split: StaticSplit | None) -> tuple[int, float, float]:
        images = scene.frames.transpose(0, 1)
        static, dynamic, _ = emit_gaussians("none", images, maps, cameras, Filters(), split)
        built = GaussianScene(static, dynamic, *cameras, width, height)
        shown = draw_scene(built, times, cameras)
        return built.num_gaussians, psnr(shown, exact), psnr(shown, exact, moving)

    (all_of_them, *before), (kept, *after) = score(None), score(StaticSplit())
    return {
        "fewer_gaussians": 1 - kept / all_of_them,
        "psnr_change": after[0] - before[0],
        "moving_psnr_change": after[1] - before[1],
    }


def evaluate_split(config: SplitEvaluation) -> dict[str, Any]:
    """Score the split on exact grids; printed as a table."""
    if config.data:
        raise ValueError("the split needs exact depth, which only procedural scenes have here.")
    report = Report()
    for example in examples(config):
        assert example.scene is not None  # without a folder of clips, examples are scenes
        report.add(score_split(example.scene))
    return report.finish(config)
