"""The .splat format (antimatter15): 32 bytes per Gaussian, no harmonics, no header.

Position 3 x f32, linear scale 3 x f32, colour and opacity 4 x u8, quaternion (w, x, y, z) 4 x u8
as 128 + 128 q. Axes as in PLY.
"""

import os

import numpy as np
import torch

from fourreal.files.existing import existing_file
from fourreal.formats.blocks import in_blocks
from fourreal.formats.finite import only_finite
from fourreal.formats.writing import written_whole
from fourreal.gaussians import Gaussians, harmonics_to_rgb, rgb_to_harmonics

RECORD = np.dtype(
    [("position", "<f4", 3), ("scale", "<f4", 3), ("color", "u1", 4), ("rotation", "u1", 4)]
)


def save_splat(gaussians: Gaussians, path: str | os.PathLike) -> None:
    """Write N Gaussians as .splat. Lossy: the colour is the view-independent one, in 8 bits.

    Gaussians that are not finite are left out, with a warning.
    """
    g = only_finite(gaussians, path)
    color = torch.cat([harmonics_to_rgb(g.harmonics), g.opacities[:, None]], dim=-1)
    rotation = torch.nn.functional.normalize(g.quaternions, dim=-1) * 128 + 128
    records = np.empty(len(g), RECORD)
    records["position"] = g.means.numpy()
    records["scale"] = g.scales.numpy()
    records["color"] = (color * 255).round().clamp(0, 255).byte().numpy()
    records["rotation"] = rotation.round().clamp(0, 255).byte().numpy()
    with written_whole(path) as temporary:
        records.tofile(temporary)


def load_splat(path: str | os.PathLike) -> Gaussians:
    """Read Gaussians (degree 0) from a .splat file.

    Gaussians that are not finite, or of negative scales, are left out with a warning. Raises
    ValueError for files that are missing or damaged, where more than half of them are such.
    """
    path = existing_file(path)
    size = path.stat().st_size
    if size % RECORD.itemsize:
        raise ValueError(
            f"{path} has {size} bytes, but a .splat file has a multiple of {RECORD.itemsize}; it "
            "is truncated or another format."
        )
    with open(path, "rb") as file:

        def read(first: int, end: int) -> Gaussians:
            return from_records(np.fromfile(file, RECORD, end - first))

        return in_blocks(size // RECORD.itemsize, 1, RECORD.itemsize, read, path)


def from_records(records: np.ndarray) -> Gaussians:
    """Gaussians of a file's records."""
    color = torch.from_numpy(records["color"].copy()).float() / 255
    rotation = (torch.from_numpy(records["rotation"].copy()).float() - 128) / 128
    return Gaussians(
        means=torch.from_numpy(records["position"].copy()),
        quaternions=torch.nn.functional.normalize(rotation, dim=-1),
        scales=torch.from_numpy(records["scale"].copy()),
        opacities=color[:, 3],
        harmonics=rgb_to_harmonics(color[:, :3]),
    )
