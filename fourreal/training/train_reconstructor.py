"""`fourreal train reconstructor`: a small VGGT with a Gaussian head on procedural scenes.

Stages, as the paper's (section 4 and supplement) with one before them because this backbone starts
from nothing: `geometry` trains backbone, cameras and depth on exact geometry; `static` freezes the
backbone and trains the Gaussian head on held-out target views of one time; `dynamic` trains the
temporal layers and the head on several times, half of the scenes standing still, and holds them to
exact geometry where it is known, which the paper's does not.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from fourreal.data.posed import Sample, draw_sample, find_posed_scenes, visible_from
from fourreal.files.media import write_image
from fourreal.metrics.lpips import Lpips
from fourreal.reconstruction.alignment import baseline_scale
from fourreal.reconstruction.camera_head import cameras_to_pose_encoding, pose_encoding_to_cameras
from fourreal.reconstruction.checkpoint import load_model, save_model
from fourreal.reconstruction.config import VGGTConfig
from fourreal.reconstruction.gaussian_head import decode_gaussians
from fourreal.reconstruction.network import VGGT, Prediction
from fourreal.rendering import render
from fourreal.scenes import scene_seed
from fourreal.training.loop import Loop, LoopConfig

STAGES = ("geometry", "static", "dynamic")
NUM_TIMES = 29  # of a procedural scene
NUM_TARGETS = 6  # views that are rendered per scene, from four of them
CAMERA_DELTA = 0.005  # of pose encodings: half a degree
GEOMETRY_WEIGHT = 0.1  # in the dynamic stage: what its temporal layers may not lose
LPIPS_WEIGHT, SSIM_WEIGHT = 0.5, 0.02  # as large as the squared error that is left by then


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
    """Height and width of the frames that the network sees."""
    render_size: int | None = None
    """Height and width of the views that its Gaussians are compared with, `size` or more; Gaussians
    trained at `size` alone show gaps when they are drawn larger."""
    num_views: int = 8
    """Cameras on each scene's arc."""
    num_times: int = 4
    """Times per scene in the dynamic stage."""
    posed: tuple[Path, ...] = ()
    """Folders of Kubric-4D's scenes, or of photos with nerfstudio's transforms.json."""
    posed_share: float = 0.5
    """Share of the examples that come from those folders; the others are procedural."""
    lpips_backbone: Path | None = None
    """torchvision's vgg16-397923af.pth, for LPIPS; SSIM takes its place without it."""
    perceptual_from: float = 0.3
    """Share of the run after which LPIPS (or SSIM) is added to the squared error."""
    temporal: str | None = None
    """token or view: temporal layers for a file that has none, or another mode of its own; none
    leaves them out."""
    temporal_from_global: bool = False
    """Untrained temporal layers start from the global layers of the same index."""


def geometry_loss(prediction, sample: Sample) -> dict[str, Tensor]:
    """VGGT's depth and camera losses (arXiv 2503.11651, section 3.4) on exact geometry.

    Depth: relative error weighted by confidence, and the error of its gradients; cameras: Huber on
    the pose encodings of all iterations, later ones counting more. Errors count as they are, not
    squared, down to CAMERA_DELTA: the squares of a few degrees hardly pull.
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
        0.6 ** (iterations - 1 - i) * F.huber_loss(p, poses, delta=CAMERA_DELTA) / CAMERA_DELTA
        for i, p in enumerate(prediction.pose_encodings)
    )
    return {
        "loss": depth + 5 * camera,
        "depth_error": error.detach().mean(),
        "camera_error": (prediction.pose_encodings[-1] - poses).detach().abs().mean(),
    }


def fitted_unit(prediction: Prediction, sample: Sample, inputs: list[int]) -> Tensor:
    """The network's unit of length in the sample's, per scene [B].

    From depth of the input views where it is known, else from the distances between their cameras.
    """
    times = sample.frames.shape[1]
    if sample.depth is not None:
        ratio = sample.depth[:, :, inputs] / prediction.depth.unflatten(0, (-1, times))
        return ratio.flatten(1).median(dim=1).values.detach()
    height, width = sample.frames.shape[-2:]
    first = prediction.pose_encodings[-1].unflatten(0, (-1, times))[:, 0]
    own, _ = pose_encoding_to_cameras(first, height, width)
    scales = [baseline_scale(e[inputs], o) for e, o in zip(sample.extrinsics, own.detach().float())]
    return torch.tensor(scales, device=sample.frames.device)


def render_targets(
    prediction: Prediction, sample: Sample, seen: Sample, inputs: list[int]
) -> tuple[Tensor, Tensor]:
    """Every view rendered from the Gaussians of the input views, and what it should show.

    Both [B * T * V, 3, H, W], as large as the sample's frames, which may be larger than those of
    `seen`, the same sample at the size of the prediction. The exact cameras are used for
    unprojecting and for rendering, in the unit of the predicted depth (see `fitted_unit`).
    """
    times, (height, width) = sample.frames.shape[1], sample.frames.shape[-2:]
    unit = fitted_unit(prediction, seen, inputs)
    rendered = []
    for i in range(len(prediction.depth)):
        scene, time = divmod(i, times)
        extrinsics, intrinsics = sample.extrinsics[scene], sample.intrinsics[scene]
        extrinsics = torch.cat([extrinsics[..., :3], extrinsics[..., 3:] / unit[scene]], -1)
        gaussians = decode_gaussians(
            prediction.raw_gaussians[i].float(),
            seen.frames[scene, time, inputs],
            prediction.depth[i].float(),
            extrinsics[inputs],
            seen.intrinsics[scene, inputs],
        )
        view = render(gaussians, extrinsics, intrinsics, width, height)
        rendered.append(view.color.movedim(-1, 1))
    return torch.cat(rendered), sample.frames.flatten(0, 2)


def image_loss(
    rendered: Tensor, wanted: Tensor, visible: Tensor, perceptual: float, lpips: Lpips | None
) -> dict[str, Tensor]:
    """MSE over visible pixels [N, H, W] of images [N, 3, H, W], plus `perceptual` (0 to 1) times
    0.5 LPIPS, or 0.02 (1 - SSIM) where LPIPS' weights are not there (paper, section 4)."""
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    # What no input saw is not to be guessed: there the target stands in for the rendering.
    shown = torch.where(visible[:, None], rendered, wanted)
    mse = (shown - wanted).square().sum() / (3 * visible.sum()).clamp_min(1)
    loss = mse
    if perceptual and lpips is not None:
        loss = loss + perceptual * LPIPS_WEIGHT * lpips(shown, wanted)
    elif perceptual:
        loss = loss + perceptual * SSIM_WEIGHT * (1 - ssim(shown, wanted, data_range=1.0))
    return {"loss": loss, "psnr": -10 * torch.log10(mse.detach())}


def novel_view_loss(
    model: nn.Module,
    sample: Sample,
    inputs: list[int],
    *,
    size: int | None = None,
    perceptual: float = 1.0,
    lpips: Lpips | None = None,
    geometry: float = 0.0,
    **flags,
) -> dict[str, Tensor]:
    """`image_loss` of every view of the sample from Gaussians of the input views only, over the
    pixels that some input view saw, plus `geometry` times `geometry_loss` of the input views where
    depth is known. The model sees the frames at `size` pixels (their own)."""
    seen = sample.resized(size or sample.frames.shape[-1])
    images = seen.frames[:, :, inputs].flatten(0, 1)
    prediction = model(images, sample.frames.shape[1], points=False, **flags)
    rendered, wanted = render_targets(prediction, sample, seen, inputs)
    visible = visible_from(sample, inputs).flatten(0, 2)
    losses = image_loss(rendered, wanted, visible, perceptual, lpips)
    if geometry and seen.depth is not None:
        found = geometry_loss(prediction, seen.of_views(inputs))
        losses["loss"] = losses["loss"] + geometry * found.pop("loss")
        losses |= found
    return losses


def start_model(config: ReconstructorConfig) -> VGGT:
    """The network that a stage starts from, with the parts that the stage trains."""
    if config.stage not in STAGES:
        raise ValueError(f"stage is {config.stage!r}, but must be one of {', '.join(STAGES)}.")
    if config.start_from is None:
        if config.stage != "geometry":
            raise ValueError(
                f"the {config.stage} stage needs --start-from, the file of the stage before."
            )
        return VGGT(VGGTConfig.small(temporal=config.temporal or "token"))
    head = None if config.stage == "geometry" else "paper"
    temporal = None if config.temporal == "none" else config.temporal
    model, _ = load_model(config.start_from, temporal=temporal, gaussian_head=head)
    if head and model.config.gaussian_head != head:
        raise ValueError(
            f"{config.start_from} has AnySplat's Gaussian head, but the {config.stage} stage "
            "trains the paper's; start from VGGT-1B or one of this project's files."
        )
    if config.stage == "dynamic" and "none" == model.config.temporal != config.temporal:
        raise ValueError(
            f"{config.start_from} has no temporal layers; add --temporal token or --temporal view."
        )
    if config.temporal_from_global and not model.aggregator.temporal_is_trained():
        model.aggregator.start_temporal_from_global()
    return model


def drawn_size(config: ReconstructorConfig) -> int:
    """Pixels of the samples of a stage. Raises ValueError when `render_size` is below `size`."""
    size = config.render_size or config.size
    if size < config.size:
        raise ValueError(f"render_size is {size}, but must be size ({config.size}) or more.")
    return config.size if config.stage == "geometry" else size


class Source:
    """Samples of procedural scenes and of posed folders, all random choices from a generator."""

    def __init__(self, config: ReconstructorConfig):
        self.config = config
        self.size = drawn_size(config)
        self.posed = [scene for root in config.posed for scene in find_posed_scenes(root)]
        needed = 4 if config.stage == "geometry" else NUM_TARGETS
        for scene in self.posed:
            if scene.num_views < needed:
                raise ValueError(
                    f"{scene.path} has {scene.num_views} views, but at least {needed} are needed."
                )
            if config.stage == "geometry" and scene.distances is None:
                raise ValueError(
                    f"{scene.path} has no depth, which the geometry stage needs; leave it out."
                )

    def draw(self, split: str, generator: torch.Generator, count: int, batch: int) -> Sample:
        """`count` random views of `batch` scenes: one time, or several in the dynamic stage."""
        config = self.config

        def below(limit):
            return int(torch.randint(limit, (1,), generator=generator))

        def views(available):
            return torch.randperm(available, generator=generator)[:count].sort().values.tolist()

        def times(available):  # half of the dynamic samples stand still
            if config.stage != "dynamic":
                return [below(available)]
            step = 1 + below(max(1, min(3, (available - 1) // max(1, config.num_times - 1))))
            last = step * (config.num_times - 1)
            first = below(max(1, available - last))
            if available <= last or torch.rand((), generator=generator) < 0.5:
                return [first] * config.num_times
            return [first + step * k for k in range(config.num_times)]

        if self.posed and torch.rand((), generator=generator) < config.posed_share:
            scenes = [self.posed[below(len(self.posed))] for _ in range(batch)]
            if len({scene.distances is None for scene in scenes}) > 1:
                scenes = scenes[:1] * batch  # a batch has depth or it has none
            num_times = min(scene.num_times for scene in scenes)
            chosen = times(num_times)
            parts = [scene.read(views(scene.num_views), chosen, self.size) for scene in scenes]
            joined = zip(*(vars(part).values() for part in parts))
            return Sample(*(None if p[0] is None else torch.cat(p) for p in joined))
        seeds = [scene_seed(split, below(2**31)) for _ in range(batch)]
        return draw_sample(
            seeds, views(config.num_views), times(NUM_TIMES), config.num_views, self.size
        )


def train_reconstructor(config: ReconstructorConfig) -> None:
    """Run one stage; its file is `reconstructor.safetensors` in the run's folder."""
    torch.manual_seed(config.loop.seed)
    model, source = start_model(config), Source(config)
    temporal, head = "aggregator.temporal_blocks.", "gaussian_head."
    joined = config.temporal != "none"
    trained_parts = (temporal, head) if config.stage == "dynamic" and joined else (head,)
    for name, parameter in model.named_parameters():
        if config.stage == "geometry":
            trained = not name.startswith((temporal, head, "point_head."))
        else:
            trained = name.startswith(trained_parts)
        parameter.requires_grad_(trained)
    lpips = Lpips(config.lpips_backbone) if config.lpips_backbone else None
    loop = Loop(config.loop, model, {"stage": config.stage})
    device = loop.accelerator.device
    if lpips is not None:
        lpips = lpips.to(device)

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        if config.stage == "geometry":
            count = int(torch.randint(4, config.num_views + 1, (1,), generator=generator))
            sample = source.draw("train", generator, count, config.loop.batch_size).to(device)
            images = sample.frames.flatten(0, 1)
            return geometry_loss(loop.model(images, temporal=False, gaussians=False), sample)
        inputs = [0, *(torch.randperm(5, generator=generator)[:3].sort().values + 1).tolist()]
        sample = source.draw("train", generator, NUM_TARGETS, config.loop.batch_size).to(device)
        perceptual = float(loop.progress >= config.perceptual_from)
        return novel_view_loss(
            loop.model,
            sample,
            inputs,
            size=config.size,
            perceptual=perceptual,
            lpips=lpips,
            geometry=GEOMETRY_WEIGHT if config.stage == "dynamic" else 0.0,
            temporal=joined,
        )

    def sample(out: Path) -> dict:
        generator = torch.Generator().manual_seed(1)
        seeds = [scene_seed("validation", n) for n in range(4)]
        start = int(torch.randint(NUM_TIMES - 8, (1,), generator=generator))
        steps = config.num_times if config.stage == "dynamic" else 1
        times = [start + 2 * k for k in range(steps)]
        drawn = draw_sample(seeds, [0, 2, 4, 6, 1, 3], times, config.num_views, source.size)
        drawn = drawn.to(device)
        seen = drawn.resized(config.size)
        prediction = model(seen.frames.flatten(0, 1), steps, points=False, temporal=joined)
        scores = {k: round(float(v), 5) for k, v in geometry_loss(prediction, seen).items()}
        depth = torch.cat([seen.depth.flatten(0, 1), prediction.depth.float()], -2)[::steps, :4]
        picture = rearrange(depth, "b v h w -> (b h) (v w)")[None].expand(3, -1, -1).cpu()
        pictures = {"depth": (1.5 / picture.clamp_min(0.3)).clamp(0, 1)}
        if config.stage != "geometry":
            inputs = [0, 1, 2, 3]
            images = seen.frames[:, :, inputs].flatten(0, 1)
            prediction = model(images, steps, points=False, temporal=joined)
            rendered, wanted = render_targets(prediction, drawn, seen, inputs)
            visible = visible_from(drawn, inputs).flatten(0, 2)
            scores["psnr"] = round(float(image_loss(rendered, wanted, visible, 0, None)["psnr"]), 3)
            both = torch.cat([wanted, rendered.clamp(0, 1)], -2).unflatten(0, (4, steps, -1))
            pictures["views"] = rearrange(both[:, 0], "b v c h w -> c (b h) (v w)").cpu()
        if loop.accelerator.is_main_process:
            for name, picture in pictures.items():
                write_image(out / f"{name}.png", picture)
        return {f"validation_{k}": v for k, v in scores.items()}

    loop.run(loss, sample)
    with loop.averaged():
        if loop.accelerator.is_main_process:
            save_model(model, config.loop.out / "reconstructor.safetensors", torch.float16)
