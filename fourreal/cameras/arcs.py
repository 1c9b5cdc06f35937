"""Still cameras on an arc through a given one, and the clip of a camera that moves through them."""

import math

import torch
from torch import Tensor

from fourreal.cameras.paths import interpolate_cameras, spline
from fourreal.cameras.pinhole import camera_centers, extrinsics_at, invert, to_homogeneous


def point_ahead(extrinsics: Tensor, depth: float) -> Tensor:
    """The world point [3] on the axis of a camera [3, 4] at this z-depth."""
    return camera_centers(extrinsics) + depth * extrinsics[2, :3]


def arc_cameras(
    extrinsics: Tensor,
    intrinsics: Tensor,
    num_views: int,
    *,
    degrees: float,
    elevation: float = 0.0,
    distance: float = 1.0,
    centre: Tensor,
    given: int = 0,
) -> tuple[Tensor, Tensor]:
    """V still cameras on an arc about a point, one of which is exactly the given camera.

    The given camera (extrinsics [3, 4], intrinsics [3, 3]) is number `given` of the arc: the first
    by default, as a fixed-view video is the first row of a grid; num_views // 2 puts it in the
    middle. From the first camera to the last, in equal steps, the camera moves `degrees` around
    `centre` to its right (to its left where negative), rises by `elevation` degrees and comes to
    `distance` times its distance; right and up are the given camera's. Each camera is the given one
    turned about the centre, so that the centre [3], a world point such as `point_ahead`, stays
    where it is in the image: all look at it as the given one does.

    Returns extrinsics [V, 3, 4] and intrinsics [V, 3, 3]. Raises ValueError for an arc of nothing
    or of a whole turn or more, fewer than two views, numbers that are not finite, and a centre that
    is not in front of the camera.
    """
    check_arc(num_views, given, degrees, elevation, distance)
    centre = centre.to(extrinsics)
    if not all(x.isfinite().all() for x in (extrinsics, intrinsics, centre)):
        raise ValueError(
            "the arc's camera or centre holds numbers that are not finite; give a camera and a "
            "centre that are known."
        )
    rotation, translation = extrinsics[:, :3], extrinsics[:, 3]
    toward = rotation @ centre + translation  # the centre in the given camera
    if toward[2] <= 0:
        raise ValueError(
            f"the arc's centre has depth {toward[2]:.3g} in the given camera, but must lie in "
            "front of it."
        )
    views = torch.arange(num_views, device=extrinsics.device).to(extrinsics.dtype)
    share = (views - given) / (num_views - 1)
    azimuth, rise = (math.radians(angle) * share for angle in (degrees, elevation))
    turn = about_y(-azimuth) @ about_x(-rise)  # of the camera about the centre, [V, 3, 3]
    position = toward - distance ** share[:, None] * (turn @ toward)  # in the given camera
    cameras = extrinsics_at(centre + (position - toward) @ rotation, turn.mT @ rotation)
    cameras[given] = extrinsics
    return cameras, intrinsics.expand(num_views, 3, 3).clone()


def check_arc(
    num_views: int, given: int, degrees: float, elevation: float, distance: float
) -> None:
    """Raise ValueError unless these describe an arc of `arc_cameras`."""
    if num_views < 2:
        raise ValueError(f"an arc has at least 2 views, but {num_views} was asked for.")
    if not 0 <= given < num_views:
        raise ValueError(
            f"the given camera is number {given} of the arc, but must be one of 0 to "
            f"{num_views - 1}."
        )
    if not 0 < abs(degrees) < 360:
        raise ValueError(
            f"the arc is {degrees} degrees, but must be more than 0 and less than 360 (negative to "
            "the left)."
        )
    if not abs(elevation) < 90:
        raise ValueError(
            f"the arc's elevation is {elevation} degrees, but must lie between -90 and 90."
        )
    if not 0 < distance < math.inf:
        raise ValueError(
            f"the arc's distance is {distance}, but must be a positive factor of the given "
            "camera's distance to the centre."
        )


def about_x(angles: Tensor) -> Tensor:
    """Rotations [V, 3, 3] about x by angles [V] in radians, y toward z."""
    one, zero, c, s = torch.ones_like(angles), torch.zeros_like(angles), angles.cos(), angles.sin()
    return torch.stack([one, zero, zero, zero, c, -s, zero, s, c], -1).unflatten(-1, (3, 3))


def about_y(angles: Tensor) -> Tensor:
    """Rotations [V, 3, 3] about y by angles [V] in radians, z toward x."""
    one, zero, c, s = torch.ones_like(angles), torch.zeros_like(angles), angles.cos(), angles.sin()
    return torch.stack([c, zero, s, zero, one, zero, -s, zero, c], -1).unflatten(-1, (3, 3))


def clip_through(
    extrinsics: Tensor, intrinsics: Tensor, *, steps: int = 4
) -> tuple[Tensor, Tensor, Tensor]:
    """The smooth path of one camera through V >= 2 cameras, as the frames of a video.

    A video model knows a camera that moves through a frozen moment: it fills such a clip, of which
    the V views are then kept. extrinsics [V, 3, 4], intrinsics [V, 3, 3]; `steps` frames from each
    camera to the next. Returns the extrinsics [K, 3, 4] and intrinsics [K, 3, 3] of all frames,
    K = steps (V - 1) + 1, and the frames [V] that are the given cameras. Raises ValueError where K
    is not 4k + 1, as video autoencoders need it (a multiple of four always serves).
    """
    num_views = len(extrinsics)
    if num_views < 2 or steps < 1 or steps * (num_views - 1) % 4:
        raise ValueError(
            f"{num_views} views with {steps} steps from each to the next make "
            f"{steps * (num_views - 1) + 1} frames, but a clip needs at least 2 views and 4k + 1 "
            "frames; use a multiple of 4 steps."
        )
    kept = steps * torch.arange(num_views, device=extrinsics.device)
    frames = torch.arange(steps * (num_views - 1) + 1, device=extrinsics.device)
    positions = frames.to(extrinsics.dtype) / steps
    # One camera more at either end, by the same movement again: the speed stays what it is.
    before, after = moved_on(extrinsics[1], extrinsics[0]), moved_on(extrinsics[-2], extrinsics[-1])
    longer = torch.cat([before[None], extrinsics, after[None]])
    path = interpolate_cameras(longer, positions + 1)
    path[kept] = extrinsics  # to the bit
    lens = spline(intrinsics.flatten(1), positions).unflatten(1, (3, 3))
    return path, lens, kept


def moved_on(before: Tensor, now: Tensor) -> Tensor:
    """The camera [3, 4] after the movement that led from `before` [3, 4] to `now`, once more."""
    last = to_homogeneous(now)
    return (last @ to_homogeneous(invert(before)) @ last)[:3]
