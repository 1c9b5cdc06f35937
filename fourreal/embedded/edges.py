"""Smoothing of the edges between blocks that were decoded, or generated, apart from each other.

What goes on steadily across an edge, such as a motion or a gradient, is left alone.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

SHARES = (0.25, 0.1)  # of a jump, by which the first and second sample on either side move


def jumps(values: Tensor, edges: Tensor) -> Tensor:
    """The jump at each edge of values [N, ...]: its step minus the mean of the steps before and
    after it (edge 1 has only the step after). Edge i lies before sample i; edges [E] are from 1 to
    N - 2, the result is [E, ...]."""
    after = values[edges + 1] - values[edges]
    before = values[edges - 1] - values[(edges - 2).clamp_min(0)]
    alone = (edges == 1).view(-1, *[1] * (values.ndim - 1))
    expected = torch.where(alone, after, (before + after) / 2)
    return values[edges] - values[edges - 1] - expected


def smooth_edges(values: Tensor, dim: int, edges: Iterable[int]) -> Tensor:
    """Values with smaller jumps at the edges along a dimension (see `jumps`); edge i lies before
    sample i. Edges at the ends are left out. Differentiable."""
    inner = sorted(edge for edge in edges if 0 < edge < values.shape[dim] - 1)
    if not inner:
        return values
    values, after = values.movedim(dim, 0), torch.tensor(inner, device=values.device)
    jump, before = jumps(values, after), after - 1
    for offset, share in enumerate(SHARES):
        values = values.index_add(0, after + offset, jump, alpha=-share)
        first = sum(edge - 1 < offset for edge in inner)  # edges with no such sample before them
        values = values.index_add(0, before[first:] - offset, jump[first:], alpha=share)
    return values.movedim(0, dim)
