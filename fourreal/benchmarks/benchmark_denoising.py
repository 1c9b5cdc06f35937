"""`fourreal benchmark denoising`: Wan's transformer with random weights in the pipeline's own loop.

One step and all steps of a grid without guidance, as with both references, for each attention.
The share of a matrix product's rate counts what the fused attention needs: two FLOP for each weight
of a linear layer and token, four for each channel and pair of a token with a key of its view or
time.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from fourreal.benchmarks.measuring import (
    device_name,
    matrix_product,
    median_seconds,
    peak_memory,
    synchronize,
)
from fourreal.devices import choose_device
from fourreal.files.json_files import as_json, write_json
from fourreal.grid import num_latent_frames

if TYPE_CHECKING:  # diffusers takes seconds to import; options are checked first
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    from fourreal.video import ViewTimePipeline

TEXT_TOKENS = 512  # of UMT5-XXL, as Wan reads them
WAN_SIZES: dict[str, dict[str, int]] = {
    "1.3B": {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960, "in_channels": 16},
    "5B": {"num_attention_heads": 24, "num_layers": 30, "ffn_dim": 14336, "in_channels": 48},
    "14B": {"num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13824, "in_channels": 16},
    "tiny": {"num_attention_heads": 1, "num_layers": 2, "ffn_dim": 256, "in_channels": 16},
}
SPATIAL_STRIDES = {16: 8, 48: 16}  # pixels per latent cell, by latent channels


@dataclass
class DenoisingBenchmark:
    """Time denoising steps of a Wan transformer with random weights."""

    network: Literal["1.3B", "5B", "14B", "tiny"] = "1.3B"
    """Wan 2.1 T2V 1.3B or 14B, Wan 2.2 TI2V 5B, or one that is only good for a test."""
    num_views: int = 8
    num_frames: int = 29
    """Frames per view, 4k + 1."""
    height: int = 288
    width: int = 512
    steps: tuple[int, ...] = (1, 40)
    """Runs of so many denoising steps are timed."""
    backends: tuple[str, ...] = ("auto", "dense")
    """Attention backends: auto is the fused attention's fastest, dense the masked one."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    device: str | None = None
    """cpu, cuda or cuda:N (default: CUDA where there is one)."""
    out: Path | None = None
    """JSON file to write as well."""


def random_transformer(
    model: str, device: torch.device, dtype: torch.dtype
) -> "WanTransformer3DModel":
    """A Wan transformer of a name of WAN_SIZES with random weights, made there in its type:
    no copy in float32 is ever held."""
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

    sizes = WAN_SIZES[model]
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return WanTransformer3DModel(
                **sizes, out_channels=sizes["in_channels"], attention_head_dim=128
            ).eval()
    finally:
        torch.set_default_dtype(before)


def denoising_pipeline(transformer: "WanTransformer3DModel", max_frames: int) -> "ViewTimePipeline":
    """A pipeline that denoises to latents: its VAE, never run, has the right sizes outside."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
        FlowMatchEulerDiscreteScheduler,
    )

    from fourreal.video import ViewTimePipeline

    channels = transformer.config["in_channels"]
    vae = AutoencoderKLWan(
        base_dim=8, z_dim=channels, scale_factor_spatial=SPATIAL_STRIDES[channels]
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline = ViewTimePipeline(
        transformer, vae.to(transformer.device), None, None, scheduler, max_frames=max_frames
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def step_flop(transformer: "WanTransformer3DModel", config: DenoisingBenchmark) -> int:
    """FLOP of the blocks in one step with fused attention: nearly all that there are."""
    sizes: Any = transformer.config
    cell = SPATIAL_STRIDES[sizes.in_channels] * sizes.patch_size[-1]
    frames = num_latent_frames(config.num_frames)
    per_frame = (config.height // cell) * (config.width // cell)
    tokens = config.num_views * frames * per_frame
    keys = (config.num_views + frames - 1) * per_frame
    width = sizes.num_attention_heads * sizes.attention_head_dim
    # Self-attention's four layers, query and output to the text, the two of the feed-forward.
    linear = tokens * (6 * width**2 + 2 * width * sizes.ffn_dim) + TEXT_TOKENS * 2 * width**2
    attention = 4 * tokens * (keys + TEXT_TOKENS) * width
    return sizes.num_layers * (2 * linear + attention)


def measure_steps(
    sample: Callable[..., object], steps: int, ideal: float, device: torch.device
) -> dict[str, float]:
    """seconds of a run of so many steps, its peak_mb beyond the weights, and matmul_fraction, where
    a step takes `ideal` seconds at a matrix product's rate. Empty where memory does not suffice."""
    try:
        # The first run, of one step, is not timed: it chooses and compiles kernels.
        peak = peak_memory(partial(sample, num_inference_steps=1), device)
        synchronize(device)
        start = time.perf_counter()
        sample(num_inference_steps=steps)
        synchronize(device)
        seconds = time.perf_counter() - start
    except torch.OutOfMemoryError:
        return {}
    return {
        "seconds": seconds,
        "peak_mb": peak / 2**20,
        "matmul_fraction": steps * ideal / seconds,
    }


@torch.no_grad()
def benchmark_denoising(config: DenoisingBenchmark) -> dict[str, Any]:
    """Print a Markdown table, one row per backend and number of steps; returns its numbers.

    Raises ValueError for a grid that the model cannot make. A run that needs more memory than the
    device has is a row that says so.
    """
    device, dtype = choose_device(config.device), getattr(torch, config.dtype)
    transformer = random_transformer(config.network, device, dtype)
    pipeline = denoising_pipeline(transformer, num_latent_frames(config.num_frames))
    product, product_flop = matrix_product(device, dtype)
    rate = product_flop / median_seconds({"product": product}, device, 3)["product"]
    text = torch.randn(1, TEXT_TOKENS, transformer.config["text_dim"], device=device, dtype=dtype)
    count = sum(p.numel() for p in transformer.parameters()) / 1e6
    grid = f"{config.num_views} x {config.num_frames} of {config.height} x {config.width}"
    name = device_name(device)
    print(f"{name}, {count:.0f} M parameters, {grid}, {config.dtype}; {rate / 1e9:.4g} GFLOP/s")
    print("| attention | steps | seconds | peak MB | of the matrix product's rate |")
    print("|---" * 5 + "|")
    flop = step_flop(transformer, config)
    rows: dict[str, dict[str, float]] = {}
    for backend in config.backends:
        sample = partial(
            pipeline,
            prompt_embeds=text,
            num_views=config.num_views,
            num_frames=config.num_frames,
            height=config.height,
            width=config.width,
            guidance_scale=1.0,
            staged=False,
            output_type="latent",
            backend=backend,
        )
        for steps in config.steps:
            row = rows[f"{backend} {steps}"] = measure_steps(sample, steps, flop / rate, device)
            cells = "out of memory | |"
            if row:
                cells = "{seconds:.3g} | {peak_mb:.0f} | {matmul_fraction:.0%}".format(**row)
            print(f"| {backend} | {steps} | {cells} |", flush=True)
    settings = as_json(asdict(config))
    result = {"device": name, "settings": settings, "matmul_flops": rate, "rows": rows}
    if config.out:
        write_json(config.out, result)
    return result
