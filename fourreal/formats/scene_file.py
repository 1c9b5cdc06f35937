"""The scene file: a whole GaussianScene in one safetensors file, opened without reading it all.

Tensors: static.* and dynamic.* (the five fields of Gaussians; the times of dynamic one after
another), dynamic.counts [T], extrinsics [V, 3, 4], intrinsics [V, 3, 3]. Header metadata: format,
version, width, height, fps, and the scene's own metadata as JSON.
"""

import json
import math
import os
from dataclasses import fields

import torch
from safetensors.torch import save_file

from fourreal.files.atomic import atomic_path
from fourreal.files.tensors import read_safetensors
from fourreal.gaussians import Gaussians, GaussianScene

FORMAT = "fourreal.scene"
VERSION = "1"
NAMES = tuple(f.name for f in fields(Gaussians))
KEYS = {
    *(f"{part}.{name}" for part in ("static", "dynamic") for name in NAMES),
    *("dynamic.counts", "extrinsics", "intrinsics"),
}


def save_scene(scene: GaussianScene, path: str | os.PathLike) -> None:
    """Write a scene, float32, to one safetensors file (usually *.safetensors)."""
    dynamic = Gaussians.concatenate(scene.dynamic)
    tensors = {"extrinsics": scene.extrinsics, "intrinsics": scene.intrinsics}
    for name in NAMES:
        tensors[f"static.{name}"] = getattr(scene.static, name)
        tensors[f"dynamic.{name}"] = getattr(dynamic, name)
    # Copies, because safetensors refuses tensors that share memory.
    tensors = {k: v.detach().float().cpu().clone().contiguous() for k, v in tensors.items()}
    tensors["dynamic.counts"] = torch.tensor([len(g) for g in scene.dynamic])
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "width": str(scene.width),
        "height": str(scene.height),
        "fps": repr(float(scene.fps)),
        "metadata": json.dumps(scene.metadata),
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)


def load_scene(path: str | os.PathLike) -> GaussianScene:
    """Open a scene file. The tensors are mapped, not copied: what is not used is not read.

    Raises ValueError for a file that is missing, damaged or not a scene.
    """
    tensors, header = read_safetensors(path)
    if header.get("format") != FORMAT or set(tensors) != KEYS:
        raise ValueError(
            f"{path} is not a scene file: its format is {header.get('format')!r}, but {FORMAT!r} "
            f"with {len(KEYS)} tensors is needed."
        )
    if header.get("version") != VERSION:
        raise ValueError(
            f"{path} is a scene file of version {header.get('version')!r}, but this release reads "
            f"version {VERSION}."
        )
    counts = tensors.pop("dynamic.counts")
    rows = len(tensors["dynamic.means"]) if tensors["dynamic.means"].ndim else 0
    if any(tensor.dtype != torch.float32 for tensor in tensors.values()) or (
        counts.dtype != torch.int64 or counts.ndim != 1 or counts.numel() == 0
    ):
        raise ValueError(f"{path} is damaged: its tensors do not have the types of a scene.")
    if int(counts.min()) < 0 or int(counts.max()) > rows or int(counts.sum()) != rows:
        raise ValueError(
            f"{path} is damaged: its times have {counts.tolist()[:8]}.. Gaussians, but it stores "
            f"{rows} moving ones."
        )
    try:
        width, height, fps = int(header["width"]), int(header["height"]), float(header["fps"])
        metadata = json.loads(header["metadata"])
        if not (width > 0 and height > 0 and math.isfinite(fps) and fps > 0):
            raise ValueError(f"its size is {width} x {height} at {fps} frames per second")
        if not isinstance(metadata, dict):
            raise ValueError("its metadata is not a dictionary")
        static = Gaussians(**{name: tensors[f"static.{name}"] for name in NAMES})
        dynamic = Gaussians(**{name: tensors[f"dynamic.{name}"] for name in NAMES})
        times = [part.split(counts.tolist()) for part in vars(dynamic).values()]
        return GaussianScene(
            static,
            [Gaussians(*parts) for parts in zip(*times)],
            tensors["extrinsics"],
            tensors["intrinsics"],
            width,
            height,
            fps,
            metadata,
        )
    except (KeyError, IndexError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is a damaged scene file: {error}") from error
