"""`fourreal benchmark attention`: every backend against masked attention, and against the ideal.

The ideal computes only the needed pairs of tokens, at the rate of a matrix product on this device:
two products of 2 FLOP per pair and channel forward, five more backward. A token needs (V + F - 1) S
keys: those of its view and of its time.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

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
from fourreal.benchmarks.measuring import (
    device_name,
    matrix_product,
    median_seconds,
    peak_memory,
)
from fourreal.devices import choose_device
from fourreal.files.json_files import as_json, write_json

REFERENCE = "masked SDPA"
SEQUENTIAL = "sequential"
FORWARD_FLOP, BACKWARD_FLOP = 4, 10  # per pair of tokens and channel
HEADER = (
    "| attention | forward ms | ratio | forward + backward ms | ratio | peak MB "
    "| of the matrix product's rate | difference |"
)
FORMATS = ("{:.1f}", "{:.2f}", "{:.1f}", "{:.2f}", "{:.1f}", "{:.0%}", "{:.0e}")


@dataclass
class AttentionBenchmark:
    """Time the attention backends on random tensors."""

    num_views: int = 8
    num_frames: int = 8
    """Latent frames."""
    tokens: int = 64
    """Tokens per frame."""
    heads: int = 4
    head_dim: int = 64
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str | None = None
    """cpu, cuda or cuda:N (default: CUDA where there is one)."""
    repeats: int = 5
    out: Path | None = None
    """JSON file to write as well."""


@dataclass
class Compared:
    """Attentions on one set of tensors: functions of query, key and value by name; the names of
    those that have gradients; and why the others are absent, by backend."""

    attentions: dict[str, Callable[..., Tensor]] = field(default_factory=dict)
    differentiable: set[str] = field(default_factory=lambda: {REFERENCE, SEQUENTIAL})
    absent: dict[str, str] = field(default_factory=dict)


@dataclass
class Measured:
    """Of each attention, by name: seconds forward, and with backward where it has gradients; peak
    memory in bytes; relative difference from masked attention, where it computes the same. And the
    FLOP per second of a matrix product."""

    forward: dict[str, float]
    both: dict[str, float]
    memory: dict[str, int]
    difference: dict[str, float]
    rate: float


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


def compared_attentions(
    config: AttentionBenchmark, device: torch.device, dtype: torch.dtype
) -> Compared:
    """Masked attention, every backend that this device has, and sequential attention."""
    grid: dict[str, Any] = {"num_views": config.num_views, "num_frames": config.num_frames}
    mask = view_time_mask(config.num_views, config.num_frames, config.tokens, device)
    compared = Compared({REFERENCE: partial(masked_attention, mask)})
    for backend in BACKENDS[1:]:
        reason = unavailable(backend, device, dtype, config.head_dim)
        if reason:
            compared.absent[backend] = reason
            continue
        if unavailable(backend, device, dtype, config.head_dim, training=True) is None:
            compared.differentiable.add(backend)
        compared.attentions[backend] = partial(view_time_attention, **grid, backend=backend)
    compared.attentions[SEQUENTIAL] = partial(sequential_attention, **grid)
    return compared


def measure_attentions(
    config: AttentionBenchmark, compared: Compared, device: torch.device, dtype: torch.dtype
) -> Measured:
    """Time all attentions in turn on random tensors [1, V*F*S, heads, dim]."""
    count = config.num_views * config.num_frames * config.tokens
    shape = (1, count, config.heads, config.head_dim)
    generator = torch.Generator().manual_seed(0)
    *qkv, direction = (
        torch.randn(shape, generator=generator).to(device, dtype).requires_grad_(part < 3)
        for part in range(4)
    )

    def forward(name: str) -> Tensor:
        with torch.no_grad():
            return compared.attentions[name](*qkv)

    def both(name: str) -> tuple[Tensor, ...]:
        return torch.autograd.grad(compared.attentions[name](*qkv), qkv, direction)

    def functions(run: Callable[[str], object]) -> dict[str, Callable[[], object]]:
        return {name: partial(run, name) for name in compared.attentions}

    alone = functions(forward)
    with_backward = {n: f for n, f in functions(both).items() if n in compared.differentiable}
    product, product_flop = matrix_product(device, dtype)
    both_seconds = median_seconds(with_backward, device, config.repeats)
    seconds = median_seconds(alone | {"product": product}, device, config.repeats)
    product_seconds = seconds.pop("product")
    memory = {name: peak_memory(run, device) for name, run in (alone | with_backward).items()}
    exact = forward(REFERENCE).float()
    difference = {
        name: float((forward(name).float() - exact).norm() / exact.norm())
        for name in compared.attentions
        if name != SEQUENTIAL
    }
    return Measured(seconds, both_seconds, memory, difference, product_flop / product_seconds)


def table_rows(config: AttentionBenchmark, found: Measured) -> dict[str, dict[str, float | None]]:
    """The numbers of each row of the table, by the name of the attention; the ideal comes last."""
    count = config.num_views * config.num_frames * config.tokens
    keys = (config.num_views + config.num_frames - 1) * config.tokens
    pairs = count * keys * config.heads * config.head_dim
    ideal = FORWARD_FLOP * pairs / found.rate
    ideal_both = (FORWARD_FLOP + BACKWARD_FLOP) * pairs / found.rate

    def row(seconds: float, seconds_both: float | None) -> dict[str, float | None]:
        return {
            "forward_ms": seconds * 1e3,
            "forward_ratio": seconds / found.forward[REFERENCE],
            "both_ms": seconds_both and seconds_both * 1e3,
            "both_ratio": seconds_both and seconds_both / found.both[REFERENCE],
            "peak_mb": None,
            "matmul_fraction": ideal / seconds,
            "difference": None,
        }

    rows = {}
    for name, seconds in found.forward.items():
        rows[name] = row(seconds, found.both.get(name)) | {
            "peak_mb": found.memory[name] / 2**20,
            "difference": found.difference.get(name),
        }
    return rows | {"ideal": row(ideal, ideal_both)}


def print_table(
    config: AttentionBenchmark, name: str, rate: float, rows: dict[str, dict[str, float | None]]
) -> None:
    """The rows as a Markdown table, under a line that says what was measured on which device."""
    print(
        f"{name}, {torch.get_num_threads()} threads, {config.dtype}: {config.num_views} views x "
        f"{config.num_frames} latent frames x {config.tokens} tokens, {config.heads} heads of "
        f"{config.head_dim}; matrix product {rate / 1e9:.4g} GFLOP/s"
    )
    print(HEADER)
    print("|---" * 8 + "|")
    for row, values in rows.items():
        cells = ["" if v is None else f.format(v) for f, v in zip(FORMATS, values.values())]
        print(f"| {' | '.join([row, *cells])} |")


def benchmark_attention(config: AttentionBenchmark) -> dict[str, Any]:
    """Print a Markdown table, one row per backend that this device has; returns its numbers."""
    device, dtype = choose_device(config.device), getattr(torch, config.dtype)
    compared = compared_attentions(config, device, dtype)
    found = measure_attentions(config, compared, device, dtype)
    rows = table_rows(config, found)
    print_table(config, device_name(device), found.rate, rows)
    for backend, reason in compared.absent.items():
        print(f"{backend}: {reason}")
    result = {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "settings": as_json(asdict(config)),
        "matmul_flops": found.rate,
        "rows": rows,
        "absent": compared.absent,
    }
    if config.out:
        write_json(config.out, result)
    return result
