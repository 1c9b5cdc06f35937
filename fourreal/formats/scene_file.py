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
from torch import Tensor

from fourreal.files.tensors import read_safetensors, save_tensors
from fourreal.formats.finite import only_finite
from fourreal.gaussians import Gaussians, GaussianScene
from fourreal.rendering.harmonics import harmonic_degree

FORMAT = "fourreal.scene"
VERSION = "1"
MAX_TIMES = 2**15  # a time takes 4 KB of memory beside its Gaussians
MAX_METADATA = 2**20  # letters of JSON, which may take 25 bytes of memory each
MAX_SIDE = 2**14  # pixels of an image's width and height
MAX_ASPECT = 64  # of its longer side to the shorter
MAX_FPS = 1000.0
NAMES = tuple(f.name for f in fields(Gaussians))
KEYS = {
    *(f"{part}.{name}" for part in ("static", "dynamic") for name in NAMES),
    *("dynamic.counts", "extrinsics", "intrinsics"),
}


def save_scene(scene: GaussianScene, path: str | os.PathLike) -> None:
    """Write a scene, float32, to one safetensors file (usually *.safetensors).

    Gaussians that are not finite are left out, with a warning. Raises ValueError for more times or
    metadata than load_scene reads.
    """
    text = json.dumps(scene.metadata)
    check_extent(len(scene.dynamic), len(text), path)
    static, *times = (only_finite(part, path) for part in (scene.static, *scene.dynamic))
    dynamic = Gaussians.concatenate(times)
    tensors = {"extrinsics": scene.extrinsics, "intrinsics": scene.intrinsics}
    for name in NAMES:
        tensors[f"static.{name}"] = getattr(static, name)
        tensors[f"dynamic.{name}"] = getattr(dynamic, name)
    tensors = {k: v.detach().float().cpu().contiguous() for k, v in tensors.items()}
    for name, value in tensors.items():
        if not name.startswith("dynamic."):  # which concatenate has just made
            tensors[name] = value.clone()  # safetensors refuses tensors that share memory
    tensors["dynamic.counts"] = torch.tensor([len(g) for g in times])
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "width": str(scene.width),
        "height": str(scene.height),
        "fps": repr(float(scene.fps)),
        "metadata": text,
    }
    save_tensors(tensors, path, metadata)


def load_scene(path: str | os.PathLike) -> GaussianScene:
    """Open a scene file. The tensors are mapped, not copied: what is not used is not read.

    So Gaussians are not looked at; open_scene leaves out those that are not finite. Beside them a
    scene takes at most 4 KB per time and 25 bytes per letter of metadata. Raises ValueError for a
    file that is missing, damaged, not a scene, or beyond MAX_TIMES, MAX_METADATA, MAX_SIDE or
    MAX_FPS.
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
    check_extent(len(counts), len(header.get("metadata", "")), path)
    if int(counts.min()) < 0 or int(counts.max()) > rows or int(counts.sum()) != rows:
        raise ValueError(
            f"{path} is damaged: its times have {counts.tolist()[:8]}.. Gaussians, but it stores "
            f"{rows} moving ones."
        )
    try:
        width, height, fps = int(header["width"]), int(header["height"]), float(header["fps"])
        metadata = json.loads(header["metadata"])
        check_cameras(tensors["extrinsics"], tensors["intrinsics"], width, height, fps)
        if not isinstance(metadata, dict):
            raise ValueError("its metadata is not a dictionary")
        static = Gaussians(**{name: tensors[f"static.{name}"] for name in NAMES})
        dynamic = Gaussians(**{name: tensors[f"dynamic.{name}"] for name in NAMES})
        harmonic_degree(static.harmonics)
        harmonic_degree(dynamic.harmonics)
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
    except (KeyError, IndexError, ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path} is a damaged scene file: {error}") from error


def check_extent(num_times: int, letters: int, path: str | os.PathLike) -> None:
    """Raises ValueError where a scene has more times or letters of metadata than are read."""
    if num_times > MAX_TIMES or letters > MAX_METADATA:
        raise ValueError(
            f"{path} has {num_times} times and {letters} letters of metadata, but at most "
            f"{MAX_TIMES} and {MAX_METADATA} are read."
        )


def check_cameras(
    extrinsics: Tensor, intrinsics: Tensor, width: int, height: int, fps: float
) -> None:
    """Raises ValueError, without the file's name, where these cannot be a scene's cameras."""
    sides = sorted((width, height))
    if not (sides[0] > 0 and sides[1] <= min(MAX_SIDE, MAX_ASPECT * sides[0])):
        raise ValueError(
            f"its images have {width} x {height} pixels, but 1 to {MAX_SIDE} a side are needed, "
            f"the longer at most {MAX_ASPECT} times the shorter."
        )
    if not (math.isfinite(fps) and 0 < fps <= MAX_FPS):
        raise ValueError(f"it has {fps} frames per second, but above 0 to {MAX_FPS:g} are needed.")
    if not len(extrinsics):
        raise ValueError("it has no cameras, but one or more are needed.")
    if not (extrinsics.isfinite().all() and intrinsics.isfinite().all()):
        raise ValueError("its cameras have numbers that are not finite.")
