"""Procedural dynamic scenes with exact frames, depth, cameras, masks and captions."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fourreal.cameras import relative_to_first
from fourreal.scenes.describe import FPS, SceneDescription, describe
from fourreal.scenes.raycast import SceneBatch

__all__ = [
    "FPS",
    "Scene",
    "SceneBatch",
    "SceneDescription",
    "describe",
    "describe_scenes",
    "make_scene",
    "scene_seed",
]

SPLITS = ("train", "validation", "test")
SEEDS_PER_SPLIT = 2**32
MANY = 512  # scenes, for which starting processes is worth it


def scene_seed(split: str, index: int) -> int:
    """The seed of a scene: the splits own disjoint ranges of 2^32 seeds."""
    if split not in SPLITS or not 0 <= index < SEEDS_PER_SPLIT:
        raise ValueError(
            f"scene {index} of split {split!r} does not exist; splits are {', '.join(SPLITS)}, "
            f"indices 0 to {SEEDS_PER_SPLIT - 1}."
        )
    return SPLITS.index(split) * SEEDS_PER_SPLIT + index


def describe_scenes(
    split: str, numbers: range, num_views: int, num_frames: int
) -> list[SceneDescription]:
    """The descriptions of scenes of a split, of many by a process on each core."""
    seeds = [scene_seed(split, number) for number in numbers]
    told = partial(describe, num_views=num_views, num_frames=num_frames)
    if len(seeds) < MANY:
        return [told(seed) for seed in seeds]
    with ProcessPoolExecutor() as pool:
        return list(pool.map(told, seeds, chunksize=32))


@dataclass
class Scene:
    """One drawn scene. World: the first view's camera (OpenCV).

    frames [V, T, 3, H, W] in [0, 1]; depth [V, T, H, W] (z, at pixel centres); instances
    [V, T, H, W] (0 is the set); moving [V, T, H, W] bool, pixels on objects that move;
    extrinsics [V, 3, 4] world to camera; intrinsics [V, 3, 3] in pixels; caption.
    """

    frames: Tensor
    depth: Tensor
    instances: Tensor
    moving: Tensor
    extrinsics: Tensor
    intrinsics: Tensor
    caption: str
    seed: int

    def to(self, device: torch.device | str) -> "Scene":
        """The same on a device."""
        tensors: dict[str, Any] = {
            k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)
        }
        return replace(self, **tensors)


def make_scene(
    seed: int,
    num_views: int = 8,
    num_frames: int = 29,
    height: int = 64,
    width: int = 64,
    device: torch.device | str = "cpu",
) -> Scene:
    """Draw the scene of a seed (see scene_seed) on a device; the result is on the CPU."""
    batch = SceneBatch([describe(seed, num_views, num_frames)]).to(device)
    depth, instances, moving = batch.geometry(height, width)
    scene = Scene(
        frames=batch.draw(height, width)[0],
        depth=depth[0],
        instances=instances[0],
        moving=moving[0],
        extrinsics=relative_to_first(batch.extrinsics[0]),
        intrinsics=batch.intrinsics(height, width)[0],
        caption=batch.descriptions[0].caption,
        seed=seed,
    )
    return scene.to("cpu")
