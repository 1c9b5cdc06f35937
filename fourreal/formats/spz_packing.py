"""The attributes of SPZ, quantised: positions, opacities, colours, scales, rotations, harmonics.

Position 3 x 24-bit fixed point, opacity u8, base colour 3 x u8, log scale 3 x u8, rotation (the
three smallest components of x, y, z, w in 10 bits each), harmonics u8 with the channel innermost.
Version 1 has half floats as positions, and 1 and 2 the x, y, z of a rotation as bytes.
Source: src/cc/load-spz.cc of nianticlabs/spz.
"""

import numpy as np
import torch
from torch import Tensor

from fourreal.gaussians import Gaussians

FRACTIONAL_BITS = 12  # a quarter of a thousandth of a unit, positions within +-2048
COLOR_SCALE = 0.15
SQRT_HALF = 0.5**0.5


def attribute_widths(version: int, degree: int) -> tuple[int, ...]:
    """Bytes per Gaussian of each attribute, in the file's order."""
    harmonics = 3 * ((degree + 1) ** 2 - 1)
    return (6 if version == 1 else 9, 1, 3, 3, 4 if version >= 3 else 3, harmonics)


def pack(gaussians: Gaussians) -> tuple[list[np.ndarray], int]:
    """The bytes of each attribute of Gaussians with SPZ's axes, and the fractional bits.

    Raises ValueError for positions beyond 2^23 units.
    """
    g = gaussians
    count = len(g)
    farthest = float(g.means.abs().max()) if count else 0.0
    if not farthest < 2**23 - 1:
        raise ValueError(
            f"the farthest Gaussian is {farthest:g} units from the origin, but SPZ stores "
            f"positions below {2**23 - 1}."
        )
    bits = FRACTIONAL_BITS
    while farthest * 2**bits > 2**23 - 1:
        bits -= 1
    fixed = (g.means.double() * 2**bits).round().to(torch.int32).numpy().astype("<i4")
    parts = [
        fixed.view(np.uint8).reshape(count, 3, 4)[:, :, :3],
        to_bytes(g.opacities * 255),
        to_bytes((g.harmonics[:, 0] * COLOR_SCALE + 0.5) * 255),
        to_bytes((g.scales.clamp_min(1e-30).log() + 10) * 16),
        pack_rotations(g.quaternions),
        to_bytes(g.harmonics[:, 1:] * 128 + 128),
    ]
    return parts, bits


def unpack(parts: list[np.ndarray], bits: int, version: int) -> Gaussians:
    """Gaussians, in the file's own axes, from the bytes [N, width] of each attribute."""
    position, opacity, color, scale, rotation, harmonics = parts
    count = len(position)
    if version == 1:
        means = position.copy().view("<f2").astype(np.float32)
    else:
        wide = np.zeros((count, 3, 4), np.uint8)
        wide[:, :, 1:] = position.reshape(count, 3, 3)  # the upper bytes, so that the sign survives
        means = (wide.view("<i4")[..., 0] >> 8).astype(np.float32) / np.float32(2**bits)
    base = (torch.from_numpy(color.copy()).float() / 255 - 0.5) / COLOR_SCALE
    other = (torch.from_numpy(harmonics.copy()).float() - 128) / 128
    return Gaussians(
        means=torch.from_numpy(means),
        quaternions=unpack_rotations(rotation) if version >= 3 else unpack_rotations_2(rotation),
        scales=(torch.from_numpy(scale.copy()).float() / 16 - 10).exp(),
        opacities=torch.from_numpy(opacity[:, 0].copy()).float() / 255,
        harmonics=torch.cat([base[:, None], other.view(count, harmonics.shape[1] // 3, 3)], dim=1),
    )


def to_bytes(values: Tensor) -> np.ndarray:
    """Rounded and clamped to 0..255."""
    return values.round().clamp(0, 255).to(torch.uint8).numpy()


def pack_rotations(quaternions: Tensor) -> np.ndarray:
    """uint32 [N]: index of the largest of x, y, z, w, then sign and 9 bits of each other one."""
    q = torch.nn.functional.normalize(quaternions, dim=-1).roll(-1, dims=-1).numpy()
    largest = np.abs(q).argmax(-1)
    negate = np.take_along_axis(q, largest[:, None], -1) < 0
    sign = (q < 0) ^ negate
    magnitude = (511 * np.minimum(np.abs(q) / SQRT_HALF, 1) + 0.5).astype(np.uint32)
    packed = largest.astype(np.uint32)
    for i in range(4):
        field = (packed << 10) | (sign[:, i].astype(np.uint32) << 9) | magnitude[:, i]
        packed = np.where(largest == i, packed, field)
    return packed.astype("<u4")


def unpack_rotations(data: np.ndarray) -> Tensor:
    """Quaternions (w, x, y, z) of bytes [N, 4]."""
    packed = np.ascontiguousarray(data).view("<u4")[:, 0].astype(np.uint32)
    largest = packed >> 30
    q = np.zeros((len(packed), 4), np.float32)
    for i in (3, 2, 1, 0):
        other = largest != i
        value = (packed & 511) * np.float32(SQRT_HALF / 511) * np.where(packed & 512, -1, 1)
        q[:, i] = np.where(other, value, 0)
        packed = np.where(other, packed >> 10, packed)
    remaining = np.sqrt(np.maximum(1 - np.square(q).sum(-1), 0))
    q[np.arange(len(q)), largest] = remaining
    return torch.from_numpy(q).roll(1, dims=-1)


def unpack_rotations_2(data: np.ndarray) -> Tensor:
    """Quaternions (w, x, y, z) of version 2's bytes [N, 3]: x, y, z, with w >= 0."""
    xyz = torch.from_numpy(data.copy()).float() / 127.5 - 1
    w = (1 - xyz.square().sum(-1, keepdim=True)).clamp_min(0).sqrt()
    return torch.cat([w, xyz], dim=-1)
