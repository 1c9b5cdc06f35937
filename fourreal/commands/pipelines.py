"""The video models that `fourreal generate` uses: embedded ones, a folder, or single files."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from fourreal.bars import bars_are_hidden
from fourreal.devices import matrix_dtype
from fourreal.files.weights_files import weights_format
from fourreal.reconstruction import Reconstructor

if TYPE_CHECKING:
    from fourreal.video import ViewTimePipeline

PARTS = ("transformer", "vae", "text_encoder")


@dataclass(kw_only=True)
class PipelineOptions:
    """Which models generate, and how they use memory and time. Without any, the embedded ones."""

    model: Path | None = None
    """Folder of Wan 2.1 T2V or Wan 2.2 TI2V in diffusers' layout, or of a saved pipeline."""
    transformer: Path | None = None
    """Single file of Wan 2.1 T2V 1.3B or 14B or Wan 2.2 TI2V 5B (.safetensors in fp16, bf16 or
    fp8_scaled, or .pth); or, in several parts, its index or folder."""
    vae: Path | None = None
    """Single file of the Wan 2.1 or 2.2 VAE."""
    text_encoder: Path | None = None
    """Single file of UMT5-XXL."""
    tokenizer: Path | None = None
    """spiece.model or tokenizer folder, where the text encoder's file holds none (default: the one
    beside it, as Wan's releases have it)."""
    lora: Path | None = None
    """LoRA for the transformer, in the key form of diffusers, PEFT, DiffSynth, ComfyUI, kohya or
    musubi-tuner."""
    offload: Literal["none", "model", "group"] = "none"
    """Keep the weights in main memory but for the part (model) or block (group) at work."""
    vae_tiling: bool = False
    """Encode and decode in tiles, for large frames in little memory."""
    compile: bool = False
    """Compile the transformer's blocks (torch.compile): a slow first step, then faster ones."""
    first_block_cache: float | None = None
    """Skip the transformer's other blocks at steps where the output of the first changed by less
    than this fraction: faster and less exact. 0.05 is a good value (default: never skip)."""

    def embedded_transformer(self) -> Path | None:
        """Which transformer goes with the other embedded models (None: the usual one)."""
        return None


@dataclass
class Models:
    """What every prompt of a list is made with, loaded once. keep: whether the reconstructor stays
    on the device between two uses (it does not where weights are offloaded)."""

    pipeline: "ViewTimePipeline"
    reconstructor: Reconstructor
    keep: bool

    @contextmanager
    def reconstructor_on(self, device: torch.device) -> Iterator[Reconstructor]:
        """The reconstructor while it lies on a device."""
        yield self.reconstructor.to(device)
        if not self.keep:
            self.reconstructor.to("cpu")


def is_embedded(options: PipelineOptions) -> bool:
    """Whether the options ask for the embedded models."""
    return options.model is None and not any(getattr(options, name) for name in PARTS)


def load_pipeline(options: PipelineOptions, device: torch.device) -> "ViewTimePipeline":
    """The pipeline that the options ask for, on the device or offloaded from it.

    bfloat16 on CUDA, float32 elsewhere. Raises ValueError when the files do not fit together, and
    for options that the device or the models do not have.
    """
    if options.offload != "none" and device.type != "cuda":
        raise ValueError(
            f"--offload {options.offload} is for CUDA devices, but the models run on {device.type}."
        )
    check_files(options)
    pipeline = read_pipeline(options, matrix_dtype(device))
    if options.lora:
        pipeline.load_lora_weights(options.lora)
    if options.vae_tiling:
        if not hasattr(pipeline.vae, "enable_tiling"):
            raise ValueError(
                "--vae-tiling is for Wan's VAE; the embedded autoencoder works block by block and "
                "has no tiles. Leave it out."
            )
        pipeline.enable_vae_tiling()
    if options.compile:
        pipeline.compile()
    if options.first_block_cache is not None:
        pipeline.enable_first_block_cache(options.first_block_cache)
    if options.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif options.offload == "group":
        pipeline.enable_group_offload(device, num_blocks_per_group=1)
    else:
        pipeline.to(device)
    pipeline.set_progress_bar_config(desc="sampling", disable=bars_are_hidden())
    return pipeline


def check_files(options: PipelineOptions) -> None:
    """Raise ValueError, before the first model is loaded, for files that are not given together,
    that are not there, or that are no weights."""
    given = [name for name in PARTS if getattr(options, name)]
    if options.model and given:
        raise ValueError(f"give either --model or single files, not both (--{given[0]}).")
    if given and len(given) < len(PARTS):
        raise ValueError(
            f"--transformer, --vae and --text-encoder are needed together, but only "
            f"{', '.join(given)} was given."
        )
    for name in (*PARTS, "lora", "tokenizer"):
        path = getattr(options, name)
        if path and not path.exists():
            raise ValueError(f"--{name.replace('_', '-')}: {path} does not exist.")
        if path and path.is_file() and name != "tokenizer":
            weights_format(path)


def read_pipeline(options: PipelineOptions, dtype: torch.dtype) -> "ViewTimePipeline":
    """The pipeline of a folder, of single files, or the embedded one, on the CPU; the options are
    checked (check_files)."""
    from fourreal.video import ViewTimePipeline, load_embedded_pipeline  # diffusers takes seconds

    if options.model:
        from fourreal.video.wan_folder import load_pipeline_folder

        return load_pipeline_folder(options.model, dtype)
    if is_embedded(options):
        return load_embedded_pipeline(transformer=options.embedded_transformer())
    parts = {name: getattr(options, name) for name in PARTS}
    return ViewTimePipeline.from_single_files(
        **parts, tokenizer=options.tokenizer, torch_dtype=dtype
    )
