"""Smoothing of the edges between blocks that were decoded, or generated, apart from each other."""

from collections.abc import Iterable

import torch
from torch import Tensor

SHARES = (0.25, 0.1)  # of a jump that the first and second sample on either side take


def jumps(values: Tensor, edges: Tensor) -> Tensor:
    """What the change at edges of values [N, ...] has over the mean of the changes beside it; at
    edge 1, where nothing is before, over the one after it."""
    after = values[edges + 1] - values[edges]
    before = values[edges - 1] - values[(edges - 2).clamp_min(0)]
    alone = (edges == 1).view(-1, *[1] * (values.ndim - 1))
    expected = torch.where(alone, after, (before + after) / 2)
    return values[edges] - values[edges - 1] - expected


def smooth_edges(values: Tensor, dim: int, edges: Iterable[int]) -> Tensor:
    """Values with less of a jump at edges along a dimension, each before the sample of its index.

    A motion or gradient that goes on is left alone (see `jumps`). Differentiable.
    """
    edges = [edge for edge in edges if 0 < edge < values.shape[dim] - 1]
    if not edges:
        return values
    values, edges = values.movedim(dim, 0), torch.tensor(edges, device=values.device)
    jump, first = jumps(values, edges), edges - 1
    for offset, share in enumerate(SHARES):
        values = values.index_add(0, edges + offset, jump, alpha=-share)
        inside = first >= offset
        values = values.index_add(0, first[inside] - offset, jump[inside], alpha=share)
    return values.movedim(0, dim)
