"""Kubric-4D (Van Hoorick et al., arXiv 2405.14868): where its files lie and what its cameras mean.

A scene is a folder `scn00000`; each of its still cameras has `frames_p0_v0/rgba_00000.png` and
`depth_00000.tiff` (distance to the camera's centre), and `scn00000_p0_v0.json` with its pose.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourreal.cameras import from_opengl, quaternion_to_matrix, scale_intrinsics
from fourreal.files.media import natural_order

HIGH_VIEWS = 4  # views 0 to 3 look down from 45 degrees, the others form a ring
COLOR_FILES = "rgba_*.png"
DISTANCE_FILES = "depth_*.tiff"


def kubric_views(scene: Path) -> list[Path]:
    """The folders of a scene's cameras, in their order; [] where the folder is no such scene."""
    return sorted(scene.glob("frames_p0_v*"), key=natural_order)


def kubric_arc(scene: Path) -> list[Path]:
    """The cameras that form a ring, or all of a scene that has too few for that."""
    views = kubric_views(scene)
    return views[HIGH_VIEWS:] if len(views) > 2 * HIGH_VIEWS else views


def kubric_camera_file(view: Path) -> Path:
    """The file with the pose of a camera's folder."""
    scene = view.parent
    return scene / f"{scene.name}_{view.name.removeprefix('frames_')}.json"


def kubric_camera(content: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Extrinsics [3, 4] and intrinsics [3, 3] in pixels, from the content of a camera's file."""
    camera, (width, height) = content["camera"], content["scene"]["resolution"]
    rotation = quaternion_to_matrix(torch.tensor(camera["quaternions"][0]).float())
    position = torch.tensor(camera["positions"][0]).float()
    extrinsics = from_opengl(torch.cat([rotation, position[:, None]], -1))
    intrinsics = torch.tensor(camera["K"]).float().abs()  # of an image of 1 x 1
    return extrinsics, scale_intrinsics(intrinsics, width, height)
