"""Procedural scenes, drawn once and kept on disk."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fourreal.formats.atomic import atomic_path
from fourreal.scenes import describe, make_batch, scene_seed


class SceneCache:
    """Frames of procedural scenes as uint8 files, one per scene, drawn when first asked for.

    frames(index) is [V, T, 3, H, W] in [0, 1], or the given views and times of it (only those are
    read); index counts within a split.
    """

    def __init__(
        self, folder: Path, split: str, num_views: int, num_frames: int, height: int,
        width: int | None = None,
    ):  # fmt: skip
        width = width or height
        size = f"{height}" if width == height else f"{height}x{width}"
        self.folder = Path(folder) / f"{split}_{num_views}x{num_frames}_{size}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.split, self.num_views, self.num_frames = split, num_views, num_frames
        self.height, self.width = height, width

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.npy"

    def frames(self, index: int, views=slice(None), times=slice(None)) -> Tensor:
        path = self._path(index)
        if not path.exists():
            seed = scene_seed(self.split, index)
            drawn, _ = make_batch([seed], self.num_views, self.num_frames, self.height, self.width)
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.save(file, (drawn[0] * 255).round().byte().numpy())
        kept = np.load(path, mmap_mode="r")[:, times][views]
        return torch.from_numpy(np.array(kept)).float() / 255

    def caption(self, index: int) -> str:
        return describe(scene_seed(self.split, index), self.num_views, self.num_frames).caption

    def fill(self, count: int) -> None:
        """Draw the first `count` scenes that are not there yet."""
        missing = [i for i in range(count) if not self._path(i).exists()]
        for index in tqdm(missing, desc=f"drawing {self.split} scenes", disable=not missing):
            self.frames(index)

    def available(self) -> list[int]:
        """Indices of the scenes drawn so far."""
        return sorted(int(p.stem) for p in self.folder.glob("??????.npy"))
