"""SPZ (Niantic), version 3: gzipped, quantised Gaussians, about 16 bytes each without harmonics.

Layout after a 16-byte header, each for all Gaussians: position 3 x 24-bit fixed point, opacity u8,
base colour 3 x u8, log scale 3 x u8, rotation (the three smallest components of x, y, z, w in 10
bits each), harmonics u8 with the channel innermost. The specification's axes are x right, y up,
z backward, so the scene is turned by 180 degrees about x on the way out and back on the way in.
Source: src/cc/load-spz.cc of nianticlabs/spz.
"""

import gzip
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fourreal.files.atomic import atomic_path
from fourreal.files.existing import existing_file
from fourreal.formats.blocks import BLOCK, in_blocks
from fourreal.gaussians import Gaussians, turn_about_x

MAGIC = 0x5053474E  # "NGSP"
HEADER = struct.Struct("<IIIBBBB")  # magic, version, count, degree, fractional bits, flags, 0
EXTENSIONS = 2  # the flag of data between the header and the positions
FRACTIONAL_BITS = 12  # a quarter of a thousandth of a unit, positions within +-2048
COLOR_SCALE = 0.15
GZIP_RATIO = 1032  # deflate cannot shrink more than this
SQRT_HALF = 0.5**0.5


def save_spz(gaussians: Gaussians, path: str | os.PathLike) -> None:
    """Write N Gaussians as SPZ 3. Lossy: 8 bits per value, 24 per coordinate; harmonics
    above degree 0 end at +-1.

    Raises ValueError for positions beyond 2^23 units.
    """
    g = turn_about_x(gaussians.map(lambda x: x.detach().cpu().float()))
    count, num_harmonics = g.harmonics.shape[:2]
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
    header = HEADER.pack(MAGIC, 3, count, round(num_harmonics**0.5) - 1, bits, 0, 0)
    with atomic_path(path) as temporary, gzip.open(temporary, "wb", compresslevel=6) as file:
        file.write(header)
        for part in parts:
            file.write(part.tobytes())


def load_spz(path: str | os.PathLike) -> Gaussians:
    """Read Gaussians from SPZ 2 or 3, of any harmonic degree (0 to 4).

    Raises ValueError for files that are missing or damaged, and for other versions.
    """
    path = existing_file(path)
    size = path.stat().st_size
    with open(path, "rb") as raw:
        start = raw.read(4)
        raw.seek(0)
        if start == struct.pack("<I", MAGIC):
            raise ValueError(f"{path} is SPZ version 4, but only 2 and 3 are read.")
        if start[:2] != b"\x1f\x8b":
            raise ValueError(f"{path} is not an SPZ file: it begins with {start!r}, not with gzip.")
        try:
            with gzip.open(raw) as file:
                count, widths, bits, version = read_spz_header(file, size, path)
                expected = count * sum(widths)
                data = read_up_to(file, expected)
                surplus = len(file.read(1))  # also makes gzip compare its checksum
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} is a damaged SPZ file: {error}.") from error
    if len(data) != expected or surplus:
        raise ValueError(
            f"{path} is a damaged SPZ file: {count} Gaussians of {sum(widths)} bytes need "
            f"{expected}, but it holds {'more' if surplus else len(data)}."
        )
    ends = np.cumsum([count * width for width in widths])[:-1]
    parts = np.split(np.frombuffer(data, np.uint8), ends)
    parts = [part.reshape(count, width) for part, width in zip(parts, widths)]

    def read(first: int, end: int) -> Gaussians:
        return turn_about_x(unpack([part[first:end] for part in parts], bits, version))

    return in_blocks(count, 1 + widths[-1] // 3, sum(widths), read)


def read_up_to(file: gzip.GzipFile, size: int) -> bytes:
    """At most `size` bytes; memory grows with what is there, not with what was promised."""
    chunks = []
    while size and (chunk := file.read(min(size, BLOCK))):
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


def read_spz_header(
    file: gzip.GzipFile, size: int, path: Path
) -> tuple[int, tuple[int, ...], int, int]:
    """Count, bytes of each attribute of a Gaussian, fractional bits and version.

    size: bytes of the compressed file. Raises ValueError for what cannot be read.
    """
    header = file.read(HEADER.size)
    if len(header) < HEADER.size or HEADER.unpack(header)[0] != MAGIC:
        raise ValueError(f"{path} is not an SPZ file: its first bytes are {header[:4]!r}.")
    _, version, count, degree, bits, flags, _ = HEADER.unpack(header)
    if version not in (2, 3):
        raise ValueError(f"{path} is SPZ version {version}, but only 2 and 3 are read.")
    if degree > 4 or bits > 23 or flags & EXTENSIONS:
        raise ValueError(
            f"{path} has degree {degree}, {bits} fractional bits and flags {flags}, but degrees to "
            "4, at most 23 bits and no extensions are read."
        )
    widths = (9, 1, 3, 3, 4 if version == 3 else 3, 3 * ((degree + 1) ** 2 - 1))
    if count * sum(widths) > GZIP_RATIO * size:
        raise ValueError(
            f"{path} has {size} bytes, too few for the {count} Gaussians that its header promises; "
            "it is damaged."
        )
    return count, widths, bits, version


def unpack(parts: list[np.ndarray], bits: int, version: int) -> Gaussians:
    """Gaussians, in the file's own axes, from the bytes [N, width] of each attribute."""
    position, opacity, color, scale, rotation, harmonics = parts
    count = len(position)
    wide = np.zeros((count, 3, 4), np.uint8)
    wide[:, :, 1:] = position.reshape(count, 3, 3)  # the upper bytes, so that the sign survives
    fixed = wide.view("<i4")[..., 0] >> 8
    base = (torch.from_numpy(color.copy()).float() / 255 - 0.5) / COLOR_SCALE
    other = (torch.from_numpy(harmonics.copy()).float() - 128) / 128
    return Gaussians(
        means=torch.from_numpy(fixed.astype(np.float32)) / 2**bits,
        quaternions=unpack_rotations(rotation) if version == 3 else unpack_rotations_2(rotation),
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
