"""Damaged files: whole samples of every kind that is read, and what becomes of them."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from fourreal.formats import (
    save_4dgs,
    save_glb,
    save_ply,
    save_scene,
    save_splat,
    save_spz,
    save_usd,
    save_zip,
)
from fourreal.gaussians import Gaussians, GaussianScene

from ..mutations import mutate_bytes, mutate_json, mutate_words
from ..tiny import cloud
from .ply_variants import columns, write_variant
from .test_compressed_ply import compressed


class Kind(NamedTuple):
    """A kind of file: how a whole one of `count` Gaussians of a degree is written, and what hides
    its bytes (unpack and pack again), or that it is text."""

    name: str
    write: Callable[[Path, int, int], object]
    packed: bool = False
    text: bool = False


def _gaussians(count: int, degree: int) -> Gaussians:
    g = cloud(count, degree, seed=count)
    g.opacities = g.opacities * 0.98 + 0.01
    return g


def _scene(count: int, degree: int) -> GaussianScene:
    """A half stands and a half moves."""
    half, cameras = count // 2, (torch.eye(3, 4)[None], torch.eye(3)[None])
    counts = (count - half, half - half // 3, half // 3)
    static, *moving = (cloud(n, degree, seed=n) for n in counts)
    return GaussianScene(static, moving, *cameras, 64, 48)


def _variant(order: str) -> Callable[[Path, int, int], object]:
    return lambda path, n, degree: write_variant(path, columns(_gaussians(n, degree)), order)


def _keyframes(path: Path, count: int, degree: int) -> None:
    place = {
        "position": [0, 0, -3.5],
        "target": [0, 0.5, 0],
        "up": [0, -1, 0],
        "fov": 50,
        "time": 1,
    }
    path.write_text(json.dumps([{"view": 0, "time": 0}, place, {"view": 0, "fov": 30, "time": 0}]))


KINDS = {
    kind.name: kind
    for kind in (
        Kind("binary.ply", lambda p, n, d: save_ply(cloud(n, d, seed=n), p)),
        Kind("big.ply", _variant(">")),
        Kind("ascii.ply", _variant(""), text=True),
        Kind("compressed.ply", lambda p, n, d: compressed(p, cloud(n, d), 3 * ((d + 1) ** 2 - 1))),
        Kind("3.spz", lambda p, n, d: save_spz(cloud(n, d, seed=n), p), packed=True),
        Kind("4.spz", lambda p, n, d: save_spz(cloud(n, d, seed=n), p, version=4)),
        Kind("g.splat", lambda p, n, d: save_splat(cloud(n, d, seed=n), p)),
        Kind("s.safetensors", lambda p, n, d: save_scene(_scene(n, d), p)),
        Kind("g.glb", lambda p, n, d: save_glb(cloud(n, d, seed=n), p)),
        Kind("s.zip", lambda p, n, d: save_zip(_scene(n, d), p)),
        Kind("s.4dgs", lambda p, n, d: save_4dgs(_scene(n, d), p)),
        Kind("s.usdc", lambda p, n, d: save_usd(_scene(n, d), p)),
        Kind("s.usda", lambda p, n, d: save_usd(_scene(n, d), p), text=True),
        Kind("keyframes.json", _keyframes, text=True),
    )
}


def damaged(kind: Kind, content: bytes, seed: object) -> bytes:
    """The content after 1, 2 or 8 mutations; packed kinds every second time inside their gzip."""
    r = random.Random(str(seed))
    if kind.name.endswith(".json") and r.random() < 0.7:
        return mutate_json(content.decode(), r).encode()
    inside = kind.packed and r.random() < 0.5
    data = bytearray(gzip.decompress(content) if inside else content)
    for _ in range(r.choice((1, 1, 2, 8))):
        if data:
            (mutate_words if kind.text and r.random() < 0.5 else mutate_bytes)(data, r)
    return gzip.compress(bytes(data), 1) if inside else bytes(data)
