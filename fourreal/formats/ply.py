"""Gaussians as PLY, in the layout of the 3DGS authors (INRIA) that every tool reads.

Per vertex, float32 little endian: x y z nx ny nz f_dc_0..2 f_rest_* opacity scale_0..2 rot_0..3,
with log scales, logit opacities, quaternions (w, x, y, z), and f_rest channel by channel (all
coefficients of red first). Axes are OpenCV's (x right, y down, z forward), as everywhere here.
Written so; read in every variant of PLY that other programs write.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fourreal.files.existing import existing_file
from fourreal.files.notices import warn_once
from fourreal.formats.blocks import in_blocks
from fourreal.formats.compressed_ply import is_compressed, read_compressed
from fourreal.formats.finite import only_finite
from fourreal.formats.ply_header import MAX_HEADER, read_ply_header
from fourreal.formats.ply_rows import Rows
from fourreal.formats.writing import written_whole
from fourreal.gaussians import Gaussians

REST_COUNTS = {3 * ((degree + 1) ** 2 - 1): degree for degree in range(5)}
POSITION = ("x", "y", "z")
BASE_COLOR = ("f_dc_0", "f_dc_1", "f_dc_2")
SCALE = ("scale_0", "scale_1", "scale_2")
ROTATION = ("rot_0", "rot_1", "rot_2", "rot_3")
REQUIRED = (*POSITION, *BASE_COLOR, "opacity", *SCALE[:2], *ROTATION)
# The first is what Brush reads; the second is for people whose program shows it upside down.
COMMENTS = ("comment Vertical axis: y", "comment Axes: x right, y down, z forward (OpenCV)")
# What other properties mean is not known here, but these mean nothing for Gaussians: normals, and
# colours that repeat f_dc.
NEEDLESS = {"nx", "ny", "nz", "red", "green", "blue", "alpha"}
FLAT = 1e-6  # the third scale of flat Gaussians (2DGS), which store two


def save_ply(gaussians: Gaussians, path: str | os.PathLike) -> None:
    """Write N Gaussians as binary PLY.

    Opacities are kept 1e-7 away from 0 and 1, and scales above 1e-30, where logit and log are
    finite. Gaussians that are not finite are left out, with a warning.
    """
    g = only_finite(gaussians, path)
    count, num_harmonics = g.harmonics.shape[:2]
    rest = 3 * (num_harmonics - 1)
    names = [*POSITION, "nx", "ny", "nz", *BASE_COLOR, *(f"f_rest_{i}" for i in range(rest))]
    names += ["opacity", *SCALE, *ROTATION]
    header = ["ply", "format binary_little_endian 1.0", *COMMENTS, f"element vertex {count}"]
    header += [*(f"property float {name}" for name in names), "end_header", ""]

    table = torch.zeros(count, len(names))
    table[:, 0:3] = g.means
    table[:, 6:9] = g.harmonics[:, 0]
    table[:, 9 : 9 + rest] = g.harmonics[:, 1:].transpose(1, 2).reshape(count, rest)
    table[:, 9 + rest] = torch.logit(g.opacities, eps=1e-7)
    table[:, 10 + rest : 13 + rest] = g.scales.clamp_min(1e-30).log()
    table[:, 13 + rest : 17 + rest] = g.quaternions
    with written_whole(path) as temporary, open(temporary, "wb") as file:
        file.write("\n".join(header).encode())
        table.numpy().astype("<f4", copy=False).tofile(file)


def load_ply(path: str | os.PathLike) -> Gaussians:
    """Read Gaussians from a PLY of any harmonic degree (0 to 4), or SuperSplat's compressed PLY.

    Binary of both byte orders and ascii are read. Properties may have any order, case and scalar
    type; unknown ones are left out with a warning (of moving or filtered Gaussians they matter),
    other elements are skipped. Flat Gaussians without scale_2 get a third scale of 1e-6. Gaussians
    that are not finite are left out with a warning. Raises ValueError for files that are missing,
    damaged or hold no Gaussians.
    """
    path = existing_file(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        header = read_ply_header(file.read(min(size, MAX_HEADER)), path)
        rows = Rows(file, header, path)
        if is_compressed(header):
            return read_compressed(rows)
        vertices = header.find("vertex")
        if vertices is None:
            found = ", ".join(e.name for e in header.elements) or "nothing"
            raise ValueError(f"{path} holds {found}, but Gaussians are stored as vertices.")
        if vertices.has_lists:
            raise ValueError(f"{path} holds no Gaussians: its vertices have lists.")
        for element in header.elements[: header.elements.index(vertices)]:
            rows.skip(element)
        rows.check(vertices, header.elements[-1] is vertices)
        names = tuple(name for name, _, _ in vertices.properties)
        degree = degree_of(names, path)
        _report_unknown(names, path)

        def read(first: int, end: int) -> Gaussians:
            return from_vertices(rows.read(vertices, end - first), degree)

        row = sum(int(kind[1]) if header.order else 8 for _, kind, _ in vertices.properties)
        return in_blocks(vertices.count, (degree + 1) ** 2, row, read, path)


def _report_unknown(names: tuple[str, ...], path: Path) -> None:
    """One warning, for all files of a folder, of properties that are left out."""
    known = {*REQUIRED, *SCALE, *NEEDLESS}
    unknown = [name for name in names if name not in known and not name.startswith("f_rest_")]
    if unknown:
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        warn_once(
            f"PLY of {path.parent}: {', '.join(unknown[:8])}{more} of its vertices are left out, "
            "as only plain Gaussians that stand still are read."
        )


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


def from_vertices(vertices: np.ndarray, degree: int) -> Gaussians:
    """Gaussians from the structured array of a file's rows, column by column."""
    rest = (degree + 1) ** 2 - 1

    def columns(names: Sequence[str]) -> Tensor:
        table = np.empty((len(vertices), len(names)), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # doubles beyond float32 are infinite
            for i, name in enumerate(names):
                table[:, i] = vertices[name]
        return torch.from_numpy(table)

    harmonics = torch.empty(len(vertices), 1 + rest, 3)
    for channel in range(3):
        names = [f"f_dc_{channel}", *(f"f_rest_{channel * rest + i}" for i in range(rest))]
        harmonics[:, :, channel] = columns(names)
    scales = torch.full((len(vertices), 3), FLAT)
    stored = [name for name in SCALE if name in (vertices.dtype.names or ())]
    scales[:, : len(stored)] = columns(stored).exp_()
    return Gaussians(
        means=columns(POSITION),
        quaternions=columns(ROTATION),
        scales=scales,
        opacities=columns(["opacity"])[:, 0].sigmoid_(),
        harmonics=harmonics,
    )
