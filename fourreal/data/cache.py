"""Training data kept on disk: procedural scenes drawn once, latents and embeddings encoded once."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fourreal.bars import bar
from fourreal.files.atomic import atomic_path
from fourreal.files.tensors import save_tensors
from fourreal.scenes import SceneBatch, describe, scene_seed


def fingerprint(model: nn.Module) -> str:
    """A short name for a model's config and weights (the first values of each tensor)."""
    config: Any = model.config  # of transformers, of diffusers, or of this project
    if is_dataclass(config):
        config = vars(config)
    config = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    digest = hashlib.sha256(json.dumps(config, default=str, sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().flatten()[:16].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


class TensorCache:
    """float16 tensors in a folder, each named by the text that says how it was made."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def _path(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"

    def read(self, key: str) -> Tensor | None:
        """The tensor of a key in float16; None when it is not there yet."""
        path = self._path(key)
        return load_file(path)["tensor"] if path.exists() else None

    def get(self, key: str, compute: Callable[[], Tensor]) -> Tensor:
        """The tensor of a key in float16, computed when it is not there yet."""
        path = self._path(key)
        if not path.exists():
            save_tensors({"tensor": compute().half().contiguous().cpu()}, path)
        return load_file(path)["tensor"]


class SceneCache:
    """Frames of procedural scenes as uint8 files, one per scene, drawn when first asked for.

    frames(index) is [V, T, 3, H, W] in [0, 1], or the given views and times of it (only those are
    read); index counts within a split.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        num_views: int,
        num_frames: int,
        height: int,
        width: int | None = None,
    ):
        width = width or height
        size = f"{height}" if width == height else f"{height}x{width}"
        self.folder = Path(folder) / f"{split}_{num_views}x{num_frames}_{size}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.split, self.num_views, self.num_frames = split, num_views, num_frames
        self.height, self.width = height, width

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.npy"

    def _draw(self, index: int, device: torch.device | str = "cpu", compiled: bool = False) -> None:
        seed = scene_seed(self.split, index)
        scene = SceneBatch([describe(seed, self.num_views, self.num_frames)]).to(device)
        drawn = scene.draw_bytes(self.height, self.width, compiled)[0].cpu()
        with atomic_path(self._path(index)) as temporary, open(temporary, "wb") as file:
            np.save(file, drawn.numpy())

    def frames(
        self, index: int, views: list[int] | slice = slice(None), times: slice = slice(None)
    ) -> Tensor:
        path = self._path(index)
        if not path.exists():
            self._draw(index)
        kept = np.load(path, mmap_mode="r")[:, times][views]
        return torch.from_numpy(np.array(kept)).float() / 255

    def caption(self, index: int) -> str:
        return describe(scene_seed(self.split, index), self.num_views, self.num_frames).caption

    def fill(
        self,
        indices: Iterable[int],
        device: torch.device | str = "cpu",
        compiled: bool = False,
    ) -> None:
        """Draw the scenes of these indices that are not there yet, on a device, by a compiled
        program (see SceneBatch) or not."""
        missing = [i for i in indices if not self._path(i).exists()]
        for index in bar(missing, name=f"drawing {self.split} scenes", disable=not missing):
            self._draw(index, device, compiled)
