"""The embedded video model as a ViewTimePipeline."""

from pathlib import Path

from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel

from fourreal import weights
from fourreal.video.block_autoencoder import BlockAutoencoder
from fourreal.video.files import load_single_file, transformer_key
from fourreal.video.pipeline import ViewTimePipeline
from fourreal.video.text import load_text_encoder


def load_embedded_pipeline(folder: Path | None = None) -> ViewTimePipeline:
    """The pipeline of transformer, autoencoder and text encoder in `folder` (default: the package).

    Raises ValueError in one sentence when a file is missing or damaged.
    """
    folder = Path(folder or weights.folder())
    transformer, settings = load_single_file(
        WanTransformer3DModel, folder / "transformer.safetensors", transformer_key
    )
    vae, _ = load_single_file(
        BlockAutoencoder, folder / "autoencoder.safetensors", lambda key, _: key
    )
    tokenizer, text_encoder = load_text_encoder(folder / "text_encoder.safetensors")
    return ViewTimePipeline(
        transformer,
        vae,
        text_encoder,
        tokenizer,
        FlowMatchEulerDiscreteScheduler(shift=settings["shift"]),
        conditioning=settings["conditioning"],
        max_frames=settings["max_frames"],
        max_tokens=settings["max_tokens"],
        guidance_scale=settings["guidance_scale"],
    )
