"""The embedded video model as a ViewTimePipeline."""

from pathlib import Path

import torch

from fourreal import weights
from fourreal.video.pipeline import ViewTimePipeline


def load_embedded_pipeline(folder: Path | None = None) -> ViewTimePipeline:
    """The pipeline of transformer, autoencoder and text encoder in `folder` (default: the package).

    Raises ValueError in one sentence when a file is missing or damaged.
    """
    folder = Path(folder or weights.folder())
    return ViewTimePipeline.from_single_files(
        folder / "transformer.safetensors",
        folder / "autoencoder.safetensors",
        folder / "text_encoder.safetensors",
        torch_dtype=torch.float32,
    )
