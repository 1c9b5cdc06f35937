"""`fourreal train reconstructor`: a small VGGT with a Gaussian head on procedural scenes.

Stages, as the paper's (section 4 and supplement) with one before them because this backbone starts
from nothing: `geometry` trains backbone, cameras and depth on exact geometry; `static` freezes the
backbone and trains the Gaussian head on held-out target views of one time; `dynamic` trains the
temporal layers and the head on several times, half of the scenes standing still.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from fourreal.cameras import relative_to_first
from fourreal.reconstruction.camera_head import cameras_to_pose_encoding
from fourreal.reconstruction.checkpoint import load_model, save_model
from fourreal.reconstruction.config import VGGTConfig
from fourreal.reconstruction.gaussian_head import decode_gaussians
from fourreal.reconstruction.model import VGGT, Prediction
from fourreal.rendering import render
from fourreal.rendering.video import write_image
from fourreal.scenes import SceneBatch, describe, scene_seed
from fourreal.training.loop import Loop, LoopConfig

STAGES = ("geometry", "static", "dynamic")


@dataclass
class ReconstructorConfig:
    """Train the embedded reconstructor."""

    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(Path("out/train/reconstructor"), learning_rate=4e-4)
    )
    stage: str = "geometry"
    """geometry, static or dynamic."""
    start_from: Path | None = None
    """A reconstructor file to go on from; geometry may start from nothing."""
    size: int = 64
    num_views: int = 8
    """Cameras on each scene's arc."""
    num_times: int = 4
    """Times per scene in the dynamic stage."""


@dataclass
class Sample:
    """A batch of drawn scenes: frames [B, T, V, 3, H, W], depth [B, T, V, H, W], extrinsics
    [B, V, 3, 4] in the world of the first view, intrinsics [B, V, 3, 3]."""

    frames: Tensor
    depth: Tensor
    extrinsics: Tensor
    intrinsics: Tensor


def draw_sample(seeds: list[int], views: list[int], times: list[int], num_views: int, size: int):
    """Draw some views and times of the scenes of the given seeds."""
    descriptions = [describe(s, num_views, max(times) + 1) for s in seeds]
    batch = SceneBatch(descriptions).select(views, times)
    with torch.no_grad():
        frames = rearrange(batch.draw(size, size), "b v t c h w -> b t v c h w")
        depth = rearrange(batch.geometry(size, size)[0], "b v t h w -> b t v h w")
    extrinsics = torch.stack([relative_to_first(e) for e in batch.extrinsics])
    return Sample(frames, depth, extrinsics, batch.intrinsics(size, size))


def geometry_loss(prediction, sample: Sample) -> dict[str, Tensor]:
    """VGGT's depth and camera losses (arXiv 2503.11651, section 3.4) on exact geometry.

    Depth: relative error weighted by confidence, and the error of its gradients; cameras: Huber on
    the pose encodings of all iterations, later ones counting more.
    """
    height, width = sample.depth.shape[-2:]
    exact = sample.depth.flatten(0, 1)
    relative = torch.log(prediction.depth.clamp_min(1e-4)) - torch.log(exact)
    error, confidence = relative.abs(), prediction.depth_confidence
    slope = (relative.diff(dim=-1).abs().mean() + relative.diff(dim=-2).abs().mean()) / 2
    depth = (confidence * error - 0.05 * torch.log(confidence)).mean() + slope
    poses = cameras_to_pose_encoding(sample.extrinsics, sample.intrinsics, height, width)
    poses = poses.repeat_interleave(sample.depth.shape[1], 0)
    iterations = len(prediction.pose_encodings)
    camera = sum(
        0.6 ** (iterations - 1 - i) * F.huber_loss(p, poses, delta=0.1) * 10
        for i, p in enumerate(prediction.pose_encodings)
    )
    return {
        "loss": depth + 5 * camera,
        "depth_error": error.detach().mean(),
        "camera_error": (prediction.pose_encodings[-1] - poses).detach().abs().mean(),
    }


def novel_view_loss(model: VGGT, sample: Sample, inputs: list[int], **flags) -> dict[str, Tensor]:
    """Render every view from Gaussians of the input views only: MSE + 0.2 (1 - SSIM) (paper: LPIPS,
    which needs weights from elsewhere). The exact cameras of the scene are used for unprojecting,
    the predicted depth's scale is fitted to them by the geometry stage."""
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    times, size = sample.frames.shape[1], sample.frames.shape[-1]
    images = sample.frames[:, :, inputs].flatten(0, 1)
    prediction = model(images, times, **flags)
    rendered, wanted = [], []
    for i in range(images.shape[0]):
        scene = i // times
        gaussians = decode_gaussians(
            prediction.raw_gaussians[i].float(),
            images[i],
            prediction.depth[i].float(),
            sample.extrinsics[scene, inputs],
            sample.intrinsics[scene, inputs],
        )
        view = render(gaussians, sample.extrinsics[scene], sample.intrinsics[scene], size, size)
        rendered.append(view.color.movedim(-1, 1))
        wanted.append(sample.frames[scene, i % times])
    rendered, wanted = torch.cat(rendered), torch.cat(wanted)
    mse = F.mse_loss(rendered, wanted)
    return {
        "loss": mse + 0.2 * 0.1 * (1 - ssim(rendered, wanted, data_range=1.0)),
        "psnr": -10 * torch.log10(mse.detach()),
    }


def train_reconstructor(config: ReconstructorConfig) -> None:
    if config.stage not in STAGES:
        raise ValueError(f"stage is {config.stage!r}, but must be one of {', '.join(STAGES)}.")
    if config.start_from is None and config.stage != "geometry":
        raise ValueError(
            f"the {config.stage} stage needs --start-from, the file of the stage before."
        )
    torch.manual_seed(config.loop.seed)
    start = config.start_from
    model = load_model(start)[0] if start else VGGT(VGGTConfig.small())
    for name, parameter in model.named_parameters():
        temporal, head = "temporal_blocks" in name, name.startswith("gaussian_head")
        parameter.requires_grad_(
            {"geometry": not (temporal or head), "static": head, "dynamic": head or temporal}[
                config.stage
            ]
        )
    loop = Loop(config.loop, model, {"stage": config.stage})

    def scenes(split: str, generator: torch.Generator, views: list[int], count: int) -> Sample:
        seeds = [
            scene_seed(split, int(torch.randint(2**31, (1,), generator=generator)))
            for _ in range(count)
        ]
        start = int(torch.randint(29, (1,), generator=generator))
        times = [start]
        if config.stage == "dynamic":
            step = int(torch.randint(1, 4, (1,), generator=generator))
            times = [min(start, 20) + step * k for k in range(config.num_times)]
            if torch.rand((), generator=generator) < 0.5:
                times = [start] * config.num_times
        return draw_sample(seeds, views, times, config.num_views, config.size)

    def some_views(generator: torch.Generator, count: int) -> list[int]:
        return torch.randperm(config.num_views, generator=generator)[:count].sort().values.tolist()

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        if config.stage == "geometry":
            count = int(torch.randint(4, config.num_views + 1, (1,), generator=generator))
            sample = scenes(
                "train", generator, some_views(generator, count), config.loop.batch_size
            )
            images = sample.frames.flatten(0, 1)
            tokens = model.aggregator(images, temporal=False)
            prediction = Prediction(model.camera_head(tokens), *model.depth_head(tokens, images))
            return geometry_loss(prediction, sample)
        views = some_views(generator, 6)
        inputs = [0, *(torch.randperm(5, generator=generator)[:3].sort().values + 1).tolist()]
        sample = scenes("train", generator, views, config.loop.batch_size)
        return novel_view_loss(model, sample, inputs)

    def sample(out: Path) -> dict:
        sample = scenes("validation", torch.Generator().manual_seed(1), [0, 2, 4, 6, 1, 3], 4)
        prediction = model(sample.frames.flatten(0, 1))
        scores = {k: round(float(v), 5) for k, v in geometry_loss(prediction, sample).items()}
        depth = torch.cat([sample.depth.flatten(0, 1), prediction.depth.float()], -2)[:, :4]
        picture = rearrange(depth, "b v h w -> (b h) (v w)")[None].expand(3, -1, -1)
        write_image(out / "depth.png", (1.5 / picture.clamp_min(0.3)).clamp(0, 1))
        if config.stage != "geometry":
            scores["psnr"] = round(float(novel_view_loss(model, sample, [0, 1, 2, 3])["psnr"]), 3)
        return {f"validation_{k}": v for k, v in scores.items()}

    loop.run(loss, sample)
    with loop.averaged():
        save_model(model, config.loop.out / "reconstructor.safetensors", torch.float16)
