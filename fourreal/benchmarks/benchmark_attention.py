"""`fourreal benchmark attention`: every backend against masked attention, and against the ideal.

The ideal does only the needed pairs, at the rate of a matrix product on this device: two products
of 2 FLOP per pair and channel forward, five more backward. A token needs (V + F - 1) S keys.
"""

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.attention import (
    BACKENDS,
    time_attention,
    unavailable,
    view_attention,
    view_time_attention,
    view_time_mask,
)
from fourreal.benchmarks import matrix_product, median_seconds, peak_memory
from fourreal.files.atomic import atomic_path

REFERENCE = "masked SDPA"


@dataclass
class AttentionBenchmark:
    """Time the attention backends on random tensors."""

    views: int = 8
    frames: int = 8
    """Latent frames."""
    tokens: int = 64
    """Tokens per frame."""
    heads: int = 4
    head_dim: int = 64
    dtype: str = "float32"
    """float32, bfloat16 or float16."""
    device: str | None = None
    """CUDA where there is one."""
    repeats: int = 5
    out: Path | None = None
    """JSON file to write as well."""


def masked_attention(mask: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One dense attention with a mask [N, N] that is there already; [B, N, heads, dim]."""
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def sequential_attention(
    query: Tensor, key: Tensor, value: Tensor, num_views: int, num_frames: int
) -> Tensor:
    """Over time, then over the views on what that gave."""
    over_time = time_attention(query, key, value, num_views, num_frames)
    return view_attention(query, key, over_time, num_views, num_frames)


def benchmark_attention(config: AttentionBenchmark) -> dict:
    """Print a Markdown table, one row per backend that this device has; returns its numbers."""
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = getattr(torch, config.dtype, None)
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"dtype is {config.dtype!r}, but must be float32, bfloat16 or float16.")
    views, frames = config.views, config.frames
    count = views * frames * config.tokens
    shape = (1, count, config.heads, config.head_dim)
    generator = torch.Generator().manual_seed(0)
    *qkv, direction = (
        torch.randn(shape, generator=generator).to(device, dtype).requires_grad_(part < 3)
        for part in range(4)
    )

    # 1. What is compared
    attentions = {
        REFERENCE: partial(masked_attention, view_time_mask(views, frames, config.tokens, device)),
    }
    backward, absent = {REFERENCE, "sequential"}, {}
    for backend in BACKENDS[1:]:
        reason = unavailable(backend, device, dtype, config.head_dim)
        if reason:
            absent[backend] = reason
            continue
        if unavailable(backend, device, dtype, config.head_dim, training=True) is None:
            backward.add(backend)
        attentions[backend] = partial(
            view_time_attention, num_views=views, num_frames=frames, backend=backend
        )
    attentions["sequential"] = partial(sequential_attention, num_views=views, num_frames=frames)

    def forward(name: str) -> Tensor:
        with torch.no_grad():
            return attentions[name](*qkv)

    def both(name: str) -> tuple[Tensor, ...]:
        return torch.autograd.grad(attentions[name](*qkv), qkv, direction)

    # 2. Measuring
    exact = forward(REFERENCE).float()
    product, product_flops = matrix_product(device, dtype)
    both_seconds = median_seconds(
        {name: partial(both, name) for name in attentions if name in backward},
        device,
        config.repeats,
    )
    forward_seconds = median_seconds(
        {name: partial(forward, name) for name in attentions} | {"product": product},
        device,
        config.repeats,
    )
    rate = product_flops / forward_seconds["product"]
    pairs = count * (views + frames - 1) * config.tokens * config.heads
    flops = 4 * pairs * config.head_dim
    rows = {}
    for name in attentions:
        seconds, seconds_both = forward_seconds[name], both_seconds.get(name)
        memory = peak_memory(partial(both if seconds_both else forward, name), device)
        rows[name] = {
            "forward_ms": seconds * 1e3,
            "forward_ratio": seconds / forward_seconds[REFERENCE],
            "both_ms": seconds_both and seconds_both * 1e3,
            "both_ratio": seconds_both and seconds_both / both_seconds[REFERENCE],
            "peak_mb": memory / 2**20,
            "matmul_fraction": flops / seconds / rate,
            "difference": None
            if name == "sequential"
            else float((forward(name).float() - exact).norm() / exact.norm()),
        }
    rows["ideal"] = {
        "forward_ms": flops / rate * 1e3,
        "forward_ratio": flops / rate / forward_seconds[REFERENCE],
        "both_ms": 3.5 * flops / rate * 1e3,
        "both_ratio": 3.5 * flops / rate / both_seconds[REFERENCE],
        "peak_mb": None,
        "matmul_fraction": 1.0,
        "difference": None,
    }

    # 3. The table
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(
        f"{name}, {torch.get_num_threads()} threads, {config.dtype}: {views} views x {frames} "
        f"latent frames x {config.tokens} tokens, {config.heads} heads of {config.head_dim}; "
        f"matrix product {rate / 1e9:.4g} GFLOP/s"
    )
    print(
        "| attention | forward ms | ratio | forward + backward ms | ratio | peak MB "
        "| of the matrix product's rate | difference |"
    )
    print("|---" * 8 + "|")
    formats = ("{:.1f}", "{:.2f}", "{:.1f}", "{:.2f}", "{:.1f}", "{:.0%}", "{:.0e}")
    for row, values in rows.items():
        cells = [
            "" if value is None else style.format(value)
            for style, value in zip(formats, values.values())
        ]
        print(f"| {' | '.join([row, *cells])} |")
    for backend, reason in absent.items():
        print(f"{backend}: {reason}")
    settings = json.loads(json.dumps(asdict(config), default=str))
    result = {
        "device": name,
        "threads": torch.get_num_threads(),
        "settings": settings,
        "matmul_flops": rate,
        "rows": rows,
        "absent": absent,
    }
    if config.out:
        with atomic_path(config.out) as temporary:
            Path(temporary).write_text(json.dumps(result, indent=1))
    return result
