"""Pinhole cameras.

OpenCV everywhere: x right, y down, z forward; extrinsics are world to camera [..., 3, 4];
intrinsics are in pixels [..., 3, 3]; the centre of the first pixel is at (0.5, 0.5).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

PARALLEL = 1e-6  # sine of the least angle between a line of sight and up


def pixel_intrinsics(fov_y: Tensor, height: int, width: int) -> Tensor:
    """Intrinsics [..., 3, 3] of square pixels from the vertical field of view [...] (radians)."""
    focal = 0.5 * height / torch.tan(fov_y / 2)
    zero, one = torch.zeros_like(focal), torch.ones_like(focal)
    return torch.stack(
        [focal, zero, 0.5 * width * one, zero, focal, 0.5 * height * one, zero, zero, one], -1
    ).reshape(*focal.shape, 3, 3)


def scale_intrinsics(intrinsics: Tensor, scale_x: float, scale_y: float) -> Tensor:
    """Intrinsics [..., 3, 3] of the same camera after its image was resized by these factors."""
    factors = intrinsics.new_tensor([scale_x, scale_y, 1.0])
    return intrinsics * factors[:, None]


def look_at(
    position: Tensor | Sequence, target: Tensor | Sequence, up: Tensor | Sequence
) -> Tensor:
    """Extrinsics [..., 3, 4] of cameras at position [..., 3] that look at target; lists of numbers
    become float32, or what tensors beside them are.

    `up` is the world direction that appears upward in the image. Raises ValueError for a camera
    that is at its target, or looks straight along up.
    """
    like = next((x for x in (position, target, up) if isinstance(x, Tensor)), torch.empty(0))
    position, target, up = (
        x if isinstance(x, Tensor) else like.new_tensor(x) for x in (position, target, up)
    )
    forward = torch.nn.functional.normalize(target - position, dim=-1)
    upward = torch.nn.functional.normalize(up, dim=-1).expand_as(forward)
    right = torch.linalg.cross(forward, upward)
    if not forward.any(-1).all():
        raise ValueError("a camera is at its target; give a position and a target that differ.")
    if (torch.linalg.vector_norm(right, dim=-1) < PARALLEL).any():
        raise ValueError(
            "a camera looks straight along up, so no side of its image is up; give another up."
        )
    right = torch.nn.functional.normalize(right, dim=-1)
    down = torch.linalg.cross(forward, right)
    return extrinsics_at(position, torch.stack([right, down, forward], dim=-2))


def extrinsics_at(center: Tensor, rotation: Tensor) -> Tensor:
    """Extrinsics [..., 3, 4] of cameras at center [..., 3] with world-to-camera rotation
    [..., 3, 3]."""
    return torch.cat([rotation, -rotation @ center[..., None]], dim=-1)


def camera_centers(extrinsics: Tensor) -> Tensor:
    """World positions [..., 3] of cameras with extrinsics [..., 3, 4]."""
    return -(extrinsics[..., :3].transpose(-1, -2) @ extrinsics[..., 3:])[..., 0]


def to_homogeneous(extrinsics: Tensor) -> Tensor:
    """[..., 3, 4] to [..., 4, 4]."""
    last = extrinsics.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*extrinsics.shape[:-2], 1, 4)
    return torch.cat([extrinsics, last], dim=-2)


def invert(extrinsics: Tensor) -> Tensor:
    """Camera-to-world [..., 3, 4] of world-to-camera [..., 3, 4], and back."""
    rotation = extrinsics[..., :3].transpose(-1, -2)
    return extrinsics_at(extrinsics[..., 3], rotation)


def from_opengl(to_world: Tensor) -> Tensor:
    """Extrinsics [..., 3, 4] of OpenGL's camera-to-world matrices [..., 3 or 4, 4], whose cameras
    look along -z with y up."""
    return invert(to_world[..., :3, :] * to_world.new_tensor([1.0, -1.0, -1.0, 1.0]))


def to_opengl(extrinsics: Tensor) -> Tensor:
    """World-to-camera [..., 3, 4] (OpenCV) to camera-to-world [..., 4, 4] with OpenGL's axes: y up,
    z backward. The inverse of from_opengl."""
    turn = extrinsics.new_tensor([1, -1, -1, 1])
    return to_homogeneous(invert(extrinsics)) * turn


def relative_to_first(extrinsics: Tensor) -> Tensor:
    """Extrinsics [V, 3, 4] in the world of the first camera (which becomes the identity)."""
    return (to_homogeneous(extrinsics) @ to_homogeneous(invert(extrinsics[:1])))[..., :3, :]


def pixel_grid(
    height: int,
    width: int,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Pixel centres [H, W, 2] as (x, y), the first one at (0.5, 0.5)."""
    y, x = torch.meshgrid(
        torch.arange(height, device=device, dtype=dtype) + 0.5,
        torch.arange(width, device=device, dtype=dtype) + 0.5,
        indexing="ij",
    )
    return torch.stack([x, y], dim=-1)


def unproject(depth: Tensor, extrinsics: Tensor, intrinsics: Tensor) -> Tensor:
    """World points [..., H, W, 3] of z-depth maps [..., H, W] (world units).

    extrinsics [..., 3, 4] and intrinsics [..., 3, 3] broadcast against depth's leading dimensions.
    """
    height, width = depth.shape[-2:]
    pixels = pixel_grid(height, width, depth.device, depth.dtype)
    focal = torch.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], -1)[..., None, None, :]
    center = intrinsics[..., :2, 2][..., None, None, :]
    camera = torch.cat([(pixels - center) / focal * depth[..., None], depth[..., None]], dim=-1)
    to_world = invert(extrinsics)
    return camera @ to_world[..., None, :, :3].transpose(-1, -2) + to_world[..., None, None, :, 3]


def project(points: Tensor, extrinsics: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels [..., N, 2] and z-depths [..., N] of world points [..., N, 3].

    extrinsics [..., 3, 4] and intrinsics [..., 3, 3] broadcast against the points' leading
    dimensions. Points behind the camera have a z-depth below 0 and pixels that mean nothing.
    """
    camera = points @ extrinsics[..., :3].transpose(-1, -2) + extrinsics[..., None, :, 3]
    depth = camera[..., 2]
    projected = camera @ intrinsics.transpose(-1, -2)
    return projected[..., :2] / depth.clamp_min(1e-8)[..., None], depth


def pixels_hit(
    pixels: Tensor, depth: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns [..., N] (integers, clamped into the image) of the pixels that projected
    points [..., N, 2] fall into, and which points do [..., N]: inside a height x width image and in
    front of the camera, depth [..., N]."""
    column, row = pixels.floor().long().unbind(-1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (depth > 1e-6)
    return row.clamp(0, height - 1), column.clamp(0, width - 1), inside


def places_seen(
    depth: Tensor, target: tuple[Tensor, Tensor], source: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Where source cameras see the surfaces that target cameras see in each pixel.

    depth [N, H, W] of the targets; each camera is extrinsics [N or nothing, 3, 4] and intrinsics,
    in pixels of H x W. Returns the places in the sources' images [N, H, W, 2], from -1 to 1 over
    their width and height as grid_sample counts; which of them are inside [N, H, W]; and the
    z-depth of the surfaces in the sources [N, H, W].
    """
    height, width = depth.shape[-2:]
    (own, own_lenses), (other, other_lenses) = target, source
    to_places = other_lenses.new_tensor([[2 / width, 0, -1], [0, 2 / height, -1], [0, 0, 1]])
    lenses = to_places @ other_lenses
    between = to_homogeneous(other) @ to_homogeneous(invert(own))
    # Pixel to ray to place in one matrix, once a camera: no step is taken for each point but these.
    rays = lenses @ between[..., :3, :3] @ torch.linalg.inv_ex(own_lenses).inverse
    pixels = pixel_grid(height, width, depth.device, depth.dtype).flatten(0, 1).T
    rays = rays[..., :2] @ pixels + rays[..., 2:]
    points = rays * depth.flatten(1)[:, None] + lenses @ between[..., :3, 3:]
    x, y, distance = points.unflatten(-1, (height, width)).unbind(-3)
    places = torch.stack([x, y], -1) / distance.clamp_min(1e-8)[..., None]
    return places, torch.maximum(x.abs(), y.abs()) < distance, distance


def colors_at(images: Tensor, places: Tensor) -> Tensor:
    """Images [N, C, H, W] at places [N, h, w, 2], see places_seen, interpolated linearly; past the
    borders, what is there: [N, C, h, w]."""
    return F.grid_sample(images, places, padding_mode="border", align_corners=False)


def warp(
    images: Tensor, depth: Tensor, target: tuple[Tensor, Tensor], source: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Images of source cameras as target cameras see them, by the targets' depth.

    images [N, C, H, W] of the sources; the rest, see places_seen. Returns the warped images
    [N, C, H, W]; where they come from inside the sources' images [N, H, W]; and the z-depth of the
    targets' surfaces in the sources [N, H, W].
    """
    places, inside, distance = places_seen(depth, target, source)
    return colors_at(images, places), inside, distance


def quaternion_to_matrix(quaternions: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of quaternions [..., 4] (w, x, y, z), normalised here."""
    squared = quaternions.square().sum(-1, keepdim=True)
    w, x, y, z = (quaternions * squared.clamp_min(1e-24).rsqrt()).unbind(-1)
    # One component after another in memory: faster for what is computed from many of them.
    entries = torch.stack(
        [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        ]
    )
    return entries.unflatten(0, (3, 3)).movedim((0, 1), (-2, -1))


def matrix_to_quaternion(matrices: Tensor) -> Tensor:
    """Quaternions [..., 4] (w, x, y, z), w >= 0, of rotation matrices [..., 3, 3].

    The eigenvector form (Bar-Itzhack 2000), stable for every rotation.
    """
    m = matrices
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    xy, xz, yz = (
        m[..., 0, 1] + m[..., 1, 0],
        m[..., 0, 2] + m[..., 2, 0],
        m[..., 1, 2] + m[..., 2, 1],
    )
    wx, wy, wz = (
        m[..., 2, 1] - m[..., 1, 2],
        m[..., 0, 2] - m[..., 2, 0],
        m[..., 1, 0] - m[..., 0, 1],
    )
    symmetric = torch.stack(
        [
            *(xx + yy + zz, wx, wy, wz),
            *(wx, xx - yy - zz, xy, xz),
            *(wy, xy, yy - xx - zz, yz),
            *(wz, xz, yz, zz - xx - yy),
        ],
        dim=-1,
    ).reshape(*m.shape[:-2], 4, 4)
    quaternions = torch.linalg.eigh(symmetric).eigenvectors[..., -1]
    return torch.where(quaternions[..., :1] < 0, -quaternions, quaternions)
