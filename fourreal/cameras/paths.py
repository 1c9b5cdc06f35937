"""Camera paths through a scene: where the camera goes, which time each frame shows.

A path is made of the input cameras alone: they say what the scene looks at (the point nearest to
their optical axes) and which part of the sphere around it they cover. Nothing was seen from
elsewhere, so cameras are kept there unless that is lifted.
"""

import logging
import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.cameras.keyframes import Keyframes
from fourreal.cameras.pinhole import (
    camera_centers,
    look_at,
    matrix_to_quaternion,
    pixel_intrinsics,
    quaternion_to_matrix,
)

log = logging.getLogger(__name__)

PathKind = Literal[
    "orbit", "inputs", "freeze_time", "fixed_view", "replay", "spiral", "push_in", "dolly_zoom"
]
TimeKind = Literal["play", "freeze", "ramp", "ping_pong"]
PATH_KINDS: tuple[str, ...] = get_args(PathKind)
TIME_KINDS: tuple[str, ...] = get_args(TimeKind)
MARGIN = math.radians(5)  # how far beyond the outermost input camera still counts as covered
NEARER, FARTHER = 0.5, 1.5  # distances to the target, of the nearest and farthest input's
PUSH = 0.4  # how far push_in and dolly_zoom go, in distances to the target
TURNS = 2  # of the spiral


@dataclass
class CameraPath:
    """K cameras, one per output frame, each with the scene time it shows.

    extrinsics [K, 3, 4], intrinsics [K, 3, 3] in pixels of width x height, times [K] (integers
    in 0..T-1).
    """

    extrinsics: Tensor
    intrinsics: Tensor
    times: Tensor
    width: int
    height: int


def spline(values: Tensor, positions: Tensor) -> Tensor:
    """Catmull-Rom through values [M, D] at fractional indices `positions` [K] (0..M-1): [K, D]."""
    last = len(values) - 1
    low = positions.floor().long().clamp(0, max(last - 1, 0))
    u = (positions - low)[:, None]
    before, start, end, after = (values[(low + i).clamp(0, last)] for i in (-1, 0, 1, 2))
    return 0.5 * (
        2 * start
        + (end - before) * u
        + (2 * before - 5 * start + 4 * end - after) * u**2
        + (3 * start - before - 3 * end + after) * u**3
    )


def interpolate_cameras(extrinsics: Tensor, positions: Tensor) -> Tensor:
    """Cameras [K, 3, 4] at fractional indices `positions` [K] (0..V-1) along V cameras.

    A spline in SE(3) with continuous velocity: Catmull-Rom in the centres and in the quaternions,
    each taken with the sign nearer to the one before it, and normalised after.
    """
    quaternions = matrix_to_quaternion(extrinsics[:, :, :3])
    agreement = (quaternions[1:] * quaternions[:-1]).sum(-1, keepdim=True)
    signs = torch.where(agreement < 0, -1.0, 1.0).to(quaternions).cumprod(0)
    quaternions = torch.cat([quaternions[:1], quaternions[1:] * signs])
    center, quaternion = spline(
        torch.cat([camera_centers(extrinsics), quaternions], dim=-1), positions
    ).split([3, 4], dim=-1)
    return place(quaternion_to_matrix(quaternion), center)


def place(rotation: Tensor, center: Tensor) -> Tensor:
    """Extrinsics [..., 3, 4] of world-to-camera rotations [..., 3, 3] and centres [..., 3]."""
    return torch.cat([rotation, -rotation @ center[..., None]], dim=-1)


@dataclass
class Coverage:
    """The part of the sphere around target [3] that the input cameras cover.

    axes [3, 3]: right, up and toward the cameras, as rows; low, high [3]: azimuth and elevation in
    radians and distance of the outermost cameras, margins included.
    """

    target: Tensor
    axes: Tensor
    low: Tensor
    high: Tensor

    @staticmethod
    def of(extrinsics: Tensor, distance: float = 1.0) -> "Coverage":
        """Of cameras [V, 3, 4]. Where their axes meet nowhere ahead (one camera, parallel ones),
        the target is `distance` in front of the middle one."""
        centers, forward = camera_centers(extrinsics), extrinsics[:, 2, :3]
        middle = len(extrinsics) // 2
        # The nearest point to all axes: sum (1 - f f^T) (x - c) = 0.
        across = torch.eye(3).to(forward) - forward[:, :, None] * forward[:, None, :]
        matrix = across.mean(0)
        target = centers[middle] + distance * forward[middle]
        if torch.linalg.eigvalsh(matrix)[0] > 1e-4:
            meeting = torch.linalg.solve(matrix, (across @ centers[..., None]).mean(0)[:, 0])
            if (((meeting - centers) * forward).sum(-1) > 0).all():
                target = meeting
        toward = F.normalize(F.normalize(centers - target, dim=-1).mean(0), dim=0)
        up = -extrinsics[:, 1, :3].mean(0)
        up = F.normalize(up - (up @ toward) * toward, dim=0)
        axes = torch.stack([torch.linalg.cross(up, toward), up, toward])
        result = Coverage(target, axes, target, target)
        places = result.locate(centers)
        margin = torch.tensor([MARGIN, MARGIN, 0.0]).to(places)
        factors = torch.tensor([[1, 1, NEARER], [1, 1, FARTHER]]).to(places)
        result.low = (places.amin(0) - margin) * factors[0]
        result.high = (places.amax(0) + margin) * factors[1]
        return result

    def locate(self, centers: Tensor) -> Tensor:
        """Azimuth, elevation and distance [..., 3] of camera centres [..., 3]."""
        right, up, toward = ((centers - self.target) @ self.axes.T).unbind(-1)
        radius = torch.stack([right, up, toward], -1).norm(dim=-1).clamp_min(1e-8)
        elevation = (up / radius).clamp(-1, 1).asin()
        return torch.stack([torch.atan2(right, toward), elevation, radius], -1)

    def position(self, places: Tensor) -> Tensor:
        """Centres [..., 3] of places [..., 3]; undoes `locate`."""
        azimuth, elevation, radius = places.unbind(-1)
        flat = radius * elevation.cos()
        local = [flat * azimuth.sin(), radius * elevation.sin(), flat * azimuth.cos()]
        return torch.stack(local, -1) @ self.axes + self.target

    def excess(self, extrinsics: Tensor) -> Tensor:
        """How far outside cameras [K, 3, 4] are: azimuth, elevation, distance [K, 3]."""
        places = self.locate(camera_centers(extrinsics))
        return places - places.maximum(self.low).minimum(self.high)

    def bound(self, extrinsics: Tensor) -> Tensor:
        """The cameras [K, 3, 4], those outside swung about the target to the border."""
        centers = camera_centers(extrinsics)
        places = self.locate(centers)
        bounded = self.position(places.maximum(self.low).minimum(self.high))
        outside = self.excess(extrinsics).abs().amax(-1) > 1e-6
        # The shortest turn about the target from the old direction to the new one.
        old, new = (F.normalize(c - self.target, dim=-1) for c in (centers, bounded))
        half = F.normalize(old + new, dim=-1)
        turn = torch.cat(
            [(old * half).sum(-1, keepdim=True), torch.linalg.cross(old, half, dim=-1)], -1
        )
        rotation = extrinsics[..., :3] @ quaternion_to_matrix(turn).mT
        return torch.where(outside[:, None, None], place(rotation, bounded), extrinsics)


def schedule(kind: str, num_frames: int, num_times: int, freeze_at: int = 0) -> Tensor:
    """The scene time [K] of every frame.

    play: from the first to the last. freeze: `freeze_at` throughout (bullet time). ramp: plays,
    slows down to a stop at `freeze_at` in the middle, and speeds up again. ping_pong: to the last
    and back.
    """
    if kind not in TIME_KINDS:
        raise ValueError(f"the time is {kind!r}, but must be one of {', '.join(TIME_KINDS)}.")
    last = num_times - 1
    stop = min(freeze_at, last)
    phase = torch.linspace(0, 1, num_frames, dtype=torch.float64)
    near = (2 * phase - 1) ** 3  # -1..1, flat in the middle
    times = {
        "play": phase * last,
        "freeze": torch.full_like(phase, stop),
        "ramp": stop + near * torch.where(near < 0, stop, last - stop),
        "ping_pong": (1 - (2 * phase - 1).abs()) * last,
    }[kind]
    return times.round().long()


def camera_path(
    extrinsics: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
    num_times: int,
    kind: str = "orbit",
    num_frames: int | None = None,
    freeze_at: int = 0,
    *,
    time: str | None = None,
    keyframes: Keyframes | None = None,
    distance: float = 1.0,
    beyond: bool = False,
) -> CameraPath:
    """A path through the input cameras [V, 3, 4], [V, 3, 3] with a time schedule.

    orbit: the camera sweeps smoothly to the last view and back; inputs: it moves once along the
    views; freeze_time: the orbit at one time (bullet time); fixed_view: the first camera; replay:
    the input cameras one after another, as they are; spiral: outward in turns around the middle of
    what they cover; push_in: from the middle camera toward the target; dolly_zoom: away from it
    while the lens narrows, so that the target keeps its size. keyframes: through these instead.

    num_frames defaults to num_times. time is a kind of `schedule`: freeze for freeze_time, play
    for others; the keyframes' own times come first. distance: to the target, for inputs whose axes
    do not meet. Cameras outside the covered part of the sphere are brought back to its border, or
    kept with beyond=True; either is logged. Raises ValueError for unknown kinds.
    """
    if kind not in PATH_KINDS:
        raise ValueError(
            f"camera path kind is {kind!r}, but must be one of {', '.join(PATH_KINDS)}."
        )
    count = num_frames or num_times
    phase = torch.linspace(0, 1, count, dtype=extrinsics.dtype, device=extrinsics.device)
    coverage = Coverage.of(extrinsics, distance)
    lens = intrinsics.mean(0, keepdim=True).repeat(count, 1, 1)
    times = schedule(
        time or ("freeze" if kind == "freeze_time" else "play"), count, num_times, freeze_at
    )
    if keyframes is not None:
        positions = phase * (len(keyframes.extrinsics) - 1)
        cameras = interpolate_cameras(keyframes.extrinsics.to(extrinsics), positions)
        focal = pixel_intrinsics(keyframes.fov.to(lens), height, width)[:, 1, 1]
        zoom = torch.where(focal.isnan(), 1.0, focal / lens[0, 1, 1])
        lens[:, :2, :2] *= spline(zoom[:, None], positions)[..., None]
        if keyframes.times is not None:
            own_times = spline(keyframes.times[:, None].to(phase), positions)[:, 0]
            times = own_times.round().long().clamp(0, num_times - 1)
    elif kind in ("spiral", "push_in", "dolly_zoom"):
        cameras, shrink = around_target(kind, extrinsics, coverage, phase)
        lens[:, :2, :2] *= shrink[:, None, None]
    else:
        cameras = along_inputs(kind, extrinsics, phase)
    return CameraPath(
        keep_covered(cameras, coverage, beyond), lens, times.to(phase.device), width, height
    )


def along_inputs(kind: str, extrinsics: Tensor, phase: Tensor) -> Tensor:
    """Cameras [K, 3, 4] on the inputs' own curve for phase [K] in [0, 1]."""
    last = len(extrinsics) - 1
    if kind == "replay":
        return extrinsics[(phase * last).round().long()]
    sweep = {"inputs": phase, "fixed_view": torch.zeros_like(phase)}.get(
        kind, 0.5 - 0.5 * torch.cos(2 * torch.pi * phase)
    )
    return interpolate_cameras(extrinsics, sweep * last)


def around_target(
    kind: str, extrinsics: Tensor, coverage: Coverage, phase: Tensor
) -> tuple[Tensor, Tensor]:
    """Cameras [K, 3, 4] that look at the target, and factors [K] of the focal length."""
    middle = camera_centers(extrinsics)[len(extrinsics) // 2]
    if kind == "spiral":
        angle = 2 * torch.pi * TURNS * phase
        wave = torch.stack([angle.sin(), -angle.cos()], -1) * phase[:, None]
        low, high = coverage.low, coverage.high
        angles = 0.5 * (low + high)[:2] + 0.5 * (high - low)[:2] * wave
        radius = coverage.locate(middle)[2].expand(len(phase), 1)
        positions = coverage.position(torch.cat([angles, radius], -1))
        return look_at(positions, coverage.target, coverage.axes[1]), torch.ones_like(phase)
    moved = PUSH * (0.5 - 0.5 * torch.cos(torch.pi * phase))
    # A dolly zoom goes backward: the other way its widening lens would show what nobody saw.
    left = 1 + moved if kind == "dolly_zoom" else 1 - moved  # of the distance
    positions = coverage.target + left[:, None] * (middle - coverage.target)
    cameras = look_at(positions, coverage.target, coverage.axes[1])
    return cameras, left if kind == "dolly_zoom" else torch.ones_like(phase)


def keep_covered(cameras: Tensor, coverage: Coverage, beyond: bool) -> Tensor:
    """The cameras [K, 3, 4], brought back to the covered part unless `beyond`; says so."""
    excess = coverage.excess(cameras).abs()
    outside = int((excess.amax(-1) > 1e-6).sum())
    if not outside:
        return cameras
    degrees = math.degrees(float(excess[:, :2].max()))
    log.warning(
        "%d of %d cameras of the path leave what the inputs cover, by up to %.0f degrees; %s",
        outside,
        len(cameras),
        degrees,
        "no input saw the scene from there." if beyond else "they are brought back to its border.",
    )
    return cameras if beyond else coverage.bound(cameras)
