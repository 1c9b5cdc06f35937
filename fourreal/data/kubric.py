"""Kubric-4D (Van Hoorick et al., arXiv 2405.14868): where its files lie and what its cameras mean.

A scene is a folder `scn00000`; each of its still cameras has `frames_p0_v0/rgba_00000.png` and
`depth_00000.tiff` (distance to the camera's centre), and `scn00000_p0_v0.json` with its pose.
"""

from pathlib import Path

import torch
from torch import Tensor

from fourreal.cameras import from_opengl, quaternion_to_matrix, scale_intrinsics
from fourreal.data.posed_photos import LARGEST_SIDE, alike
from fourreal.files.json_files import JsonValue, read_json
from fourreal.files.media import natural_order

HIGH_VIEWS = 4  # views 0 to 3 look down from 45 degrees, the others form a ring
COLOR_FILES = "rgba_*.png"
DISTANCE_FILES = "depth_*.tiff"


def kubric_views(scene: Path) -> list[Path]:
    """The folders of a scene's cameras, in their order; [] where the folder is no such scene."""
    return sorted((p for p in scene.glob("frames_p0_v*") if p.is_dir()), key=natural_order)


def kubric_arc(scene: Path) -> list[Path]:
    """The cameras that form a ring, or all of a scene that has too few for that."""
    views = kubric_views(scene)
    return views[HIGH_VIEWS:] if len(views) > 2 * HIGH_VIEWS else views


def kubric_camera_file(view: Path) -> Path:
    """The file with the pose of a camera's folder."""
    scene = view.parent
    return scene / f"{scene.name}_{view.name.removeprefix('frames_')}.json"


def read_kubric_camera(path: Path, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Extrinsics [3, 4] and intrinsics [3, 3] of a camera's file, in pixels of images of this size
    (width, height), to which they may have been resized.

    Raises ValueError in one sentence naming the file when a value is wrong, the camera moves or the
    images have another aspect than its own.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing; it holds the cameras.")
    content = read_json(path)
    camera, resolution = content.get("camera"), content.get("scene").get("resolution")
    quaternion = _still(camera.get("quaternions"), 4)
    if not sum(abs(value) for value in quaternion) > 1e-6:
        camera.get("quaternions").wrong("rotations")
    rotation = quaternion_to_matrix(torch.tensor(quaternion))
    position = torch.tensor(_still(camera.get("positions"), 3))
    extrinsics = from_opengl(torch.cat([rotation, position[:, None]], -1))
    own = tuple(side.integer(1, LARGEST_SIDE) for side in resolution.entries(2))
    if not alike((own[0], own[1]), size):
        resolution.wrong(f"the aspect of its images, which have {size[0]} x {size[1]} pixels,")
    matrix = camera.get("K")
    intrinsics = torch.tensor([row.numbers(3) for row in matrix.entries(3)]).abs()  # of 1 x 1
    if not (intrinsics.diagonal() > 1e-6).all() or not (intrinsics < 1e6).all():
        matrix.wrong("a matrix with focal lengths")
    return extrinsics, scale_intrinsics(intrinsics, *size)


def _still(rows: JsonValue, count: int) -> list[float]:
    """The values of the first of a camera's frames, which those of all others must be."""
    frames = rows.entries()
    if not frames:
        rows.wrong("a value for each frame")
    first = frames[0].numbers(count)
    for frame in frames[1:]:
        if any(abs(a - b) > 1e-3 for a, b in zip(frame.numbers(count), first)):
            frame.wrong(f"the same as in the first frame (only still cameras are read), {first},")
    return first
