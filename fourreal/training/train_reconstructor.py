"""`fourreal train reconstructor`: a small VGGT with a Gaussian head on procedural scenes.

Stages, as the paper's (section 4 and supplement) with one before them because this backbone starts
from nothing: `geometry` trains backbone, cameras and depth on exact geometry; `static` freezes the
backbone and trains the Gaussian head on held-out target views of one time; `dynamic` trains the
temporal layers and the head on several times, half of the scenes standing still, and holds them to
exact geometry where it is known, which the paper's does not. `joint` goes on with all parts at
once, and lets the network see videos of one view among the rest.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from fourreal.data.posed import (
    Sample,
    UndrawnSample,
    choose_sample,
    draw_sample,
    find_posed_scenes,
    visible_from,
)
from fourreal.files.media import write_image
from fourreal.metrics.lpips import Lpips
from fourreal.reconstruction import VGGT, VGGTConfig, load_model, save_model
from fourreal.scenes import scene_seed
from fourreal.training.loop import Loop, LoopConfig, StartWeights
from fourreal.training.reconstruction_losses import (
    geometry_loss,
    image_loss,
    novel_view_loss,
    render_targets,
)

NUM_TIMES = 29  # of a procedural scene
NUM_TARGETS = 6  # views that are rendered per scene, from four of them or fewer
GEOMETRY_WEIGHT = {"static": 0.0, "dynamic": 0.1, "joint": 1.0}  # beside the views' error
VIDEOS = 4  # of one view, per scene of several views, where geometry alone is compared
FRAMES = 40  # of a scene, at most, where geometry of several views is compared
TEMPORAL, HEAD, POINTS = "aggregator.temporal_blocks.", "gaussian_head.", "point_head."


@dataclass
class ReconstructorConfig:
    """Train the embedded reconstructor."""

    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(Path("out/train/reconstructor"), learning_rate=4e-4)
    )
    stage: Literal["geometry", "static", "dynamic", "joint"] = "geometry"
    """What is trained: backbone, cameras and depth; the Gaussian head; temporal layers and head; or
    all of them."""
    start_from: Path | None = None
    """A reconstructor file to go on from; geometry may start from nothing."""
    start_share: float = 0.0
    """Share of that file's weights in the result: each number is averaged with the trained one, so
    that what this run did not show is forgotten less (WiSE-FT, arXiv 2109.01903)."""
    size: tuple[int, ...] = (64,)
    """Height and width of the frames that the network sees; each step has one of them."""
    render_size: int | None = None
    """Height and width of the views that its Gaussians are compared with, every `size` or more;
    Gaussians trained at `size` alone show gaps when they are drawn larger."""
    num_views: int = 8
    """Cameras on each scene's arc."""
    fewest_views: int = 4
    """Views that the network sees at once, at least; 1 teaches it what a video alone tells."""
    most_views: int = 4
    """Views that the network sees at once in the stages after geometry, at most."""
    num_times: int = 4
    """Times per scene in the dynamic stage and the joint one."""
    geometry_share: float = 0.75
    """How often geometry alone is compared in the joint stage: in two of three of these steps of
    videos of one view, else of two to num_views views. Novel views are compared in the others."""
    geometry_scenes: int = 1
    """Scenes whose geometry alone is compared in the joint stage, per scene whose novel views are;
    on a GPU novel views, which are rendered, take far longer."""
    changing_views: float = 0.0
    """How often the network sees other views at each time, in the dynamic stage; then no camera
    token is replaced."""
    posed: tuple[Path, ...] = ()
    """Folders of Kubric-4D's scenes, or of photos with a transforms.json or COLMAP's sparse/0."""
    posed_share: float = 0.5
    """Share of the examples that come from those folders; the others are procedural."""
    lpips_backbone: Path | None = None
    """torchvision's vgg16-397923af.pth, for LPIPS; SSIM takes its place without it."""
    perceptual_from: float = 0.3
    """Share of the run after which LPIPS (or SSIM) is added to the squared error."""
    temporal: Literal["token", "none"] | None = None
    """token adds temporal layers to a file that has none; none leaves them out."""
    temporal_from_global: bool = False
    """Untrained temporal layers start from the global layers of the same index."""

    @property
    def joined(self) -> bool:
        """Whether temporal layers join the times of a scene."""
        return self.temporal != "none"

    @property
    def several_times(self) -> bool:
        """Whether the stage sees scenes at several times."""
        return self.stage in ("dynamic", "joint")


def start_model(config: ReconstructorConfig) -> VGGT:
    """The network that a stage starts from, with the parts that the stage trains."""
    if config.start_from is None:
        if config.stage != "geometry":
            raise ValueError(
                f"the {config.stage} stage needs --start-from, the file of the stage before."
            )
        return VGGT(VGGTConfig.small(temporal=config.temporal or "token"))
    model, _ = load_model(
        config.start_from,
        temporal=None if config.temporal == "none" else config.temporal,
        gaussian_head=None if config.stage == "geometry" else "paper",
    )
    if config.stage != "geometry" and model.config.gaussian_head != "paper":
        raise ValueError(
            f"{config.start_from} has AnySplat's Gaussian head, but the {config.stage} stage "
            "trains the paper's; start from VGGT-1B or one of this project's files."
        )
    if config.several_times and config.joined and model.config.temporal == "none":
        raise ValueError(f"{config.start_from} has no temporal layers; add --temporal token.")
    if config.temporal_from_global and not model.aggregator.temporal_is_trained():
        model.aggregator.start_temporal_from_global()
    return model


def drawn_size(config: ReconstructorConfig) -> int:
    """Pixels of the samples of a stage. Raises ValueError when `render_size` is below `size`."""
    most = max(config.size)
    size = config.render_size or most
    if size < most:
        raise ValueError(f"render_size is {size}, but must be size ({most}) or more.")
    return most if config.stage == "geometry" else size


@dataclass
class Examples:
    """What a step is trained on: a sample, of which the network sees the views `inputs` at `size`
    pixels. orders: each time's views, if they change; then the sample, once it is drawn, has the
    times of one scene as scenes. geometry: that alone is compared."""

    sample: Sample | UndrawnSample
    inputs: list[int]
    size: int
    orders: list[list[int]] = field(default_factory=list)
    geometry: bool = False

    @property
    def joined(self) -> int | None:
        """How many of the drawn sample's scenes are the times of one."""
        return len(self.orders) or None

    def drawn_on(self, device: torch.device | str) -> Sample:
        """The sample on a device, where it is drawn if it is not yet."""
        sample = self.sample.to(device)
        return sample.by_time(self.orders) if self.orders else sample


class Source:
    """Samples of procedural scenes and of posed folders, all random choices from a generator."""

    def __init__(self, config: ReconstructorConfig):
        self.config = config
        self.size = drawn_size(config)
        self.ahead = True  # procedural scenes are drawn by who chooses them, not where they go
        self.posed = [scene for root in config.posed for scene in find_posed_scenes(root)]
        needed = 4 if config.stage == "geometry" else NUM_TARGETS
        for scene in self.posed:
            if scene.num_views < needed:
                raise ValueError(
                    f"{scene.path} has {scene.num_views} views, but at least {needed} are needed."
                )
            if config.stage in ("geometry", "joint") and not scene.has_depth:
                raise ValueError(
                    f"{scene.path} has no depth, which the {config.stage} stage needs; leave it "
                    "out."
                )

    def draw(
        self,
        split: str,
        generator: torch.Generator,
        count: int,
        batch: int,
        size: int | None = None,
        num_times: int | None = None,
    ) -> Sample | UndrawnSample:
        """`count` random views of `batch` scenes, at another size and other times than the stage's
        if given: one time, or num_times in the dynamic and the joint stage."""
        config, size = self.config, size or self.size
        num_times = num_times or config.num_times

        def below(limit: int) -> int:
            return int(torch.randint(limit, (1,), generator=generator))

        def views(available: int) -> list[int]:
            return torch.randperm(available, generator=generator)[:count].sort().values.tolist()

        def times(available: int) -> list[int]:  # half of the dynamic samples stand still
            if not config.several_times:
                return [below(available)]
            step = 1 + below(max(1, min(3, (available - 1) // max(1, num_times - 1))))
            last = step * (num_times - 1)
            first = below(max(1, available - last))
            still = config.stage == "dynamic" and torch.rand((), generator=generator) < 0.5
            if available <= last or still:
                return [first] * num_times
            return [first + step * k for k in range(num_times)]

        if self.posed and torch.rand((), generator=generator) < config.posed_share:
            scenes = [self.posed[below(len(self.posed))]]
            # A batch has depth or it has none: the first scene decides.
            alike = [s for s in self.posed if s.has_depth == scenes[0].has_depth]
            scenes += [alike[below(len(alike))] for _ in range(batch - 1)]
            chosen = times(min(scene.num_times for scene in scenes))
            return Sample.cat(
                [scene.read(views(scene.num_views), chosen, size) for scene in scenes]
            )
        seeds = [scene_seed(split, below(2**31)) for _ in range(batch)]
        shown, now = views(config.num_views), times(NUM_TIMES)
        undrawn = choose_sample(seeds, shown, now, config.num_views, size)
        return undrawn.to("cpu") if self.ahead else undrawn

    def examples(self, generator: torch.Generator, progress: float) -> Examples:
        """Choose and read the examples of a step; all that is random comes from the generator."""
        config = self.config

        def below(limit: int) -> int:
            return int(torch.randint(limit, (1,), generator=generator))

        batch, size = config.loop.batch_size, config.size[below(len(config.size))]
        if config.stage == "geometry":
            count = config.fewest_views + below(config.num_views + 1 - config.fewest_views)
            sample = self.draw("train", generator, count, batch, size)
            return Examples(sample, list(range(count)), size)
        if config.stage == "joint" and torch.rand((), generator=generator) < config.geometry_share:
            count = 1 if below(3) else 2 + below(config.num_views - 1)
            drawn, times = (size, self.size)[below(2)], config.num_times
            scenes = batch * config.geometry_scenes
            if count > 1:
                times = 1 + below(max(1, min(config.num_times, FRAMES // count)))
            else:
                scenes *= VIDEOS
            sample = self.draw("train", generator, count, scenes, drawn, times)
            return Examples(sample, list(range(count)), size, geometry=True)
        fewest = min(config.fewest_views, config.most_views)
        others = fewest - 1 + below(config.most_views + 1 - fewest)
        chosen = torch.randperm(NUM_TARGETS - 1, generator=generator)[:others] + 1
        sample = self.draw("train", generator, NUM_TARGETS, batch)
        share = config.changing_views if config.stage == "dynamic" else 0.0
        if share and torch.rand((), generator=generator) < share:
            orders = [
                torch.randperm(NUM_TARGETS, generator=generator).tolist()
                for _ in range(sample.num_times)
            ]
            return Examples(sample, list(range(others + 1)), size, orders)
        return Examples(sample, [0, *chosen.sort().values.tolist()], size)


def train_stage_parts(model: VGGT, config: ReconstructorConfig) -> None:
    """Let gradients reach the parameters that the stage trains, and no others."""
    for name, parameter in model.named_parameters():
        if config.stage == "geometry":
            trained = not name.startswith((TEMPORAL, HEAD, POINTS))
        else:
            trained = name.startswith(HEAD)
            trained |= config.stage == "joint" and not name.startswith((TEMPORAL, POINTS))
            trained |= config.several_times and config.joined and name.startswith(TEMPORAL)
        parameter.requires_grad_(trained)


def stage_loss(
    model: nn.Module,
    drawn: Examples,
    config: ReconstructorConfig,
    perceptual: float,
    lpips: Lpips | None,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """The losses of a stage on examples, on a device; "loss" is minimised.

    perceptual: the share (0 to 1) of LPIPS, or of SSIM where `lpips` is None.
    """
    sample = drawn.drawn_on(device)
    if config.stage == "geometry":
        images = sample.frames.flatten(0, 1)
        return geometry_loss(model(images, temporal=False, gaussians=False), sample)
    if drawn.geometry:
        seen = sample.resized(drawn.size)
        images, times = seen.frames.flatten(0, 1), seen.frames.shape[1]
        maps = model(images, times, points=False, gaussians=False, temporal=config.joined)
        return geometry_loss(maps, seen)
    return novel_view_loss(
        model,
        sample,
        drawn.inputs,
        size=drawn.size,
        perceptual=perceptual,
        lpips=lpips,
        geometry=GEOMETRY_WEIGHT[config.stage],
        temporal=config.joined,
        joined=drawn.joined,
    )


def score_validation(
    model: nn.Module, config: ReconstructorConfig, device: torch.device
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Scores on four validation scenes, and pictures [3, H, W] by name: "depth" (exact above
    predicted, near is white) and, but for the geometry stage, "views" (exact above rendered)."""
    generator = torch.Generator().manual_seed(1)
    seeds = [scene_seed("validation", n) for n in range(4)]
    start = int(torch.randint(NUM_TIMES - 8, (1,), generator=generator))
    steps = config.num_times if config.several_times else 1
    times = [start + 2 * k for k in range(steps)]
    drawn = draw_sample(seeds, [0, 2, 4, 6, 1, 3], times, config.num_views, drawn_size(config))
    drawn = drawn.to(device)
    seen = drawn.resized(max(config.size))
    assert seen.depth is not None  # of procedural scenes
    maps = model(seen.frames.flatten(0, 1), steps, points=False, temporal=config.joined)
    scores = {k: round(float(v), 5) for k, v in geometry_loss(maps, seen).items()}
    if config.stage == "joint":
        alone = seen.of_views([0])
        images = alone.frames.flatten(0, 1)
        found = model(images, steps, points=False, gaussians=False, temporal=config.joined)
        error = geometry_loss(found, alone)["depth_error"]
        scores["single_view_depth_error"] = round(float(error), 5)
    depth = torch.cat([seen.depth.flatten(0, 1), maps.depth.float()], -2)[::steps, :4]
    picture = rearrange(depth, "b v h w -> (b h) (v w)")[None].expand(3, -1, -1).cpu()
    pictures = {"depth": (1.5 / picture.clamp_min(0.3)).clamp(0, 1)}
    if config.stage != "geometry":
        inputs = [0, 1, 2, 3]
        images = seen.frames[:, :, inputs].flatten(0, 1)
        maps = model(images, steps, points=False, temporal=config.joined)
        rendered, wanted = render_targets(maps, drawn, seen, inputs)
        visible = visible_from(drawn, inputs).flatten(0, 2)
        scores["psnr"] = round(float(image_loss(rendered, wanted, visible, 0, None)["psnr"]), 3)
        both = torch.cat([wanted, rendered.clamp(0, 1)], -2).unflatten(0, (4, steps, -1))
        pictures["views"] = rearrange(both[:, 0], "b v c h w -> c (b h) (v w)").cpu()
    return {f"validation_{name}": score for name, score in scores.items()}, pictures


def train_reconstructor(config: ReconstructorConfig) -> None:
    """Run one stage; its file is `reconstructor.safetensors` in the run's folder.

    Raises ValueError in one sentence for what the stage cannot start from or learn from.
    """
    torch.manual_seed(config.loop.seed)
    model, source = start_model(config), Source(config)
    train_stage_parts(model, config)
    start = StartWeights(model, config.start_share)
    loop = Loop(config.loop, model, {"stage": config.stage}, "reconstructor.safetensors")
    device = loop.accelerator.device
    source.ahead = device.type == "cpu"
    lpips = Lpips(config.lpips_backbone).to(device) if config.lpips_backbone else None

    def loss(drawn: Examples, _: torch.Generator) -> dict[str, Tensor]:
        perceptual = float(loop.progress >= config.perceptual_from)
        return stage_loss(loop.model, drawn, config, perceptual, lpips, device)

    def sample(out: Path) -> dict[str, float]:
        scores, pictures = score_validation(model, config, device)
        if loop.accelerator.is_main_process:
            for name, picture in pictures.items():
                write_image(out / f"{name}.png", picture)
        return scores

    loop.run(loss, sample, source.examples)
    with loop.averaged():
        if loop.accelerator.is_main_process:
            start.mix_into(model)
            save_model(model, config.loop.out / "reconstructor.safetensors", torch.float16)
