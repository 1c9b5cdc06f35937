"""Safetensors files read whole, with one clear sentence when that cannot be done."""

import os

from safetensors import SafetensorError, safe_open
from torch import Tensor

from fourreal.files.existing import existing_file


def read_safetensors(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """CPU tensors and metadata of a file. The tensors are mapped: what is not used is not read.

    Raises ValueError, naming the file, when it is absent or damaged.
    """
    path = existing_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a complete .safetensors file ({error}); download or copy it again."
        ) from error
