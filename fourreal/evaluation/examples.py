"""What is evaluated on: procedural scenes that no model was trained on, or a folder of clips."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor

from fourreal.bars import bar
from fourreal.devices import choose_device
from fourreal.scenes import Scene, describe, make_scene, scene_seed


@dataclass
class Evaluation:
    """Options that all evaluations share."""

    scenes: int = 32
    """Number of scenes, or of clips at most."""
    num_views: Annotated[int, tyro.conf.arg(aliases=["--views"])] = 8
    num_frames: Annotated[int, tyro.conf.arg(aliases=["--frames"])] = 29
    split: Literal["validation", "test"] = "test"
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
    device: str | None = None
    """Where models run: cpu, cuda or cuda:N (default: CUDA where there is one)."""


@dataclass
class ExactGrid:
    """Exact frames [V, T, 3, H, W] in [0, 1] on the CPU, their caption, and geometry where it is
    known."""

    frames: Tensor
    caption: str
    scene: Scene | None


def examples(
    config: Evaluation, wanted: Callable[[str], bool] = lambda caption: True
) -> Iterator[ExactGrid]:
    """The scenes or clips of an evaluation, with a progress bar; of scenes the first ones whose
    caption is wanted.

    Raises ValueError when the folder's clips cannot be used, and when there are none.
    """
    if config.scenes < 1:
        raise ValueError(f"scenes is {config.scenes}, but must be at least 1.")
    if config.data is None:
        yield from scene_examples(config, wanted)
    else:
        yield from clip_examples(config, config.data)


def scene_examples(config: Evaluation, wanted: Callable[[str], bool]) -> Iterator[ExactGrid]:
    """Procedural scenes whose caption is wanted."""
    size = config.num_views, config.num_frames, config.height, config.width
    device = choose_device(config.device)
    seeds = (scene_seed(config.split, index) for index in count())
    kept = (seed for seed in seeds if wanted(describe(seed, 1, 1).caption))
    for seed in bar(islice(kept, config.scenes), total=config.scenes, name="scenes"):
        scene = make_scene(seed, *size, device=device)
        yield ExactGrid(scene.frames, scene.caption, scene)


def clip_examples(config: Evaluation, folder: Path) -> Iterator[ExactGrid]:
    """Clips of a folder, resized and cropped to the evaluation's size."""
    from fourreal.data.clips import find_clips, read_window
    from fourreal.files.media import fit_frames

    length = config.num_frames
    clips, problems = find_clips("multiview", folder, config.num_views, length, config.caption)
    if problems or not clips:
        found = "; ".join(problems[:5]) or f"{folder} holds no clips"
        raise ValueError(f"{found}. An evaluation needs all of its clips.")
    for clip in bar(clips[: config.scenes], name="clips"):
        views = [read_window(view, 0, length) for view in clip.views[: config.num_views]]
        fitted = [fit_frames(view, length, config.height, config.width) for view in views]
        yield ExactGrid(torch.stack(fitted), clip.caption, None)
