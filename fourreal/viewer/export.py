"""A scene as the viewer page reads it, and the page with a scene inside as one HTML file.

The page asks for named parts: `scene.json` (counts, cameras, clock), `static.bin`, `<t>.bin` of
each time, and optionally `<view>_<t>.jpg`, the input frames. Gaussians are in Spark's packed
layout of 16 bytes: colour and opacity as bytes, position as half floats, scale as the logarithm
in a byte, rotation as an octahedral axis and an angle in three bytes. After them stand, for all
Gaussians, the harmonics of degree 1, then 2 and 3 if the scene has them; higher ones are left out.
"""

import base64
import io
import json
import os
from collections.abc import Callable
from importlib.resources import files

import numpy as np
from PIL import Image
from torch import Tensor

from fourreal.files.atomic import atomic_path
from fourreal.files.media import to_uint8
from fourreal.gaussians import Gaussians, GaussianScene, harmonics_to_rgb

LN_SCALE = (-12.0, 9.0)  # Spark's range of log scales in a byte
COLOR_RANGE = (-0.5, 1.5)  # of degree 0, where harmonics above it may bring a colour back
HARMONICS = ((7, 8), (8, 16), (6, 16))  # of degree 1, 2, 3: bits of a value in -1..1, bytes of all
SLOT = "<!-- scene -->"  # where the page takes the parts of an embedded scene
REST = "<!-- rest -->"  # the parts that are needed after the first image


def pack_gaussians(gaussians: Gaussians, color_range: tuple = (0.0, 1.0)) -> np.ndarray:
    """N Gaussians in Spark's packed layout, uint32 [N, 4] (little endian).

    color_range: the colours of degree 0 that bytes 0 and 255 stand for; others are clipped.
    """
    parts = (gaussians.means, gaussians.quaternions, gaussians.scales, gaussians.opacities)
    means, quaternions, scales, opacities = (p.detach().cpu().double().numpy() for p in parts)
    rgb = harmonics_to_rgb(gaussians.harmonics.detach().cpu().double()).numpy()
    packed = np.zeros((len(means), 16), np.uint8)
    darkest, brightest = color_range
    packed[:, 0:3] = np.rint(255 * ((rgb - darkest) / (brightest - darkest)).clip(0, 1))
    packed[:, 3] = np.rint(255 * opacities.clip(0, 1))
    packed[:, 4:10] = means.clip(-65504, 65504).astype("<f2").view(np.uint8).reshape(-1, 6)
    turns = octahedral_rotation(quaternions)
    packed[:, 10:12], packed[:, 15] = turns[:, :2], turns[:, 2]
    low, high = LN_SCALE
    logs = np.log(np.maximum(scales, np.exp(low)))
    packed[:, 12:15] = (1 + np.rint((logs - low) * 254 / (high - low))).clip(1, 255)
    return packed.view("<u4")


def octahedral_rotation(quaternions: np.ndarray) -> np.ndarray:
    """Quaternions (w, x, y, z) [N, 4] to bytes [N, 3]: axis on the octahedron, angle of 0..pi."""
    norms = np.linalg.norm(quaternions, axis=1, keepdims=True)
    q = quaternions / np.maximum(norms, 1e-12)
    q = np.where(q[:, :1] < 0, -q, q)
    angle = 2 * np.arccos(q[:, 0].clip(0, 1))
    axis = q[:, 1:] / np.maximum(np.abs(q[:, 1:]).sum(1, keepdims=True), 1e-12)
    folded = (1 - np.abs(axis[:, 1::-1])) * np.where(axis[:, :2] >= 0, 1, -1)
    plane = np.where(axis[:, 2:] < 0, folded, axis[:, :2])
    return np.rint(
        np.concatenate([(plane * 0.5 + 0.5) * 255, angle[:, None] * (255 / np.pi)], axis=1)
    ).astype(np.uint8)


def pack_harmonics(gaussians: Gaussians, degree: int) -> bytes:
    """The harmonics of N Gaussians above degree 0, one degree after another, clipped to -1..1.

    Each value is a signed integer of so many bits, coefficient by coefficient with red, green and
    blue in turn, from the lowest bit of little-endian words on, as Spark wants them.
    """
    planes = []
    for order, (bits, size) in enumerate(HARMONICS[:degree], start=1):
        part = gaussians.harmonics[:, order**2 : (order + 1) ** 2].detach().cpu().float()
        count = len(part)
        values = np.zeros((count, 2 * order + 1, 3), np.int8)
        # A part of the scene may have a lower degree than the whole: zeros above it.
        values[:, : part.shape[1]] = np.rint(part.clamp(-1, 1).numpy() * (2 ** (bits - 1) - 1))
        values = values.reshape(count, 3 * (2 * order + 1))
        digits = (values[:, :, None] >> np.arange(bits, dtype=np.int8)) & 1
        spread = np.zeros((count, 8 * size), np.uint8)
        spread[:, : values.shape[1] * bits] = digits.reshape(count, values.shape[1] * bits)
        planes.append(np.packbits(spread, axis=1, bitorder="little").tobytes())
    return b"".join(planes)


def scene_files(
    scene: GaussianScene, frames: Tensor | None = None
) -> dict[str, Callable[[], bytes]]:
    """The parts of a scene by name, each made when it is called, in the order of their use.

    frames [V, T, 3, H, W] in [0, 1]: the input frames to fade over the scene, if there are any.
    Raises ValueError when frames do not have the scene's number of views and times.
    """
    grid = (scene.num_views, scene.num_frames)
    if frames is not None and (frames.ndim != 5 or tuple(frames.shape[:3]) != (*grid, 3)):
        raise ValueError(
            f"the viewer's frames have shape {tuple(frames.shape)}, but this scene needs "
            f"[{grid[0]}, {grid[1]}, 3, H, W]."
        )
    degree = min(round(scene.num_harmonics**0.5) - 1, len(HARMONICS))
    color_range = COLOR_RANGE if degree else (0.0, 1.0)

    def pack(gaussians: Gaussians) -> bytes:
        return pack_gaussians(gaussians, color_range).tobytes() + pack_harmonics(gaussians, degree)

    first = scene.at(0)
    about = {
        "width": scene.width,
        "height": scene.height,
        "fps": scene.fps,
        "static": len(scene.static),
        "dynamic": [len(g) for g in scene.dynamic],
        "extrinsics": scene.extrinsics.tolist(),
        "intrinsics": scene.intrinsics.tolist(),
        "depths": [first.viewing_distance(camera) for camera in scene.extrinsics],
        "frames": frames is not None,
        "degree": degree,
        "color_range": color_range,
    }
    parts = {
        "scene.json": lambda: json.dumps(about).encode(),
        "static.bin": lambda: pack(scene.static),
    }
    for time, gaussians in enumerate(scene.dynamic):
        parts[f"{time}.bin"] = lambda g=gaussians: pack(g)
    if frames is not None:
        for view, time in np.ndindex(grid):
            parts[f"{view}_{time}.jpg"] = lambda frame=frames[view, time]: jpeg(frame)
    return parts


def jpeg(frame: Tensor) -> bytes:
    """An image [3, H, W] in [0, 1] as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(frame)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def page() -> str:
    """The built page, without a scene."""
    return files("fourreal.viewer").joinpath("page.html").read_text(encoding="utf-8")


def export_html(
    scene: GaussianScene, path: str | os.PathLike, frames: Tensor | None = None
) -> None:
    """Write one HTML file that opens from disk, with the page and the scene (and its frames).

    The first time stands before the page's program, the others after it, so that the first image
    is there before the rest is read. Raises ValueError as scene_files does.
    """
    parts = scene_files(scene, frames)
    before, rest = page().split(SLOT)
    middle, after = rest.split(REST)
    first = ("scene.json", "static.bin", "0.bin")
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(before)
        file.writelines(embedded(name, parts[name]) for name in first)
        file.write(middle)
        file.writelines(embedded(name, part) for name, part in parts.items() if name not in first)
        file.write(after)


def embedded(name: str, part: Callable[[], bytes]) -> str:
    """A part as an element of the page."""
    content = base64.b64encode(part()).decode()
    return f'<script type="text/plain" id="part:{name}">{content}</script>\n'
