"""Attention along one axis of the grid; the architectures before the fused one are made of it."""

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from fourreal.attention.merge import COLUMN, ROW


def time_attention(
    query: Tensor, key: Tensor, value: Tensor, num_views: int, num_frames: int
) -> Tensor:
    """Each view's tokens among themselves; in and out [B, V*F*S, heads, dim]."""
    return _attention(query, key, value, ROW, num_views, num_frames)


def view_attention(
    query: Tensor, key: Tensor, value: Tensor, num_views: int, num_frames: int
) -> Tensor:
    """Each time's tokens among themselves; in and out [B, V*F*S, heads, dim]."""
    return _attention(query, key, value, COLUMN, num_views, num_frames)


def _attention(query, key, value, pattern, num_views, num_frames) -> Tensor:
    sizes = {"v": num_views, "f": num_frames}
    q, k, v = (rearrange(x, pattern, **sizes) for x in (query, key, value))
    out = F.scaled_dot_product_attention(q, k, v)
    sizes |= {"b": query.shape[0], "s": query.shape[1] // (num_views * num_frames)}
    return rearrange(out, " -> ".join(reversed(pattern.split(" -> "))), **sizes)
