"""Safetensors files: read with one clear sentence when that cannot be done, and written whole."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fourreal.files.atomic import atomic_path
from fourreal.files.existing import existing_file

MAX_HEADER = 8 * 2**20  # bytes; names and metadata, which take up to 13 times as much in memory
_without_data = ContextVar("without_data", default=False)


@contextmanager
def without_data() -> Iterator[None]:
    """Inside, read_safetensors gives tensors of numbers on the meta device: their shapes and types
    are known, and no weights are read. Integers (a tokenizer's bytes) stay as they are."""
    token = _without_data.set(True)
    try:
        yield
    finally:
        _without_data.reset(token)


def save_tensors(
    tensors: Mapping[str, Tensor],
    path: str | os.PathLike,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors, contiguous and on the CPU; the file appears when it is complete.

    Its mode is the one that the user's umask gives; safetensors' own is for the owner only. Raises
    OSError, naming the file, where it cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(dict(tensors), temporary, dict(metadata) if metadata else None)
        except SafetensorError as error:  # a full disk, among others
            raise OSError(f"cannot write {path}: {error}") from error
        temporary.chmod(mode)


def read_safetensors(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """CPU tensors and metadata of a file. The tensors are mapped: what is not used is not read.

    Raises ValueError, naming the file, when it is absent or damaged, or its header of names and
    metadata is larger than MAX_HEADER.
    """
    path = existing_file(path)
    with open(path, "rb") as raw:
        header = int.from_bytes(raw.read(8), "little")
    if MAX_HEADER < header <= path.stat().st_size:
        raise ValueError(
            f"{path} has a header of {header} bytes, but at most {MAX_HEADER} are read."
        )
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a complete .safetensors file ({error}); download or copy it again."
        ) from error
    if _without_data.get():
        tensors = {k: v.to("meta") if v.is_floating_point() else v for k, v in tensors.items()}
    return tensors, metadata
