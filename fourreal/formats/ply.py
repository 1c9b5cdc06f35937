"""Gaussians as PLY, in the layout of the 3DGS authors (INRIA) that every tool reads.

Per vertex, float32 little endian: x y z nx ny nz f_dc_0..2 f_rest_* opacity scale_0..2 rot_0..3,
with log scales, logit opacities, quaternions (w, x, y, z), and f_rest channel by channel (all
coefficients of red first). Axes are OpenCV's (x right, y down, z forward), as everywhere here.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fourreal.files.atomic import atomic_path
from fourreal.files.existing import existing_file
from fourreal.formats.blocks import in_blocks
from fourreal.gaussians import Gaussians

MAX_HEADER = 64 * 1024  # bytes; real ones have about 1500
TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "<i2", "ushort": "<u2", "int": "<i4", "uint": "<u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "<i2", "uint16": "<u2", "int32": "<i4"},
    **{"uint32": "<u4", "float": "<f4", "float32": "<f4", "double": "<f8", "float64": "<f8"},
}
REST_COUNTS = {3 * ((degree + 1) ** 2 - 1): degree for degree in range(5)}
POSITION = ("x", "y", "z")
BASE_COLOR = ("f_dc_0", "f_dc_1", "f_dc_2")
SCALE = ("scale_0", "scale_1", "scale_2")
ROTATION = ("rot_0", "rot_1", "rot_2", "rot_3")
REQUIRED = (*POSITION, *BASE_COLOR, "opacity", *SCALE, *ROTATION)


def save_ply(gaussians: Gaussians, path: str | os.PathLike) -> None:
    """Write N Gaussians as binary PLY.

    Opacities are kept 1e-7 away from 0 and 1, and scales above 1e-30, where logit and log are
    finite.
    """
    count, num_harmonics = gaussians.harmonics.shape[:2]
    rest = 3 * (num_harmonics - 1)
    names = [*POSITION, "nx", "ny", "nz", *BASE_COLOR, *(f"f_rest_{i}" for i in range(rest))]
    names += ["opacity", *SCALE, *ROTATION]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    header += [*(f"property float {name}" for name in names), "end_header", ""]

    g = gaussians.map(lambda x: x.detach().cpu().float())
    table = torch.zeros(count, len(names))
    table[:, 0:3] = g.means
    table[:, 6:9] = g.harmonics[:, 0]
    table[:, 9 : 9 + rest] = g.harmonics[:, 1:].transpose(1, 2).reshape(count, rest)
    table[:, 9 + rest] = torch.logit(g.opacities, eps=1e-7)
    table[:, 10 + rest : 13 + rest] = g.scales.clamp_min(1e-30).log()
    table[:, 13 + rest : 17 + rest] = g.quaternions
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write("\n".join(header).encode())
        table.numpy().astype("<f4", copy=False).tofile(file)


def load_ply(path: str | os.PathLike) -> Gaussians:
    """Read Gaussians from a binary little-endian PLY of any harmonic degree (0 to 4).

    Properties may have any order and scalar type; unknown ones and elements after the vertices are
    skipped. Raises ValueError for files that are missing, damaged or hold no Gaussians.
    """
    path = existing_file(path)
    with open(path, "rb") as file:
        start = file.read(MAX_HEADER)
        size = os.fstat(file.fileno()).st_size
        count, layout, begin, is_last = read_ply_header(start, path)
        if begin + count * layout.itemsize > size or (
            is_last and begin + count * layout.itemsize < size
        ):
            raise ValueError(
                f"{path} has {size} bytes, but its header promises {count} Gaussians of "
                f"{layout.itemsize} bytes after {begin} bytes; it is truncated or damaged."
            )
        degree = degree_of(layout.names or (), path)
        file.seek(begin)

        def read(first: int, end: int) -> Gaussians:
            return from_vertices(np.fromfile(file, layout, end - first), degree, first, path)

        return in_blocks(count, (degree + 1) ** 2, layout.itemsize, read)


def read_ply_header(start: bytes, path: Path) -> tuple[int, np.dtype, int, bool]:
    """Vertex count, layout, offset of the data, and whether nothing follows the vertices."""
    if not start.startswith((b"ply\n", b"ply\r\n")):
        raise ValueError(f"{path} is not a PLY file: it begins with {start[:8]!r}, not with 'ply'.")
    end = start.find(b"end_header")
    newline = start.find(b"\n", end)
    if end < 0 or newline < 0:
        raise ValueError(f"{path} is a damaged PLY file: its header has no end_header line.")
    lines = start[:end].decode("ascii", "replace").split("\n")
    words = [line.split() for line in lines[1:] if line.split()]
    words = [w for w in words if w[0] not in ("comment", "obj_info")]
    if not words or words[0][:2] != ["format", "binary_little_endian"]:
        found = " ".join(words[0]) if words else "no format line"
        raise ValueError(
            f"{path} has {found!r}, but only binary_little_endian PLY files are read; export it "
            "as binary PLY."
        )
    elements = [i for i, w in enumerate(words) if w[0] == "element"]
    if not elements or words[elements[0]][1:2] != ["vertex"]:
        found = " ".join(words[elements[0]]) if elements else "no element"
        raise ValueError(
            f"{path} begins with {found!r}, but Gaussians are stored as 'element vertex' "
            "(compressed PLY files are not read; export it as plain PLY)."
        )
    first = words[elements[0]]
    if len(first) != 3 or not first[2].isdecimal() or len(first[2]) > 20:  # 2^64 has 20 digits
        raise ValueError(f"{path} is a damaged PLY file: {' '.join(first)!r} gives no count.")
    last = elements[1] if len(elements) > 1 else len(words)
    fields = {}
    for w in words[elements[0] + 1 : last]:
        if len(w) != 3 or w[0] != "property" or w[1] not in TYPES or w[2] in fields:
            raise ValueError(f"{path} is a damaged PLY file: cannot understand {' '.join(w)!r}.")
        fields[w[2]] = TYPES[w[1]]
    return int(first[2]), np.dtype([*fields.items()]), newline + 1, len(elements) == 1


def degree_of(names: tuple[str, ...], path: Path) -> int:
    """The harmonic degree of these properties; ValueError when they are not Gaussians."""
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise ValueError(f"{path} holds no Gaussians: its vertices have no {', '.join(missing)}.")
    rest = [name for name in names if name.startswith("f_rest_")]
    degree = REST_COUNTS.get(len(rest))
    if degree is None or set(rest) != {f"f_rest_{i}" for i in range(len(rest))}:
        raise ValueError(
            f"{path} has {len(rest)} f_rest properties, but 0, 9, 24, 45 or 72 are needed, "
            "numbered from 0."
        )
    return degree


def from_vertices(vertices: np.ndarray, degree: int, first: int, path: Path) -> Gaussians:
    """Gaussians from the structured array of a file's rows from `first` on, column by column.

    Raises ValueError for values that are not finite.
    """
    rest = (degree + 1) ** 2 - 1

    def columns(names: Sequence[str]) -> Tensor:
        table = np.empty((len(vertices), len(names)), np.float32)
        for i, name in enumerate(names):
            table[:, i] = vertices[name]
        return torch.from_numpy(table)

    harmonics = torch.empty(len(vertices), 1 + rest, 3)
    for channel in range(3):
        names = [f"f_dc_{channel}", *(f"f_rest_{channel * rest + i}" for i in range(rest))]
        harmonics[:, :, channel] = columns(names)
    gaussians = Gaussians(
        means=columns(POSITION),
        quaternions=columns(ROTATION),
        scales=columns(SCALE).exp_(),
        opacities=columns(["opacity"])[:, 0].sigmoid_(),
        harmonics=harmonics,
    )
    for name, values in vars(gaussians).items():
        bad = ~values.isfinite().view(len(vertices), -1).all(1)
        if bad.any():
            raise ValueError(
                f"{path} is damaged: its Gaussian {first + int(bad.int().argmax())} has {name} "
                "that are not finite numbers."
            )
    return gaussians
