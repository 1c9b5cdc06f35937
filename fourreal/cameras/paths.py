"""Camera paths through a scene: where the camera goes, which time each frame shows.

A path is made of the input cameras alone: they say what the scene looks at (the point nearest to
their optical axes) and which part of the sphere around it they cover. The scene is unobserved
elsewhere, so cameras are clamped to this region unless beyond=True.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from fourreal.cameras.coverage import Coverage, keep_covered
from fourreal.cameras.pinhole import (
    camera_centers,
    extrinsics_at,
    look_at,
    matrix_to_quaternion,
    pixel_intrinsics,
    quaternion_to_matrix,
)

PathKind = Literal[
    "orbit", "inputs", "freeze_time", "fixed_view", "replay", "spiral", "push_in", "dolly_zoom"
]
TimeKind = Literal["play", "freeze", "ramp", "ping_pong"]
PATH_KINDS: tuple[str, ...] = get_args(PathKind)
TIME_KINDS: tuple[str, ...] = get_args(TimeKind)
PUSH = 0.4  # how far push_in and dolly_zoom go, in distances to the target
TURNS = 2  # of the spiral


@dataclass
class Keyframes:
    """M cameras that a path goes through: extrinsics [M, 3, 4], fov [M] (vertical, radians; NaN
    for that of the inputs), and times [M] (fractional scene times) or None."""

    extrinsics: Tensor
    fov: Tensor
    times: Tensor | None


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


@dataclass(frozen=True)
class PathOptions:
    """Where a camera path goes, and which times it shows.

    kind, of PATH_KINDS: orbit: the camera sweeps smoothly to the last view and back; inputs: it
    moves once along the views; freeze_time: the orbit at one time (bullet time); fixed_view: the
    first camera; replay: the input cameras one after another, as they are; spiral: outward in turns
    around the middle of what they cover; push_in: from the middle camera toward the target;
    dolly_zoom: away from it while the lens narrows, so that the target keeps its size.
    keyframes: through these instead.

    num_frames: of the rendered video; as many as the scene has times when None. time, of
    TIME_KINDS, is a kind of `schedule`: freeze for freeze_time and play for others when None; the
    keyframes' own times come first. freeze_at: the time at which it stands. distance: to the
    target, in world units, for inputs whose axes do not meet. beyond: keep cameras that leave what
    the inputs cover.
    """

    kind: str = "orbit"
    num_frames: int | None = None
    freeze_at: int = 0
    time: str | None = None
    keyframes: Keyframes | None = None
    distance: float = 1.0
    beyond: bool = False


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
    return extrinsics_at(center, quaternion_to_matrix(quaternion))


def schedule(kind: str, num_frames: int, num_times: int, freeze_at: int = 0) -> Tensor:
    """The scene time [K] of every frame, K = num_frames, of a scene with num_times times.

    play: from the first to the last. freeze: `freeze_at` throughout (bullet time). ramp: plays,
    slows down to a stop at `freeze_at` in the middle, and speeds up again. ping_pong: to the last
    and back. Raises ValueError for another kind, and for freeze_at beyond the last time.
    """
    if kind not in TIME_KINDS:
        raise ValueError(f"the time is {kind!r}, but must be one of {', '.join(TIME_KINDS)}.")
    last = num_times - 1
    if kind in ("freeze", "ramp") and not 0 <= freeze_at <= last:
        raise ValueError(f"freeze_at is {freeze_at}, but the scene has times 0 to {last}.")
    stop = freeze_at
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
    options: PathOptions,
) -> CameraPath:
    """A path through the input cameras [V, 3, 4], [V, 3, 3] of a scene of num_times times.

    The intrinsics are in pixels of a width x height image, the size of the path's images too.
    Cameras outside the covered part of the sphere are brought back to its border, or kept with
    options.beyond; either is logged. Raises ValueError for unknown kinds of path or time.
    """
    if options.kind not in PATH_KINDS:
        raise ValueError(
            f"camera path kind is {options.kind!r}, but must be one of {', '.join(PATH_KINDS)}."
        )
    kind, keyframes = options.kind, options.keyframes
    count = options.num_frames or num_times
    phase = torch.linspace(0, 1, count, dtype=extrinsics.dtype, device=extrinsics.device)
    coverage = Coverage.of(extrinsics, options.distance)
    lens = intrinsics.mean(0, keepdim=True).repeat(count, 1, 1)
    time = options.time or ("freeze" if kind == "freeze_time" else "play")
    times = schedule(time, count, num_times, options.freeze_at)
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
    cameras = keep_covered(cameras, coverage, options.beyond)
    return CameraPath(cameras, lens, times.to(phase.device), width, height)


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
