"""Pinhole cameras and the paths they take."""

from fourreal.cameras.arcs import arc_cameras, clip_through, point_ahead
from fourreal.cameras.keyframes import Keyframes, load_keyframes
from fourreal.cameras.paths import (
    PATH_KINDS,
    TIME_KINDS,
    CameraPath,
    Coverage,
    camera_path,
    interpolate_cameras,
    schedule,
)
from fourreal.cameras.pinhole import (
    camera_centers,
    invert,
    look_at,
    matrix_to_quaternion,
    pixel_grid,
    pixel_intrinsics,
    project,
    quaternion_to_matrix,
    relative_to_first,
    scale_intrinsics,
    to_homogeneous,
    unproject,
    warp,
)

__all__ = [
    "PATH_KINDS",
    "TIME_KINDS",
    "CameraPath",
    "Coverage",
    "Keyframes",
    "arc_cameras",
    "camera_centers",
    "camera_path",
    "clip_through",
    "interpolate_cameras",
    "invert",
    "load_keyframes",
    "look_at",
    "matrix_to_quaternion",
    "pixel_grid",
    "pixel_intrinsics",
    "point_ahead",
    "project",
    "quaternion_to_matrix",
    "relative_to_first",
    "scale_intrinsics",
    "schedule",
    "to_homogeneous",
    "unproject",
    "warp",
]
