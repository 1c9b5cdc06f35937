"""Safetensors files read whole, with one clear sentence when that cannot be done."""

import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor


def read_safetensors(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """CPU tensors and metadata of a file. Raises ValueError when it is absent or damaged."""
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist; give the path of a .safetensors file.")
    try:
        with safe_open(path, framework="pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a complete .safetensors file ({error}); download or copy it again."
        ) from error
