"""A scene in the parts that the viewer page reads, and page and scene together as one HTML file.

The page asks for these parts by name:

- `scene.json`: the counts of Gaussians, the cameras, the frame rate, the scene's `center`, and its
  `orbit` (orbit.py)
- `static.bin`: the Gaussians that stand still
- `<t>.bin`: the moving Gaussians of time t
- `<view>_<t>.jpg`: the input frames, if there are any

A part with N Gaussians has them in Spark's packed layout (its file PackedSplats.ts), 16 bytes each:
colour and opacity in a byte per channel, the position as three half floats, each scale's logarithm
in a byte, the rotation as an octahedral axis (two bytes) and an angle (one). Behind them come the
harmonics of degree 1 of all N, then those of degree 2 and 3 where the scene has them. Higher
degrees are left out: Spark has none. Positions and cameras are relative to the center, for half
floats are fine near 0 only: at 1000 units from it they are 0.5 apart.
"""

import base64
import io
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from fourreal.files.atomic import atomic_path
from fourreal.files.media import to_uint8
from fourreal.gaussians import Gaussians, GaussianScene, harmonics_to_rgb
from fourreal.viewer.orbit import orbit

LN_SCALE = (-12.0, 9.0)  # the log scales that Spark's bytes 1 and 255 stand for
COLOR_RANGE = (-0.5, 1.5)  # of degree 0, where the sum with higher degrees is what lies in 0..1
HARMONICS = ((7, 8), (8, 16), (6, 16))  # degree 1, 2, 3: bits per value, bytes per Gaussian
SLOT = "<!-- scene -->"  # place in the page of the parts for the first image
REST = "<!-- rest -->"  # place of the other parts, behind the program
FIRST = ("scene.json", "static.bin", "0.bin")  # the parts for the first image

Part = Callable[[], bytes]


def pack_gaussians(
    gaussians: Gaussians,
    color_range: tuple[float, float] = (0.0, 1.0),
    center: Sequence[float] = (0.0, 0.0, 0.0),
) -> np.ndarray:
    """Pack N Gaussians in Spark's layout: uint32 [N, 4], little endian.

    color_range: the colours of degree 0 that bytes 0 and 255 stand for. Colours outside are
    clipped, as are scales outside exp(LN_SCALE) and positions that a half float cannot hold.
    center: the point that positions are relative to.
    """
    parts = (gaussians.means, gaussians.quaternions, gaussians.scales, gaussians.opacities)
    means, quaternions, scales, opacities = (p.detach().cpu().double().numpy() for p in parts)
    rgb = harmonics_to_rgb(gaussians.harmonics.detach().cpu().double()).numpy()
    packed = np.zeros((len(means), 16), np.uint8)
    darkest, brightest = color_range
    packed[:, 0:3] = np.rint(255 * ((rgb - darkest) / (brightest - darkest)).clip(0, 1))
    packed[:, 3] = np.rint(255 * opacities.clip(0, 1))
    packed[:, 4:10] = (
        (means - np.array(center)).clip(-65504, 65504).astype("<f2").view(np.uint8).reshape(-1, 6)
    )
    turns = octahedral_rotation(quaternions)
    packed[:, 10:12], packed[:, 15] = turns[:, :2], turns[:, 2]
    low, high = LN_SCALE
    logs = np.log(np.maximum(scales, np.exp(low)))
    packed[:, 12:15] = (1 + np.rint((logs - low) * 254 / (high - low))).clip(1, 255)
    return packed.view("<u4")


def octahedral_rotation(quaternions: np.ndarray) -> np.ndarray:
    """Quaternions (w, x, y, z) [N, 4], of any length, as bytes [N, 3].

    Two bytes are the rotation's axis, projected on the octahedron; the third is the angle, of
    which 255 is pi.
    """
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
    """Pack the harmonics of degree 1 to `degree` of N Gaussians, all N of one degree together.

    A value is clipped to -1..1 and becomes a signed integer of a few bits (HARMONICS). A Gaussian's
    values follow each other without gaps from the lowest bit of its little-endian words on:
    coefficient by coefficient, red, green and blue of each. Degrees that the Gaussians do not have
    are filled with zeros.
    """
    planes = []
    for order, (bits, size) in enumerate(HARMONICS[:degree], start=1):
        part = gaussians.harmonics[:, order**2 : (order + 1) ** 2].detach().cpu().float()
        count = len(part)
        coefficients = np.zeros((count, 2 * order + 1, 3), np.int8)
        largest = 2 ** (bits - 1) - 1
        coefficients[:, : part.shape[1]] = np.rint(part.clamp(-1, 1).numpy() * largest)
        values = rearrange(coefficients, "n k c -> n (k c)")
        digits = (values[:, :, None] >> np.arange(bits, dtype=np.int8)) & 1
        spread = np.zeros((count, 8 * size), np.uint8)
        spread[:, : values.shape[1] * bits] = digits.reshape(count, values.shape[1] * bits)
        planes.append(np.packbits(spread, axis=1, bitorder="little").tobytes())
    return b"".join(planes)


def scene_files(scene: GaussianScene, frames: Tensor | None = None) -> dict[str, Part]:
    """Functions that make the parts of a scene, by the parts' names, in the order of their use.

    frames [V, T, 3, H, W] in [0, 1]: the input frames, which the page can fade over the scene.
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

    first = scene.at(0)
    center = middle_of(first)

    def pack(gaussians: Gaussians) -> bytes:
        packed = pack_gaussians(gaussians, color_range, center).tobytes()
        return packed + pack_harmonics(gaussians, degree)

    def at_time(time: int) -> bytes:
        return pack(scene.dynamic[time])

    moved = scene.extrinsics.detach().cpu().double().clone()
    moved[:, :, 3] += moved[:, :, :3] @ torch.tensor(center, dtype=torch.float64)
    depths = [first.viewing_distance(camera) for camera in scene.extrinsics]
    about = {
        "width": scene.width,
        "height": scene.height,
        "fps": scene.fps,
        "static": len(scene.static),
        "dynamic": [len(g) for g in scene.dynamic],
        "center": center,
        "extrinsics": moved.tolist(),
        "intrinsics": scene.intrinsics.tolist(),
        "depths": depths,
        "orbit": orbit(scene, depths[len(depths) // 2], center),
        "frames": frames is not None,
        "degree": degree,
        "color_range": color_range,
    }
    parts: dict[str, Part] = {
        "scene.json": lambda: json.dumps(about).encode(),
        "static.bin": lambda: pack(scene.static),
    }
    for time in range(scene.num_frames):
        parts[f"{time}.bin"] = partial(at_time, time)
    if frames is not None:
        for view, time in np.ndindex(grid):
            parts[f"{view}_{time}.jpg"] = partial(jpeg, frames[view, time])
    return parts


def middle_of(gaussians: Gaussians) -> list[float]:
    """The median of the positions along each axis; the origin where there are none."""
    means = gaussians.means.detach().cpu().double()
    return means.median(dim=0).values.tolist() if len(means) else [0.0, 0.0, 0.0]


def jpeg(frame: Tensor) -> bytes:
    """An image [3, H, W] in [0, 1] as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(frame)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def page() -> str:
    """The built page, without a scene."""
    return files("fourreal.viewer").joinpath("page.html").read_text(encoding="utf-8")


def export_html(
    scene: GaussianScene, path: str | os.PathLike[str], frames: Tensor | None = None
) -> None:
    """Write one HTML file that opens from disk, with the page, the scene and its frames inside.

    Time 0 is embedded before the script, the rest after it, so the first image shows before the
    file is fully parsed. Raises ValueError as scene_files does.
    """
    parts = scene_files(scene, frames)
    before, rest = page().split(SLOT)
    middle, after = rest.split(REST)
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(before)
        file.writelines(part_element(name, parts[name]) for name in FIRST)
        file.write(middle)
        others = (name for name in parts if name not in FIRST)
        file.writelines(part_element(name, parts[name]) for name in others)
        file.write(after)


def part_element(name: str, part: Part) -> str:
    """A part as an element of the page, where source.js finds it."""
    content = base64.b64encode(part()).decode()
    return f'<script type="text/plain" id="part:{name}">{content}</script>\n'
