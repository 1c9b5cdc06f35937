"""Attention along one axis of the grid; the architectures before the fused one are made of it."""

import torch.nn.functional as F
from torch import Tensor

from fourreal.attention.layouts import COLUMN, ROW, apart, check_shapes, together


def time_attention(
    query: Tensor, key: Tensor, value: Tensor, num_views: int, num_frames: int
) -> Tensor:
    """Each view's tokens among themselves; in and out [B, V*F*S, heads, dim]."""
    return _attention(query, key, value, num_views, num_frames, ROW)


def view_attention(
    query: Tensor, key: Tensor, value: Tensor, num_views: int, num_frames: int
) -> Tensor:
    """Each time's tokens among themselves; in and out [B, V*F*S, heads, dim]."""
    return _attention(query, key, value, num_views, num_frames, COLUMN)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, num_views: int, num_frames: int, layout: str
) -> Tensor:
    check_shapes(query, num_views, num_frames)
    q, k, v = (apart(x, layout, num_views, num_frames) for x in (query, key, value))
    out = F.scaled_dot_product_attention(q, k, v)
    return together(out, layout, num_views, num_frames)
