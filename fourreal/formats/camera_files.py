"""The cameras of a scene for other programs: transforms.json, or COLMAP's text files.

Blender's importers, nerfstudio and instant-ngp read the former; COLMAP, SuperSplat (as keyframes of
its timeline) and most trainers of Gaussians the latter.
"""

import os
from pathlib import Path

import torch
from torch import Tensor

from fourreal.cameras import to_opengl
from fourreal.cameras.pinhole import matrix_to_quaternion
from fourreal.files.atomic import results_folder
from fourreal.files.json_files import write_json
from fourreal.gaussians import GaussianScene


def image_names(num_views: int) -> list[str]:
    """view_01.png.., the images that the cameras belong to."""
    digits = max(2, len(str(num_views)))
    return [f"view_{view + 1:0{digits}d}.png" for view in range(num_views)]


def save_cameras(scene: GaussianScene, path: str | os.PathLike) -> None:
    """Write a scene's V cameras: *.json as transforms.json, a folder as COLMAP's text files.

    Raises ValueError for a file of another suffix.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        save_transforms(scene, path)
    elif path.suffix and not path.is_dir():
        raise ValueError(
            f"cameras are written to a .json file (transforms.json) or a folder (COLMAP), not to "
            f"{path}."
        )
    else:
        save_colmap(scene, path)


def save_transforms(scene: GaussianScene, path: str | os.PathLike) -> None:
    """Write transforms.json: camera to world [4, 4] with OpenGL's axes, intrinsics in pixels."""
    frames = []
    poses = to_opengl(scene.extrinsics.double())
    for name, pose, k in zip(
        image_names(scene.num_views), poses, scene.intrinsics.double(), strict=True
    ):
        lens = {"fl_x": k[0, 0], "fl_y": k[1, 1], "cx": k[0, 2], "cy": k[1, 2]}
        frame = {"file_path": name, "w": scene.width, "h": scene.height}
        frame |= {key: value.item() for key, value in lens.items()}
        frames.append(frame | {"transform_matrix": pose.tolist()})
    write_json(path, {"camera_model": "PINHOLE", "frames": frames})


def save_colmap(scene: GaussianScene, folder: str | os.PathLike) -> None:
    """Write cameras.txt (PINHOLE), images.txt (world to camera) and an empty points3D.txt."""
    cameras = ["# CAMERA_ID MODEL WIDTH HEIGHT fx fy cx cy"]
    images = ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME; then a line of points, empty here"]
    extrinsics = scene.extrinsics.double()
    rotations = matrix_to_quaternion(extrinsics[:, :, :3])
    for view, name in enumerate(image_names(scene.num_views)):
        k = scene.intrinsics[view].double()
        lens = _row(torch.stack([k[0, 0], k[1, 1], k[0, 2], k[1, 2]]))
        cameras.append(f"{view + 1} PINHOLE {scene.width} {scene.height} {lens}")
        pose = _row(torch.cat([rotations[view], extrinsics[view, :, 3]]))
        images += [f"{view + 1} {pose} {view + 1} {name}", ""]
    with results_folder(folder) as temporary:
        for name, lines in (("cameras", cameras), ("images", images), ("points3D", ["# empty"])):
            (temporary / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _row(values: Tensor) -> str:
    return " ".join(repr(value) for value in values.tolist())
