"""Procedural scenes as one of their views shows them in the other cameras, with the holes that a
video inpainting model is to fill.

The geometry of that view is exact, or what a reconstructor predicts from its video, so that a
model meets the holes and the errors of both.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fourreal import weights
from fourreal.data.cache import fingerprint
from fourreal.data.grids import DataConfig
from fourreal.files.atomic import atomic_path
from fourreal.grid import num_latent_frames
from fourreal.reconstruction import Reconstructor, scene_from_depth
from fourreal.scenes import Scene, describe, make_scene, scene_seed
from fourreal.warp import WarpedGrid, reference_cells, warp_grid

KnownGeometry = Literal["exact", "predicted"]
GEOMETRIES: tuple[KnownGeometry, ...] = get_args(KnownGeometry)


def first_view_depth(scene: Scene, reconstructor: Reconstructor) -> Tensor:
    """Depth [1, T, H, W] of a scene's first view, predicted from that view's video alone.

    A video alone has no unit of length; the median ratio to the exact depth gives it the unit of
    the scene's cameras.
    """
    depth = reconstructor(scene.frames[:1], split=None).depth
    return depth * (scene.depth[:1] / depth).median()


def warp_first_view(scene: Scene, depth: Tensor) -> WarpedGrid:
    """The first view of a scene, a fixed-view video with depth [1, T, H, W], warped into all of the
    scene's cameras. The first view itself is known whole."""
    cameras = scene.extrinsics, scene.intrinsics
    seen = scene_from_depth(scene.frames[:1], depth, *(part[:1] for part in cameras))
    num_views, num_times, _, height, width = scene.frames.shape
    given = reference_cells((num_views, num_times, height, width), fixed_view=scene.frames[0])
    return warp_grid(seen, *cameras, width, height, references=given)


@dataclass
class WarpedExample:
    """A scene's frames [V, T, 3, H, W] in [0, 1], and its first view warped into its cameras."""

    frames: Tensor
    warped: WarpedGrid
    caption: str

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Frames, warped frames, and what is missing [V, T, 1, H, W]."""
        return self.frames, self.warped.frames, self.warped.missing

    def backwards(self) -> "WarpedExample":
        """The same with time reversed."""
        warped = WarpedGrid(self.warped.frames.flip(1), self.warped.missing.flip(1))
        return WarpedExample(self.frames.flip(1), warped, self.caption)


class WarpCache:
    """Warped procedural scenes of a split, one uint8 file [V, T, 7, H, W] each (exact colours,
    warped colours, missing), drawn when first asked for.

    Scenes of odd index have the depth that the reconstructor predicts, the others the exact one.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        size: tuple[int, int, int, int],
        reconstructor: Reconstructor,
    ):
        """size: views, frames, height, width."""
        views, frames, height, width = size
        name = f"{views}x{frames}_{height}x{width}_{fingerprint(reconstructor.model)}"
        self.folder = Path(folder) / f"warped_{split}_{name}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.split, self.size, self.reconstructor = split, size, reconstructor

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.npy"

    def _draw(self, index: int) -> None:
        scene = make_scene(scene_seed(self.split, index), *self.size)
        depth = scene.depth[:1]
        if GEOMETRIES[index % 2] == "predicted":
            depth = first_view_depth(scene, self.reconstructor)
        warped = warp_first_view(scene, depth)
        drawn = torch.cat([scene.frames, warped.frames, warped.missing], dim=2)
        with atomic_path(self._path(index)) as temporary, open(temporary, "wb") as file:
            np.save(file, (drawn * 255).round().byte().numpy())

    def caption(self, index: int) -> str:
        return describe(scene_seed(self.split, index), *self.size[:2]).caption

    def get(self, index: int) -> WarpedExample:
        """The example of the scene of this index within the split."""
        if not self._path(index).exists():
            self._draw(index)
        values = torch.from_numpy(np.load(self._path(index))).float() / 255
        exact, warped, missing = values.split([3, 3, 1], dim=2)
        return WarpedExample(exact, WarpedGrid(warped, missing), self.caption(index))

    def fill(self, count: int) -> None:
        """Draw the first `count` scenes that are not there yet."""
        left = [i for i in range(count) if not self._path(i).exists()]
        for index in tqdm(left, desc=f"warping {self.split} scenes", disable=not left):
            self._draw(index)


class WarpData:
    """What a VACE is trained on: warped grids of num_views x num_frames, of training scenes.

    Every example follows from the random generator that picks it. Raises ValueError for a config
    with clips, whose geometry is not known.
    """

    def __init__(self, config: DataConfig, num_views: int, num_frames: int):
        if config.multiview or config.static or config.videos or config.scenes < 1:
            raise ValueError(
                "a VACE is trained on procedural scenes alone, because their geometry is known; "
                "leave out --data.multiview, --data.static and --data.videos, and give "
                "--data.scenes of 1 or more."
            )
        self.config = config
        self.num_views, self.num_latent_frames = num_views, num_latent_frames(num_frames)
        size = num_views, num_frames, config.height, config.width
        reconstructor = Reconstructor.from_file(weights.folder() / "reconstructor.safetensors")
        self.training, self.validation = (
            WarpCache(config.cache, split, size, reconstructor) for split in ("train", "validation")
        )

    def fill(self) -> None:
        """Draw all scenes that training can meet, so that they cost no training time."""
        self.training.fill(self.config.scenes)

    def draw(self, generator: torch.Generator) -> WarpedExample:
        """A random training scene, in half of the cases played backwards."""
        index, turned = (
            int(torch.randint(count, (1,), generator=generator))
            for count in (self.config.scenes, 2)
        )
        example = self.training.get(index)
        return example.backwards() if turned else example

    def captions(self) -> list[str]:
        """Every caption that training can meet."""
        return [self.training.caption(index) for index in range(self.config.scenes)]
