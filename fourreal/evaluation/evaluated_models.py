"""The models that are evaluated: the options that name them, how they are loaded and run."""

from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import tyro
from torch import Tensor

from fourreal import weights
from fourreal.data.cache import TensorCache, fingerprint
from fourreal.devices import choose_device, matrix_dtype
from fourreal.evaluation.examples import Evaluation
from fourreal.fill import generate_smaller
from fourreal.reconstruction import Reconstructor

if TYPE_CHECKING:
    from fourreal.video import ViewTimePipeline


@dataclass
class VideoModel(Evaluation):
    """Options of evaluations that encode or generate grids."""

    model: Annotated[Path | None, tyro.conf.arg(aliases=["--video"])] = None
    """A folder of video models, embedded or in diffusers' layout (default: the package's)."""


@dataclass
class Sampling(VideoModel):
    """Options of evaluations that generate grids."""

    num_inference_steps: Annotated[int, tyro.conf.arg(aliases=["--steps"])] = 4
    """Sampling steps of each stage."""
    guidance_scale: Annotated[float | None, tyro.conf.arg(aliases=["--guidance"])] = None
    """Text guidance (default: the model's own, and 1 with both references)."""
    staged: bool | None = None
    """Generate missing references before the rest (default: as the model was trained)."""
    fill_scale: int = 1
    """Generate at 1 / N of the height and width, and enlarge. The embedded models were made for 64
    pixels."""
    cache: Path | None = None
    """Where generated grids are kept, as latents, for the next time."""


@dataclass
class ReconstructorModel:
    """Options of evaluations that reconstruct scenes."""

    reconstructor: Annotated[Path | None, tyro.conf.arg(aliases=["--weights"])] = None
    """A reconstructor file (default: the package's)."""


def video_model(folder: Path | None, device: str | None = None) -> "ViewTimePipeline":
    """A pipeline from a folder of embedded models (default: the package's) or of diffusers, on a
    device (see choose_device)."""
    from fourreal.video import load_embedded_pipeline  # diffusers takes seconds
    from fourreal.video.wan_folder import load_pipeline_folder

    chosen = choose_device(device)
    if folder and (folder / "model_index.json").is_file():
        pipeline = load_pipeline_folder(folder, matrix_dtype(chosen))
    else:
        pipeline = load_embedded_pipeline(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(chosen)


def vace_model(
    file: Path | None, folder: Path | None, device: str | None = None
) -> "ViewTimePipeline":
    """A pipeline of a VACE file with the other parts of a folder of embedded models (default: the
    package's for both), on a device (see choose_device)."""
    from fourreal.video import load_embedded_pipeline  # diffusers takes seconds

    pipeline = load_embedded_pipeline(folder, file or weights.folder() / "vace.safetensors")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(choose_device(device))


def reconstruction_model(file: Path | None, device: str | None = None) -> Reconstructor:
    """The reconstructor of a file (default: the package's), on a device (see choose_device)."""
    file = file or weights.folder() / "reconstructor.safetensors"
    return Reconstructor.from_file(file, device=choose_device(device))


def generate_grid(
    pipeline: "ViewTimePipeline", config: Sampling, index: int, caption: str, **given: Any
) -> Tensor:
    """The grid [V, T, 3, H, W], on the CPU, that the pipeline makes for example `index`, which is
    the seed of its noise.

    given: num_views where it is not the config's, and the references fixed_view and freeze_time.
    With the config's fill_scale it is made smaller, of shrunk references, and enlarged.
    """
    options: dict[str, Any] = {
        "num_views": config.num_views,
        "num_frames": config.num_frames,
        "height": config.height,
        "width": config.width,
        "num_inference_steps": config.num_inference_steps,
        "guidance_scale": config.guidance_scale,
        "staged": config.staged,
    }
    sample = partial(sample_grid, pipeline, config.cache, index, caption)
    return generate_smaller(sample, config.fill_scale, **options | given)


def sample_grid(
    pipeline: "ViewTimePipeline", cache: Path | None, index: int, caption: str, **options: Any
) -> Tensor:
    """generate_grid with the options of the pipeline's call; where there is a cache folder, latents
    are kept there."""

    def sample(output_type: str) -> Tensor:
        noise = torch.Generator().manual_seed(index)
        return pipeline(caption, **options, generator=noise, output_type=output_type).frames

    if cache is None:
        return sample("pt")
    told = [digest(v) if isinstance(v, Tensor) else str(v) for v in options.values()]
    key = f"{fingerprint(pipeline.transformer)} {caption} {index} {' '.join(told)}"
    latents = TensorCache(cache).get(key, lambda: sample("latent"))
    return pipeline.decode_views(latents.to(pipeline.device, torch.float32))


def digest(tensor: Tensor) -> str:
    """A name for a tensor's values."""
    return sha256(tensor.cpu().contiguous().numpy().tobytes()).hexdigest()
