"""SPZ (Niantic): quantised Gaussians, about 16 bytes each without harmonics, compressed.

Versions 1 to 3 are one gzip of a 16-byte header and of each attribute of all Gaussians in turn;
version 4 is a header of 32 bytes, a table of the streams' sizes, and a Zstandard stream for each
attribute (it needs the extra `spz`). The specification's axes are x right, y up, z backward, so
the scene is turned by 180 degrees about x on the way out and back on the way in.
Source: README.md and src/cc/load-spz.cc of nianticlabs/spz.
"""

import gzip
import os
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fourreal.files.existing import existing_file
from fourreal.files.extras import import_extra, install_extra
from fourreal.formats.blocks import BLOCK, in_blocks
from fourreal.formats.finite import only_finite
from fourreal.formats.spz_packing import attribute_widths, pack, unpack
from fourreal.formats.writing import written_whole
from fourreal.gaussians import Gaussians, turn_about_x

MAGIC = b"NGSP"
HEADER = struct.Struct("<4sIIBBBB")  # magic, version, count, degree, fractional bits, flags, 0
HEADER_4 = struct.Struct("<4sIIBBBBI12x")  # .. flags, number of streams, offset of their sizes
SIZES = struct.Struct("<QQ")  # of a stream: compressed, and not
EXTENSIONS = 2  # the flag of data beside the attributes, which may change what they mean
UNFOLDED = (2**24, 32)  # most bytes of attributes: a fixed number, or so many times the file's
MAX_WINDOW = 2**27  # bytes that a Zstandard stream may look back; its own programs' limit


def save_spz(gaussians: Gaussians, path: str | os.PathLike, version: int = 3) -> None:
    """Write N Gaussians as SPZ 3 or 4. Lossy: 8 bits per value, 24 per coordinate; harmonics
    above degree 0 end at +-1.

    Gaussians that are not finite are left out, with a warning. Raises ValueError for positions
    beyond 2^23 units, for another version, and for version 4 without zstandard.
    """
    if version not in (3, 4):
        raise ValueError(f"{path}: SPZ version {version} is not written; choose 3 or 4.")
    g = turn_about_x(only_finite(gaussians, path))
    degree = round(g.harmonics.shape[1] ** 0.5) - 1
    parts, bits = pack(g)
    with written_whole(path) as temporary:
        if version == 3:
            with gzip.open(temporary, "wb", compresslevel=6) as file:
                file.write(HEADER.pack(MAGIC, 3, len(g), degree, bits, 0, 0))
                for part in parts:
                    file.write(part.tobytes())
            return
        compress = _zstandard(path).ZstdCompressor(level=12).compress
        plain = [part.tobytes() for part in parts if part.size]
        streams = [compress(stream) for stream in plain]
        with open(temporary, "wb") as raw:
            start = (MAGIC, 4, len(g), degree, bits, 0, len(streams), HEADER_4.size)
            raw.write(HEADER_4.pack(*start))
            for packed, stored in zip(streams, plain):
                raw.write(SIZES.pack(len(packed), len(stored)))
            raw.writelines(streams)


def load_spz(path: str | os.PathLike) -> Gaussians:
    """Read Gaussians from SPZ 1 to 4, of any harmonic degree (0 to 4).

    Its attributes may take 16 MB, or 32 times the file's size where that is more: what unfolds
    further is refused. Raises ValueError for files that are missing or damaged, for other versions
    and for version 4 without zstandard.
    """
    path = existing_file(path)
    with open(path, "rb") as file:
        start = file.read(4)
        file.seek(0)
        if start != MAGIC and start[:2] != b"\x1f\x8b":
            raise ValueError(f"{path} is not an SPZ file: it begins with {start!r}, not with gzip.")
        return _load_4(file, path) if start == MAGIC else _load_gzip(file, path)


def _load_gzip(file: BinaryIO, path: Path) -> Gaussians:
    stream = Inflated(file, path)
    header = stream.read(HEADER.size, "its header")
    magic, version, count, degree, bits, flags, _ = HEADER.unpack(header)
    if magic != MAGIC:
        raise ValueError(f"{path} is not an SPZ file: its gzip begins with {magic!r}.")
    if version not in (1, 2, 3):
        raise ValueError(f"{path} is SPZ version {version} in gzip, but only 1 to 3 are read.")
    widths = _checked_widths(version, count, degree, bits, flags, path)
    parts = [stream.read(count * width, f"an attribute of {count} Gaussians") for width in widths]
    stream.finish()
    return _unpacked(parts, count, widths, bits, version, path)


def _load_4(file: BinaryIO, path: Path) -> Gaussians:
    data = file.read(HEADER_4.size)
    if len(data) < HEADER_4.size:
        raise ValueError(f"{path} is a damaged SPZ file: it ends within its header.")
    _, version, count, degree, bits, flags, num_streams, table = HEADER_4.unpack(data)
    if version != 4:
        raise ValueError(f"{path} is SPZ version {version} without gzip, but only 4 is read so.")
    widths = _checked_widths(version, count, degree, bits, flags, path)
    expected = [count * width for width in widths if count * width]
    size = os.fstat(file.fileno()).st_size
    file.seek(table)
    sizes = file.read(SIZES.size * num_streams)
    if table < HEADER_4.size or len(sizes) < SIZES.size * num_streams:
        raise ValueError(f"{path} is a damaged SPZ file: it ends within its table of streams.")
    streams = [*SIZES.iter_unpack(sizes)]
    stored = [plain for _, plain in streams if plain]
    if stored != expected or file.tell() + sum(packed for packed, _ in streams) != size:
        raise ValueError(
            f"{path} is a damaged SPZ file: {count} Gaussians need streams of {expected} bytes, "
            f"but it promises {stored[:8]} in {size} bytes."
        )
    zstandard = _zstandard(path)
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    parts = []
    for packed, plain in streams:
        try:
            reader = decompressor.stream_reader(file.read(packed), read_across_frames=False)
            part = reader.read(plain + 1) if plain else b""
        except zstandard.ZstdError as error:
            raise ValueError(f"{path} is a damaged SPZ file: {error}.") from error
        if len(part) != plain:
            raise ValueError(
                f"{path} is a damaged SPZ file: a stream of {plain} bytes holds "
                f"{'more' if len(part) > plain else len(part)}."
            )
        parts += [part] if plain else []
    parts += [b""] * (len(widths) - len(parts))
    return _unpacked(parts, count, widths, bits, version, path)


def _checked_widths(
    version: int, count: int, degree: int, bits: int, flags: int, path: Path
) -> tuple[int, ...]:
    """Bytes per Gaussian of each attribute. Raises ValueError for what the header cannot mean."""
    if degree > 4 or bits > 23 or flags & EXTENSIONS:
        raise ValueError(
            f"{path} has degree {degree}, {bits} fractional bits and flags {flags}, but degrees to "
            "4, at most 23 bits and no extensions are read."
        )
    widths = attribute_widths(version, degree)
    size = path.stat().st_size
    most = max(UNFOLDED[0], UNFOLDED[1] * size)
    if count * sum(widths) > most:
        raise ValueError(
            f"{path} has {size} bytes, too few for the {count} Gaussians that its header promises: "
            f"they unfold to {count * sum(widths)} bytes, and at most {most} are read."
        )
    return widths


def _unpacked(
    parts: list[bytes], count: int, widths: tuple[int, ...], bits: int, version: int, path: Path
) -> Gaussians:
    tables = [
        np.frombuffer(part, np.uint8).reshape(count, width)
        if part
        else np.empty((count, width), np.uint8)
        for part, width in zip(parts, widths)
    ]

    def read(first: int, end: int) -> Gaussians:
        return turn_about_x(unpack([table[first:end] for table in tables], bits, version))

    return in_blocks(count, 1 + widths[-1] // 3, sum(widths), read, path)


def _zstandard(path: str | os.PathLike) -> Any:
    """The package zstandard. Raises ValueError, naming the file, when it is not installed."""
    return import_extra(
        "zstandard", f"{path}: SPZ 4 needs the package zstandard; {install_extra('spz')}."
    )


class Inflated:
    """What is inside a gzip file, read in turn; damage gives one ValueError."""

    def __init__(self, file: BinaryIO, path: Path):
        self.file, self.path = file, path
        self.inflate = zlib.decompressobj(wbits=31)

    def read(self, size: int, what: str) -> bytes:
        """`size` bytes; memory grows with what is there, not with what was promised."""
        chunks, missing = [], size
        while missing and (chunk := self._some(min(missing, BLOCK))):
            chunks.append(chunk)
            missing -= len(chunk)
        if missing:
            raise ValueError(
                f"{self.path} is a damaged SPZ file: it holds {size - missing} of the {size} bytes "
                f"of {what}."
            )
        return b"".join(chunks)

    def finish(self) -> None:
        """Compare the checksum. Raises ValueError when the file goes on."""
        if self._some(1) or self.inflate.unused_data or self.file.read(1):
            raise ValueError(f"{self.path} is a damaged SPZ file: it holds more than its header.")
        if not self.inflate.eof:
            raise ValueError(f"{self.path} is a damaged SPZ file: it is cut off at its end.")

    def _some(self, most: int) -> bytes:
        """Up to `most` bytes, and none at the end."""
        while not self.inflate.eof:
            packed = self.inflate.unconsumed_tail or self.file.read(BLOCK // 4)
            try:
                chunk = self.inflate.decompress(packed, most)
            except zlib.error as error:
                raise ValueError(f"{self.path} is a damaged SPZ file: {error}.") from error
            if chunk or not packed:
                return chunk
        return b""
