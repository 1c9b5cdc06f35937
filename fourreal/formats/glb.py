"""Gaussians as binary glTF 2.0 (.glb) with Khronos' extension KHR_gaussian_splatting.

One primitive of points: POSITION, ROTATION (x, y, z, w), SCALE (linear), OPACITY (0 to 1) and
spherical harmonics, one attribute per coefficient, all float32; COLOR_0 is what programs without
the extension show as points. Axes are glTF's (y up, z backward), so Gaussians are turned by 180
degrees about x on the way out and back on the way in.
Source: extensions/2.0/Khronos/KHR_gaussian_splatting/README.md of KhronosGroup/glTF (ratified).
"""

import json
import os

import numpy as np
import torch
from torch import Tensor

from fourreal.formats.finite import only_finite
from fourreal.formats.glb_reader import COLOR_SPACE, EXTENSION, GLB, GLTF, KERNEL, read_glb
from fourreal.formats.writing import written_whole
from fourreal.gaussians import Gaussians, harmonics_to_rgb, turn_about_x

FLOAT, POINTS, VERTEX_DATA = 5126, 0, 34962  # glTF's numbers for these
MAX_DEGREE = 3  # of the extension's harmonics


def save_glb(gaussians: Gaussians, path: str | os.PathLike) -> None:
    """Write N Gaussians as .glb, float32: nothing is lost up to harmonics of degree 3.

    Quaternions are normalised and harmonics of degree 4 left out, as the extension demands.
    Gaussians that are not finite are left out, with a warning. Raises ValueError for 4 GB or more.
    """
    g = turn_about_x(only_finite(gaussians, path))
    views: list[dict] = []
    accessors: list[dict] = []
    attributes: dict[str, int] = {}
    chunks: list[np.ndarray] = []
    for name, values in _attributes(g).items():
        data = values.contiguous().numpy().astype("<f4", copy=False)
        start = sum(chunk.nbytes for chunk in chunks)
        chunks.append(data)
        views.append({"buffer": 0, "byteOffset": start, "byteLength": data.nbytes})
        views[-1]["target"] = VERTEX_DATA
        kind = "SCALAR" if data.ndim == 1 else f"VEC{data.shape[1]}"
        accessor = {"bufferView": len(accessors), "componentType": FLOAT, "count": len(g)}
        accessors.append(accessor | {"type": kind})
        attributes[name] = len(accessors) - 1
    size = sum(chunk.nbytes for chunk in chunks)
    document: dict = {"asset": {"version": "2.0", "generator": "4Real"}, "scene": 0}
    document["extensionsUsed"] = [EXTENSION]
    if len(g):  # glTF has no accessors of nothing
        bounds = {"min": g.means.amin(0).tolist(), "max": g.means.amax(0).tolist()}
        accessors[attributes["POSITION"]].update(bounds)
        splats = {EXTENSION: {"kernel": KERNEL, "colorSpace": COLOR_SPACE}}
        primitive = {"mode": POINTS, "attributes": attributes, "extensions": splats}
        document |= {"accessors": accessors, "bufferViews": views}
        document |= {"buffers": [{"byteLength": size}], "meshes": [{"primitives": [primitive]}]}
        document |= {"nodes": [{"mesh": 0}], "scenes": [{"nodes": [0]}]}
    else:
        document["scenes"] = [{}]
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    total = GLTF.size + GLB.size + len(text) + (GLB.size + size if size else 0)
    if total >= 2**32:
        raise ValueError(
            f"{path} would have {total} bytes, but .glb ends at 4 GB; write another format, or "
            "leave Gaussians out."
        )
    with written_whole(path) as temporary, open(temporary, "wb") as file:
        file.write(GLTF.pack(b"glTF", 2, total))
        file.write(GLB.pack(len(text), b"JSON") + text)
        if size:
            file.write(GLB.pack(size, b"BIN\0"))
            for chunk in chunks:
                file.write(chunk.tobytes())


def _attributes(g: Gaussians) -> dict[str, Tensor]:
    """The arrays of a primitive by the names of its attributes."""
    color = harmonics_to_rgb(g.harmonics).clamp(0, 1)
    linear = torch.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)
    arrays = {
        "POSITION": g.means,
        "COLOR_0": torch.cat([linear, g.opacities.clamp(0, 1)[:, None]], dim=-1),
        f"{EXTENSION}:ROTATION": torch.nn.functional.normalize(g.quaternions, dim=-1).roll(-1, -1),
        f"{EXTENSION}:SCALE": g.scales,
        f"{EXTENSION}:OPACITY": g.opacities.clamp(0, 1),
    }
    for index in range(min(g.harmonics.shape[1], (MAX_DEGREE + 1) ** 2)):
        degree = int(index**0.5)
        name = f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{index - degree**2}"
        arrays[name] = g.harmonics[:, index]
    return {name: values.float() for name, values in arrays.items()}


def load_glb(path: str | os.PathLike) -> Gaussians:
    """Read the Gaussians of all splat primitives of a .glb file's scene, in world coordinates.

    Nodes may be moved, turned and scaled evenly. Attributes may be floats or normalised integers.
    Gaussians that are not finite are left out with a warning. Raises ValueError for files that are
    missing, damaged, without splats, compressed, of another kernel or colour space, or that repeat
    their splats to more than 64 MB or 32 times the file's size.
    """
    return turn_about_x(only_finite(read_glb(path), path))
