"""Latents and text embeddings of training data, computed once and kept on disk."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fourreal.formats.atomic import atomic_path


def fingerprint(model: nn.Module) -> str:
    """A short name for a model's config and weights (the first values of each tensor)."""
    config = model.config.to_dict() if hasattr(model.config, "to_dict") else dict(model.config)
    digest = hashlib.sha256(json.dumps(config, default=str, sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().flatten()[:16].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


class TensorCache:
    """float16 tensors in a folder, each named by the text that says how it was made."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def get(self, key: str, compute: Callable[[], Tensor]) -> Tensor:
        """The tensor of a key in float16, computed when it is not there yet."""
        path = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
        if not path.exists():
            with atomic_path(path) as temporary:
                save_file({"tensor": compute().half().contiguous().cpu()}, temporary)
        return load_file(path)["tensor"]
