"""Procedural scenes as one of their views shows them in the other cameras, with the holes that a
video inpainting model is to fill.

The geometry of that view is exact, or what a reconstructor predicts from its video, so that a
model meets the holes and the errors of both.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from fourreal.bars import bar
from fourreal.cameras import warp
from fourreal.data.cache import fingerprint
from fourreal.data.grids import DataConfig
from fourreal.files.atomic import atomic_path
from fourreal.gaussians import GaussianScene
from fourreal.grid import num_latent_frames
from fourreal.neighborhoods import grown
from fourreal.reconstruction import Reconstructor, scene_from_depth
from fourreal.scenes import Scene, describe, make_scene, scene_seed
from fourreal.warp import HOLE, WarpedGrid, reference_cells, warp_grid

KnownGeometry = Literal["exact", "predicted"]
QUICK_FROM = 100_000  # the first training scene that is not warped
SEEN_WITHIN = 0.03  # a surface is seen where its depth is the one that is seen, up to this share
SEEN_GROW = 4  # pixels; the share of known pixels then is that of warped scenes
GEOMETRIES: tuple[KnownGeometry, ...] = get_args(KnownGeometry)


def first_view_depth(scene: Scene, reconstructor: Reconstructor) -> tuple[Tensor, Tensor]:
    """Depth [1, T, H, W] of a scene's first view, predicted from that view's video alone, and its
    confidence: the network's own, enlarged without a look at the finer frames.

    A video alone has no unit of length; the median ratio to the exact depth gives it the unit of
    the scene's cameras.
    """
    found = reconstructor(scene.frames[:1], gaussians=False, detail=1)
    return found.depth * (scene.depth[:1] / found.depth).median(), found.depth_confidence


def warp_first_view(
    scene: Scene,
    depth: Tensor,
    grow: int = 2,
    device: torch.device | str = "cpu",
    *,
    confidence: Tensor | None = None,
) -> WarpedGrid:
    """The first view of a scene, a fixed-view video with depth [1, T, H, W] and perhaps its
    confidence, warped into all of the scene's cameras, on a device; holes widened by `grow` pixels.
    The first view itself is known whole."""
    cameras = scene.extrinsics, scene.intrinsics
    num_views, num_times, _, height, width = scene.frames.shape
    given = reference_cells((num_views, num_times, height, width), fixed_view=scene.frames[0])
    seen = first_view_scene(scene, depth, confidence).to(device)
    return warp_grid(seen, *cameras, width, height, grow=grow, references=given)


def first_view_scene(
    scene: Scene, depth: Tensor, confidence: Tensor | None = None
) -> GaussianScene:
    """What the first view of a scene shows, by its depth and its confidence [1, T, H, W]."""
    camera = scene.extrinsics[:1], scene.intrinsics[:1]
    return scene_from_depth(scene.frames[:1], depth, *camera, confidence=confidence)


def seen_from_first_view(scene: Scene, device: torch.device | str = "cpu") -> WarpedGrid:
    """What the first view of a scene shows in the others, by exact depth, without drawing it there,
    on a device.

    A pixel is known where the first view sees its surface at that time, or at any time where it
    stands still; its colour is the exact one. Holes are widened by SEEN_GROW pixels. It takes an
    eighth of the time of warp_first_view, and its holes are much like those.
    """
    cameras = list(zip(scene.extrinsics.to(device), scene.intrinsics.to(device)))
    depths, moving = scene.depth.to(device), scene.moving.to(device)
    depth, still = depths[0], depths[0].masked_fill(moving[0], 0).amax(dim=0)
    layers = torch.stack([depth, still.expand_as(depth)], dim=1)  # [T, 2, H, W]
    missing = torch.zeros_like(scene.frames[:, :, :1])
    for view in range(1, len(cameras)):
        warped, inside, distance = warp(layers, depths[view], cameras[view], cameras[0])
        seen = (warped / distance[:, None] - 1).abs() < SEEN_WITHIN
        known = inside & (seen[:, 0] | (seen[:, 1] & ~moving[view]))
        missing[view, :, 0] = grown(~known, SEEN_GROW).float()
    return WarpedGrid(torch.where(missing > 0.5, HOLE, scene.frames), missing)


@dataclass
class WarpedExample:
    """A scene's frames [V, T, 3, H, W], and its first view warped into its cameras. All values are
    bytes, 0 to 255, which travel faster between processes than floats."""

    frames: Tensor
    warped: WarpedGrid
    caption: str

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Frames, warped frames, and what is missing [V, T, 1, H, W]."""
        return self.frames, self.warped.frames, self.warped.missing

    def floats(self, device: torch.device | str = "cpu") -> "WarpedExample":
        """The same in [0, 1], on a device."""
        frames, *warped = (part.to(device).float() / 255 for part in self.tensors())
        return WarpedExample(frames, WarpedGrid(*warped), self.caption)

    def recoloured(self, channels: list[int]) -> "WarpedExample":
        """The same with the colour channels in another order, of which no caption speaks."""
        warped = WarpedGrid(self.warped.frames[:, :, channels], self.warped.missing)
        return WarpedExample(self.frames[:, :, channels], warped, "")

    def backwards(self) -> "WarpedExample":
        """The same with time reversed."""
        warped = WarpedGrid(self.warped.frames.flip(1), self.warped.missing.flip(1))
        return WarpedExample(self.frames.flip(1), warped, self.caption)


class WarpCache:
    """Warped procedural scenes of a split, one uint8 file [V, T, 7, H, W] each (exact colours,
    warped colours, missing), drawn when first asked for.

    Scenes of odd index have the depth that the reconstructor predicts, the others the exact one.
    With `quick` nothing is warped: their holes are those of seen_from_first_view.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        size: tuple[int, int, int, int],
        reconstructor: Reconstructor,
        quick: bool = False,
    ):
        """size: views, frames, height, width. Scenes are drawn on the reconstructor's device."""
        views, frames, height, width = size
        how = "seen" if quick else f"sure_{fingerprint(reconstructor.model)}"
        self.folder = Path(folder) / f"{split}_{views}x{frames}_{height}x{width}_{how}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.split, self.size, self.reconstructor, self.quick = split, size, reconstructor, quick

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.npy"

    def _draw(self, index: int) -> None:
        device = self.reconstructor.device
        scene = make_scene(scene_seed(self.split, index), *self.size, device=device)
        if self.quick:
            warped = seen_from_first_view(scene, device)
        elif GEOMETRIES[index % 2] == "predicted":
            depth, sure = first_view_depth(scene, self.reconstructor)
            warped = warp_first_view(scene, depth, device=device, confidence=sure)
        else:
            warped = warp_first_view(scene, scene.depth[:1], device=device)
        drawn = torch.cat([scene.frames, warped.frames, warped.missing], dim=2)
        with atomic_path(self._path(index)) as temporary, open(temporary, "wb") as file:
            np.save(file, (drawn * 255).round().byte().numpy())

    def caption(self, index: int) -> str:
        return describe(scene_seed(self.split, index), *self.size[:2]).caption

    def get(self, index: int) -> WarpedExample:
        """The example of the scene of this index within the split, in bytes."""
        if not self._path(index).exists():
            self._draw(index)
        values = torch.from_numpy(np.load(self._path(index)))
        exact, warped, missing = values.split([3, 3, 1], dim=2)
        return WarpedExample(exact, WarpedGrid(warped, missing), self.caption(index))

    def fill(self, indices: Iterable[int]) -> None:
        """Draw the scenes of these indices that are not there yet."""
        left = [i for i in indices if not self._path(i).exists()]
        for index in bar(left, name=f"drawing {self.folder.name}", disable=not left):
            self._draw(index)


class WarpData:
    """What a VACE is trained on: grids of num_views x num_frames of training scenes.

    The `scenes` of the config are warped. Of quick_scenes more the holes are told quickly (see
    WarpCache).

    Every example follows from the random generator that picks it. Raises ValueError for a config
    with clips, whose geometry is not known.
    """

    def __init__(
        self,
        config: DataConfig,
        num_views: int,
        num_frames: int,
        quick_scenes: int,
        reconstructor: Reconstructor,
    ):
        if config.multiview or config.static or config.videos or config.scenes < 1:
            raise ValueError(
                "a VACE is trained on procedural scenes alone, because their geometry is known; "
                "leave out --data.multiview, --data.static and --data.videos, and give "
                "--data.scenes of 1 or more."
            )
        self.num_views, self.num_latent_frames = num_views, num_latent_frames(num_frames)
        size = num_views, num_frames, config.height, config.width
        self.warped, self.quick, self.validation = (
            WarpCache(config.cache, split, size, reconstructor, quick)
            for split, quick in (("train", False), ("train", True), ("validation", False))
        )
        self.warped_scenes = config.scene_numbers
        self.quick_scenes = range(QUICK_FROM, QUICK_FROM + quick_scenes)

    def fill(self) -> None:
        """Draw all warped scenes, so that they cost no training time. The quick ones are drawn when
        they are met, but not on a GPU, where the processes that read them cannot draw."""
        self.warped.fill(self.warped_scenes)
        if self.warped.reconstructor.device.type != "cpu":
            self.quick.fill(self.quick_scenes)

    def draw(self, generator: torch.Generator) -> WarpedExample:
        """A random training scene, in half of the cases played backwards, and in half of them with
        other colours: few scenes would soon be known by heart."""
        turned, recoloured = torch.randint(2, (2,), generator=generator).tolist()
        count = len(self.warped_scenes) + len(self.quick_scenes)
        index = int(torch.randint(count, (1,), generator=generator))
        quick = index - len(self.warped_scenes)
        example = (
            self.warped.get(self.warped_scenes[index])
            if quick < 0
            else self.quick.get(self.quick_scenes[quick])
        )
        if recoloured:
            example = example.recoloured(torch.randperm(3, generator=generator).tolist())
        return example.backwards() if turned else example

    def captions(self) -> list[str]:
        """Every caption that training can meet."""
        return [self.warped.caption(index) for index in self.warped_scenes] + [
            self.quick.caption(index) for index in self.quick_scenes
        ]
