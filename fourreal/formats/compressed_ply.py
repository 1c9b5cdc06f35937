"""SuperSplat's compressed PLY: 16 bytes per Gaussian, relative to the bounds of its chunk of 256.

packed_position and packed_scale (a logarithm) have 11, 10 and 11 bits, packed_color 8 for each of
red, green, blue and opacity, packed_rotation the index of the largest of w, x, y, z in 2 bits and
the other three in 10 each. An element `sh` may hold the harmonics as bytes, f_rest_0 and on.
Source: src/lib/readers/decompress-ply.ts of playcanvas/splat-transform.
"""

import numpy as np
import torch
from torch import Tensor

from fourreal.formats.blocks import in_blocks
from fourreal.formats.ply_header import Element, Header
from fourreal.formats.ply_rows import Rows
from fourreal.gaussians import Gaussians, rgb_to_harmonics

CHUNK = 256
PACKED = tuple(f"packed_{name}" for name in ("position", "rotation", "scale", "color"))
BOUNDS = tuple(
    f"{end}_{part}{axis}" for part in ("", "scale_") for end in ("min", "max") for axis in "xyz"
)
COLORS = tuple(f"{end}_{channel}" for end in ("min", "max") for channel in "rgb")
REST_COUNTS = {0: 0, 9: 1, 24: 2, 45: 3}
SQRT_HALF = 0.5**0.5


def is_compressed(header: Header) -> bool:
    """Whether a PLY file's vertices are packed."""
    vertices = header.find("vertex")
    return vertices is not None and any(name == PACKED[0] for name, _, _ in vertices.properties)


def read_compressed(rows: Rows) -> Gaussians:
    """The Gaussians of a file whose header was read. Raises ValueError for damage."""
    header, path = rows.header, rows.path
    chunk, vertices, sh = (header.find(name) for name in ("chunk", "vertex", "sh"))
    expected = [e for e in (chunk, vertices, sh) if e is not None]
    if chunk is None or vertices is None or header.elements != expected or header.order != "<":
        raise ValueError(
            f"{path} is not a compressed PLY as SuperSplat writes it: binary little endian, with "
            "the elements chunk and vertex and perhaps sh, in that order."
        )
    _check_types(chunk, vertices, sh, path)
    if chunk.count != -(-vertices.count // CHUNK) or (sh and sh.count != vertices.count):
        raise ValueError(
            f"{path} is damaged: {vertices.count} Gaussians need a chunk for each {CHUNK} of them "
            f"and, where there are any, as many harmonics, but it has {chunk.count} chunks."
        )
    rest = len(sh.properties) if sh else 0
    rows.check(chunk, False)
    bounds = rows.read(chunk, chunk.count) if _room(rows, chunk, vertices, sh) else None
    if bounds is None:
        raise rows.truncated(vertices, 16 + rest)
    begin = rows.file.tell()

    def read(first: int, end: int) -> Gaussians:
        rows.file.seek(begin + 16 * first)
        packed = rows.read(vertices, end - first)
        harmonics = np.zeros((end - first, 0), np.uint8)
        if sh:
            rows.file.seek(begin + 16 * vertices.count + rest * first)
            harmonics = rows.read(sh, end - first).view(np.uint8).reshape(end - first, rest)
        return unpack_chunks(bounds[np.arange(first, end) // CHUNK], packed, harmonics)

    return in_blocks(vertices.count, 1 + rest // 3, 16 + 72 + rest, read, path)


def _room(rows: Rows, chunk: Element, vertices: Element, sh: Element | None) -> bool:
    """Whether the file holds exactly what its header promises."""
    need = sum(e.count * e.layout("<").itemsize for e in (chunk, vertices, sh) if e)
    return rows.size - rows.header.begin == need


def _check_types(chunk: Element, vertices: Element, sh: Element | None, path: object) -> None:
    """Raises ValueError unless the properties are those of the format."""
    rest = len(sh.properties) if sh else 0
    floats = {name for name, kind, length in chunk.properties if kind == "f4" and not length}
    words = [(name, kind) for name, kind, length in vertices.properties if not length]
    named = {f"f_rest_{i}": "u1" for i in range(rest)}
    if (
        not floats >= set(BOUNDS)
        or len(floats & set(COLORS)) not in (0, len(COLORS))
        or len(floats) != len(chunk.properties)
        or sorted(words) != sorted((name, "u4") for name in PACKED)
        or rest not in REST_COUNTS
        or (sh and [(n, k) for n, k, length in sh.properties if not length] != [*named.items()])
    ):
        raise ValueError(
            f"{path} is a damaged compressed PLY: its properties are not {', '.join(PACKED)} with "
            "the bounds of their chunks."
        )


def unpack_chunks(bounds: np.ndarray, packed: np.ndarray, harmonics: np.ndarray) -> Gaussians:
    """Gaussians from packed rows, the bounds of each one's chunk, and bytes of harmonics."""
    count, rest = harmonics.shape

    def between(names: tuple[str, ...], fractions: np.ndarray) -> np.ndarray:
        low = np.stack([bounds[name] for name in names[:3]], 1)
        high = np.stack([bounds[name] for name in names[3:]], 1)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is left out later
            return low * (1 - fractions) + high * fractions

    color = _fields(packed["packed_color"], (24, 16, 8, 0), (8, 8, 8, 8))
    has_ranges = COLORS[0] in (bounds.dtype.names or ())
    rgb = between(COLORS, color[:, :3]) if has_ranges else color[:, :3]
    position = _fields(packed["packed_position"], (21, 11, 0), (11, 10, 11))
    scale = _fields(packed["packed_scale"], (21, 11, 0), (11, 10, 11))
    # The bytes 0 and 255 stand for the ends of -4..4, the others for the middles of 256 steps.
    level = (harmonics.astype(np.float32) + 0.5) / 256
    level[harmonics == 0], level[harmonics == 255] = 0, 1
    other = torch.from_numpy((level - 0.5) * 8).view(count, 3, rest // 3).transpose(1, 2)
    return Gaussians(
        means=torch.from_numpy(between(BOUNDS[:6], position)),
        quaternions=_rotations(packed["packed_rotation"]),
        scales=torch.from_numpy(between(BOUNDS[6:], scale)).exp(),
        opacities=torch.from_numpy(color[:, 3].copy()),
        harmonics=torch.cat([rgb_to_harmonics(torch.from_numpy(rgb)), other], dim=1),
    )


def _fields(words: np.ndarray, shifts: tuple[int, ...], bits: tuple[int, ...]) -> np.ndarray:
    """Fields of uint32 [N] as fractions of their largest values, float32 [N, fields]."""
    parts = [((words >> s) & (2**b - 1)) / np.float32(2**b - 1) for s, b in zip(shifts, bits)]
    return np.stack(parts, 1).astype(np.float32)


def _rotations(words: np.ndarray) -> Tensor:
    """Quaternions (w, x, y, z) [N, 4] of packed_rotation."""
    others = (_fields(words, (20, 10, 0), (10, 10, 10)) - 0.5) / np.float32(SQRT_HALF)
    largest = np.sqrt(np.maximum(1 - np.square(others).sum(1), 0))
    index = words >> 30
    q = np.empty((len(words), 4), np.float32)
    for i in range(4):  # the others keep their order around the largest
        chosen = index == i
        q[chosen] = np.insert(others[chosen], i, largest[chosen], axis=1)
    return torch.from_numpy(q)
