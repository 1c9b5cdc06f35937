"""Networks of other projects that judge frames, where a user has them and their weights.

None of them is needed, and nothing is downloaded by this project: LPIPS (arXiv 1801.03924), CLIP
score (2104.08718), FVD (1812.01717, by the package cd-fvd), MEt3R (2501.06336) and VideoScore
(2406.15252, by the package mantis-vl).
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fourreal.devices import choose_device
from fourreal.grid import spaced_times

# What VideoScore was trained to be asked (TIGER-AI-Lab/VideoScore, MIT), and what it answers.
VIDEOSCORE_QUERY = """
Suppose you are an expert in judging and evaluating the quality of AI-generated videos,
please watch the following frames of a given video and see the text prompt for generating the video,
then give scores from 5 different dimensions:
(1) visual quality: the quality of the video in terms of clearness, resolution, brightness, and color
(2) temporal consistency, both the consistency of objects or humans and the smoothness of motion or movements
(3) dynamic degree, the degree of dynamic changes
(4) text-to-video alignment, the alignment between the text prompt and the video content
(5) factual consistency, the consistency of the video content with the common-sense and factual knowledge

for each dimension, output a float number from 1.0 to 4.0,
the higher the number is, the better the video performs in that sub-score, 
the lowest 1.0 means Bad, the highest 4.0 means Perfect/Real (the video is like a real video)
Here is an output example:
visual quality: 3.2
temporal consistency: 2.7
dynamic degree: 4.0
text-to-video alignment: 2.3
factual consistency: 1.8

For this video, the text prompt is "{prompt}",
all the frames of video are as follows:
"""  # noqa: E501, W291
VIDEOSCORE_ASPECTS = ("visual", "temporal", "dynamic", "alignment", "factual")
VIDEOSCORE_FRAMES = 48  # at most


@dataclass
class LearnedMetrics:
    """Options of evaluations that such networks can judge as well."""

    lpips: Path | None = None
    """torchvision's vgg16-397923af.pth, for LPIPS."""
    clip: Path | None = None
    """A folder with a CLIP model and its processor (as of transformers), for the CLIP score of
    grids from text."""
    fvd: Path | None = None
    """i3d_pretrained_400.pt of the package cd-fvd, for FVD; needs that package."""
    met3r: bool = False
    """MEt3R of neighbouring views; needs the package met3r, which finds its own weights."""
    videoscore: Path | None = None
    """A folder with VideoScore-v1.1, for grids from text (of a grid, the middle view); needs the
    package mantis-vl."""


def _needed(package: str, install: str, option: str) -> Any:
    """The module of a package. Raises ValueError saying how to get it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(
            f"--{option} needs the package {install}, which cannot be used here ({error})."
        ) from error


class Learned:
    """The metrics that a config asks for; each answers {} where it was not asked for.

    Frames are [..., 3, H, W] in [0, 1], on any device.
    """

    def __init__(self, config: LearnedMetrics, device: str | None = None):
        """device: where the networks run (see choose_device). Raises ValueError for weights or
        packages that are not there."""
        self.config, self.device = config, choose_device(device)
        self.fvds: dict[str, Any] = {}  # cd-fvd's object of each name that is watched
        for option in ("lpips", "clip", "fvd", "videoscore"):
            path = getattr(config, option)
            if path is not None and not path.exists():
                raise ValueError(f"--{option}: {path} does not exist.")
        if config.lpips:
            from fourreal.metrics.lpips import Lpips

            self.lpips = Lpips(config.lpips).to(self.device)
        if config.clip:
            from transformers import CLIPModel, CLIPProcessor

            self.clip = CLIPModel.from_pretrained(config.clip, local_files_only=True)
            self.clip = self.clip.eval().to(self.device)
            self.processor = CLIPProcessor.from_pretrained(config.clip, local_files_only=True)
        if config.fvd:
            self.cdfvd = _needed("cdfvd.fvd", "cd-fvd", "fvd")
        if config.met3r:
            found = _needed("met3r", "met3r", "met3r")
            self.met3r = found.MEt3R(img_size=None).to(self.device)
        if config.videoscore:
            from transformers import AutoProcessor

            mantis = _needed("mantis.models.idefics2", "mantis-vl", "videoscore")
            options = {"torch_dtype": torch.bfloat16, "local_files_only": True}
            found = mantis.Idefics2ForSequenceClassification
            self.videoscore = found.from_pretrained(config.videoscore, **options)
            self.videoscore = self.videoscore.eval().to(self.device)
            self.reader = AutoProcessor.from_pretrained(config.videoscore, **options)

    @torch.no_grad()
    def likeness(self, frames: Tensor, exact: Tensor) -> dict[str, float]:
        """LPIPS of frames and exact ones [..., 3, H, W]."""
        if not self.config.lpips:
            return {}
        pairs = zip(frames.flatten(0, -4).split(32), exact.flatten(0, -4).split(32))
        sums = [len(a) * float(self.lpips(a.to(self.device), b.to(self.device))) for a, b in pairs]
        return {"lpips": sum(sums) / frames[..., 0, 0, 0].numel()}

    @torch.no_grad()
    def prompt(self, frames: Tensor, prompt: str) -> dict[str, float]:
        """CLIP score of frames [..., 3, H, W]: 100 times the cosine of image and prompt, at least
        0, in the mean."""
        if not self.config.clip:
            return {}
        images = list((frames.flatten(0, -4) * 255).round().byte().cpu())
        inputs = self.processor(
            text=[prompt], images=images, return_tensors="pt", padding=True, truncation=True
        ).to(self.device)
        found = self.clip(**inputs)
        cosines = found.image_embeds @ found.text_embeds[0]  # both of unit length
        return {"clip_score": float(100 * cosines.clamp_min(0).mean())}

    @torch.no_grad()
    def video(self, frames: Tensor, prompt: str) -> dict[str, float]:
        """VideoScore's five answers, from 1 to 4, on a video [T, 3, H, W]."""
        if not self.config.videoscore:
            return {}
        kept = frames[spaced_times(min(len(frames), VIDEOSCORE_FRAMES), len(frames))]
        pixels = (kept.movedim(1, -1) * 255).round().byte().cpu().numpy()
        query = VIDEOSCORE_QUERY.format(prompt=prompt) + "<image> " * len(kept)
        inputs = self.reader(
            text=query, images=[Image.fromarray(p) for p in pixels], return_tensors="pt"
        )
        logits = self.videoscore(**{k: v.to(self.device) for k, v in inputs.items()}).logits[0]
        return {f"videoscore_{a}": float(x) for a, x in zip(VIDEOSCORE_ASPECTS, logits)}

    @torch.no_grad()
    def views(self, frames: Tensor) -> dict[str, float]:
        """MEt3R of neighbouring views of a grid [V, T, 3, H, W], lower is better."""
        if not self.config.met3r:
            return {}
        pairs = torch.stack([frames[:-1], frames[1:]], 2).flatten(0, 1)  # [N, 2, 3, H, W]
        scores = [self.met3r(images=p.to(self.device) * 2 - 1)[0] for p in pairs.split(4)]
        return {"met3r": float(torch.cat([s.flatten() for s in scores]).mean())}

    def watch(self, name: str, videos: Tensor, exact: Tensor) -> None:
        """Take in videos [N, T, 3, H, W] for the FVD called `name`, and the exact ones."""
        if not self.config.fvd:
            return
        if name not in self.fvds:
            self.fvds[name] = self.cdfvd.cdfvd(
                "i3d", ckpt_path=str(self.config.fvd), n_fake="full", device=self.device
            )
        for add, frames in (
            (self.fvds[name].add_fake_stats, videos),
            (self.fvds[name].add_real_stats, exact),
        ):
            add((frames.movedim(2, -1) * 255).round().byte().cpu().numpy())

    def of_all(self) -> dict[str, float]:
        """The FVD of everything watched, by `name/fvd`; it is one number for all scenes."""
        return {f"{n}/fvd": float(f.compute_fvd_from_stats()) for n, f in self.fvds.items()}
