"""Exact scenes written as the folders of posed frames that training reads."""

import json

import torch
from PIL import Image

from fourreal.cameras import invert, pixel_grid
from fourreal.files.media import write_image


def opengl_to_world(extrinsics):
    """Camera-to-world [4, 4] with OpenGL's axes, by its definition: y up, z backward."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3] = invert(extrinsics.double())
    return matrix @ torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))


def quaternion(rotation):
    """w, x, y, z of a rotation [3, 3]: half its angle, and its axis as what it leaves in place."""
    values, vectors = torch.linalg.eig(rotation)
    axis = vectors[:, (values - 1).abs().argmin()].real
    across = torch.linalg.cross(axis, torch.eye(3, dtype=axis.dtype)[axis.abs().argmin()])
    turned = rotation @ across
    angle = torch.atan2(torch.linalg.cross(across, turned) @ axis, across @ turned) / 2
    return [angle.cos().item(), *(angle.sin() * axis).tolist()]


def write_kubric(folder, scene, unit):
    """The scene of square images in Kubric-4D's layout, in another world and unit."""
    size = scene.frames.shape[-1]
    angle = torch.tensor(0.5).double()  # half of the world's turn about y
    turn = torch.eye(4, dtype=torch.float64)
    turn[0, 0] = turn[2, 2] = (2 * angle).cos()
    turn[0, 2], turn[2, 0] = (2 * angle).sin(), -(2 * angle).sin()
    for v, (extrinsics, intrinsics) in enumerate(zip(scene.extrinsics, scene.intrinsics)):
        pose = turn @ opengl_to_world(extrinsics)
        w, *axis = quaternion(pose[:3, :3])
        frames = scene.frames.shape[1]
        camera = {
            "quaternions": [[w, *axis]] * frames,
            "positions": [(unit * pose[:3, 3]).tolist()] * frames,
            # Kubric's matrix is of a 1 x 1 image and has negative entries.
            "K": (intrinsics / size * torch.tensor([[1.0], [-1], [size]])).tolist(),
        }
        resolution = {"resolution": [size, size], "num_frames": frames}
        view = folder / f"frames_p0_v{v}"
        view.mkdir(parents=True)
        (folder / f"{folder.name}_p0_v{v}.json").write_text(
            json.dumps({"camera": camera, "scene": resolution})
        )
        rays = (pixel_grid(size, size) - intrinsics[:2, 2]) / intrinsics[[0, 1], [0, 1]]
        distance = scene.depth[v] * (1 + rays.square().sum(-1)).sqrt() * unit
        for t in range(frames):
            write_image(view / f"rgba_{t:05d}.png", scene.frames[v, t])
            Image.fromarray(distance[t].numpy()).save(view / f"depth_{t:05d}.tiff")


def write_photos(folder, scene, **changes):
    """The scene's first time as wide photos with nerfstudio's transforms.json."""
    folder.mkdir()
    frames = []
    for v, extrinsics in enumerate(scene.extrinsics):
        wide = torch.nn.functional.pad(scene.frames[v, 0], (8, 8, 0, 0))
        write_image(folder / f"{v}.png", wide)
        pose = opengl_to_world(extrinsics).tolist()
        frames.append({"file_path": f"{v}.png", "transform_matrix": pose})
    k = scene.intrinsics[0]
    content = {
        "fl_x": k[0, 0].item(),
        "fl_y": k[1, 1].item(),
        "cx": k[0, 2].item() + 8,
        "cy": k[1, 2].item(),
        "frames": frames,
    }
    (folder / "transforms.json").write_text(json.dumps(content | changes))
