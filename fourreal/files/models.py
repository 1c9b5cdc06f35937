"""A model in one safetensors file: weights in half precision, what is known of it as metadata."""

import os
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fourreal.files.tensors import save_tensors


def write_weights(
    path: str | os.PathLike, tensors: Mapping[str, Tensor], metadata: dict[str, str]
) -> None:
    """Write tensors as float16, with metadata; the file appears when it is complete."""
    halves = {k: v.detach().half().contiguous().cpu() for k, v in tensors.items()}
    save_tensors(halves, path, metadata)


def assign_weights(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    path: str | os.PathLike,
    dtype: torch.dtype | None,
) -> None:
    """Put a file's tensors, under the model's names, into a diffusers or transformers model that
    was made on the meta device, and set it to eval.

    dtype None keeps the file's. What the model's library keeps in float32 (Wan's norms and time
    embedding; of UMT5 in float16 the layer that overflows) stays so. path is for messages only.
    Raises ValueError, naming keys or shapes, when the file does not fit.
    """
    from diffusers import ModelMixin

    wanted, name = model.state_dict(), type(model).__name__
    missing = [key for key in wanted if key not in tensors]
    unknown = [key for key in tensors if key not in wanted]
    if missing or unknown:
        raise ValueError(
            f"{path} does not fit {name}: {len(missing)} keys are missing "
            f"({', '.join(missing[:3])}), {len(unknown)} unknown ({', '.join(unknown[:3])})."
        )
    for key, value in wanted.items():
        if tensors[key].shape != value.shape:
            raise ValueError(
                f"{path} does not fit {name}: {key} has the shape {tuple(tensors[key].shape)}, "
                f"but {tuple(value.shape)} is needed."
            )
        if not tensors[key].is_floating_point():
            raise ValueError(
                f"{path} holds {key} as {str(tensors[key].dtype).removeprefix('torch.')}, but "
                "weights are floating-point numbers; use a file that is not quantised to integers."
            )
    # diffusers keeps them for both half types, transformers for float16 alone.
    halves = (torch.float16, torch.bfloat16) if isinstance(model, ModelMixin) else (torch.float16,)
    kept = set(getattr(model, "_keep_in_fp32_modules", None) or ())

    def typed(key: str, value: Tensor) -> Tensor:
        to = dtype or value.dtype
        return value.to(torch.float32 if to in halves and kept & set(key.split(".")) else to)

    model.load_state_dict({k: typed(k, v) for k, v in tensors.items()}, assign=True)
    model.eval()
