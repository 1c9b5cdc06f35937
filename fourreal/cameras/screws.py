"""Screw motions: cameras that turn and shift by the same amount from one to the next."""

import torch
from torch import Tensor

from fourreal.cameras.pinhole import invert, matrix_to_quaternion, to_homogeneous

SMALL = 1e-7  # radians below which a turn counts as none


def skew(vectors: Tensor) -> Tensor:
    """The matrices [..., 3, 3] of the cross products with vectors [..., 3]."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


def screw(twists: Tensor) -> Tensor:
    """Rigid motions [..., 3, 4] of twists [..., 6], turns in radians and then shifts: the
    exponential map of SE(3). Differentiable."""
    rows = torch.cat([skew(twists[..., :3]), twists[..., 3:, None]], -1)
    return torch.linalg.matrix_exp(torch.nn.functional.pad(rows, (0, 0, 0, 1)))[..., :3, :]


def twist_of(motions: Tensor) -> Tensor:
    """The twists [..., 6] of rigid motions [..., 3, 4] that turn by less than half a circle, the
    inverse of screw; computed in float64 where the device has it."""
    precise = motions if motions.device.type == "mps" else motions.double()
    rotation, shift = precise.split((3, 1), dim=-1)
    quaternion = matrix_to_quaternion(rotation)
    quaternion = quaternion * torch.where(quaternion[..., :1] < 0, -1.0, 1.0)
    sine = quaternion[..., 1:].norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(sine, quaternion[..., :1])
    turn = quaternion[..., 1:] * torch.where(sine > SMALL, angle / sine.clamp_min(SMALL), 2.0)
    across, angle = skew(turn), angle[..., None].clamp_min(SMALL)
    # What shifts at the end add up to while the motion turns (Sola et al. 2018, equation 174).
    summed = (1 - angle.cos()) / angle**2 * across
    summed = summed + (angle - angle.sin()) / angle**3 * across @ across
    summed = summed + torch.eye(3, dtype=precise.dtype, device=precise.device)
    return torch.cat([turn, torch.linalg.solve(summed, shift)[..., 0]], -1).to(motions)


def steps_between(extrinsics: Tensor) -> Tensor:
    """The twists [V - 1, 6] from each camera of extrinsics [V, 3, 4] to the next one."""
    before = to_homogeneous(invert(extrinsics[:-1]))
    return twist_of((to_homogeneous(extrinsics[1:]) @ before)[:, :3])


def even_movement(extrinsics: Tensor, step: Tensor | None = None) -> Tensor:
    """Cameras [V, 3, 4] that go on from the first of extrinsics [V, 3, 4] by the same step [6],
    by default the mean of theirs: an arc, if they lie on one, or a straight line."""
    if len(extrinsics) < 2:
        return extrinsics
    step = steps_between(extrinsics).mean(0) if step is None else step
    count = torch.arange(len(extrinsics), device=step.device)[:, None]
    return (to_homogeneous(screw(count * step)) @ to_homogeneous(extrinsics[:1]))[:, :3]
