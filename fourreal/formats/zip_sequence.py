"""A dynamic scene as one .zip of numbered PLY files, which Brush plays as it is."""

import os
import tempfile
import zipfile
import zlib
from pathlib import Path

from fourreal.files.atomic import frame_names
from fourreal.files.existing import existing_file
from fourreal.formats.blocks import largest_result
from fourreal.formats.ply import save_ply
from fourreal.formats.sequence import load_sequence
from fourreal.formats.suffixes import FORMATS
from fourreal.formats.writing import written_whole
from fourreal.gaussians import Gaussians, GaussianScene

PIECE = 2**20  # bytes unpacked at a time


def save_zip(scene: GaussianScene, path: str | os.PathLike) -> None:
    """Write frame_0001.ply.. into one .zip, a complete PLY per time, as save_ply writes them."""
    with (
        written_whole(path) as temporary,
        tempfile.TemporaryDirectory(dir=temporary.parent) as folder,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for time, name in enumerate(frame_names(scene.num_frames, ".ply")):
            save_ply(scene.at(time), Path(folder) / name)
            archive.write(Path(folder) / name, name)
            (Path(folder) / name).unlink()


def load_zip(path: str | os.PathLike) -> list[Gaussians]:
    """The Gaussians of every file in a .zip, one per time, as load_sequence reads a folder.

    Files in folders within count too; hidden ones, and those of other kinds, do not. The files may
    take 64 MB, or 32 times the archive's size where that is more. Raises ValueError for archives
    that are damaged, encrypted, larger when unpacked, or without such files.
    """
    path = existing_file(path)
    left = largest_result(path)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    parts = [p for p in entry.filename.split("/") if p not in ("", ".", "..")]
                    hidden = any(p.startswith((".", "__MACOSX")) for p in parts)
                    if (
                        hidden
                        or entry.is_dir()
                        or not parts
                        or Path(parts[-1]).suffix.lower() not in FORMATS
                    ):
                        continue
                    # The name is for the order and for messages; it may be anything, even "..".
                    name = "_".join(parts).replace(os.sep, "_").replace("\0", "_")[-200:]
                    left -= _unpack(archive, entry, folder / name, left, path)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
            raise ValueError(f"{path} is a damaged .zip file: {error}.") from error
        except (RuntimeError, NotImplementedError) as error:
            raise ValueError(
                f"{path} is encrypted or packed by another method than deflate ({error}); pack it "
                "again."
            ) from error
        try:
            return load_sequence(folder)
        except ValueError as error:  # named by where it was unpacked
            raise ValueError(str(error).replace(str(folder), str(path))) from error


def _unpack(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, most: int, path: Path
) -> int:
    """Unpack one file and return its size, whatever the archive says of it."""
    if target.exists():
        raise ValueError(f"{path} has two files {target.name}; keep one of them.")
    size = 0
    with archive.open(entry) as source, open(target, "wb") as file:
        while piece := source.read(PIECE):
            size += len(piece)
            if size > most:
                raise ValueError(
                    f"{path} unpacks to more than 32 times its size; unpack it, and give the "
                    "folder."
                )
            file.write(piece)
    return size
