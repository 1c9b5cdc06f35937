"""LOAD3D_CAMERA, the camera of core's 3D nodes and viewers, from and to this project's cameras.

It is right-handed with y up and looks down -z (three.js). Its world and its camera are the OpenCV
ones turned by 180 degrees about x, as core's viewers and Render Splat turn a SPLAT. It can hold
neither a principal point, which is taken to be the centre, nor pixels that are not square.
"""

import math

import torch
from torch import Tensor

from fourreal.cameras import (
    invert,
    look_at,
    matrix_to_quaternion,
    pixel_intrinsics,
    quaternion_to_matrix,
)
from fourreal.gaussians import GaussianScene

TURN = torch.tensor([1.0, -1.0, -1.0])  # of y and z
UP = torch.tensor([0.0, -1.0, 0.0])  # OpenCV's y is down


def camera_info(position, target, quaternion, fov: float, aspect: float) -> dict:
    """LOAD3D_CAMERA of three.js's numbers: position and target (x, y, z), quaternion (x, y, z, w),
    fov the vertical field of view in degrees, aspect width / height."""
    return {
        "position": dict(zip("xyz", position)),
        "target": dict(zip("xyz", target)),
        "quaternion": dict(zip("xyzw", quaternion)),
        "fov": fov,
        "aspect": aspect,
        "zoom": 1.0,
        "cameraType": "perspective",
    }


def to_camera_info(
    extrinsics: Tensor, intrinsics: Tensor, width: int, height: int, distance: float
) -> dict:
    """LOAD3D_CAMERA of a camera [3, 4], [3, 3]; `distance` to what it looks at, for orbiting."""
    to_world = TURN[:, None] * invert(extrinsics.cpu())
    rotation, position = to_world[:, :3] * TURN, to_world[:, 3]
    w, x, y, z = matrix_to_quaternion(rotation).tolist()
    fov = 2 * math.atan(0.5 * height / intrinsics[1, 1].item())
    target = position - distance * rotation[:, 2]
    return camera_info(
        position.tolist(), target.tolist(), (x, y, z, w), math.degrees(fov), width / height
    )


def from_camera_info(camera: dict, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Extrinsics [3, 4] and intrinsics [3, 3] (pixels of width x height) of a LOAD3D_CAMERA.

    Raises ValueError for an orthographic camera.
    """
    if camera["cameraType"] != "perspective":
        raise ValueError(
            f"the camera is {camera['cameraType']}, but only perspective cameras can be rendered."
        )
    position, target = (
        TURN * torch.tensor([float(camera[name][axis]) for axis in "xyz"])
        for name in ("position", "target")
    )
    if camera.get("quaternion"):
        turn = torch.tensor([float(camera["quaternion"][axis]) for axis in "wxyz"])
        rotation = TURN[:, None] * quaternion_to_matrix(turn) * TURN
        extrinsics = invert(torch.cat([rotation, position[:, None]], dim=1))
    else:
        extrinsics = look_at(position, target, UP)
    half = math.tan(math.radians(float(camera.get("fov", 35.0))) / 2) / float(camera["zoom"])
    return extrinsics, pixel_intrinsics(torch.tensor(2 * math.atan(half)), height, width)


def cameras_of(camera: dict | list[dict], width: int, height: int) -> tuple[Tensor, Tensor]:
    """Extrinsics [V, 3, 4] and intrinsics [V, 3, 3] of a LOAD3D_CAMERA, which is one camera or, of
    Batch Cameras and Create Camera Orbit in later cores, a list of them."""
    cameras = [camera] if isinstance(camera, dict) else camera
    extrinsics, intrinsics = zip(*(from_camera_info(c, width, height) for c in cameras))
    return torch.stack(extrinsics), torch.stack(intrinsics)


def view_camera(scene: GaussianScene, view: int) -> dict:
    """LOAD3D_CAMERA of an input view."""
    extrinsics, intrinsics = scene.extrinsics[view], scene.intrinsics[view]
    distance = scene.at(0).viewing_distance(extrinsics)
    return to_camera_info(extrinsics, intrinsics, scene.width, scene.height, distance)
