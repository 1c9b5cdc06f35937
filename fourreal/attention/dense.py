"""View-time attention as one masked attention of all tokens by all tokens: the reference."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.attention.layouts import view_time_mask


def dense_attention(
    query: Tensor, key: Tensor, value: Tensor, num_views: int, num_frames: int, view_strength: float
) -> Tensor:
    """view_time_attention; shapes as there. Memory grows with the square of the tokens."""
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    tokens_per_frame = query.shape[1] // (num_views * num_frames)
    mask = view_time_mask(num_views, num_frames, tokens_per_frame, query.device)
    view = torch.arange(query.shape[1], device=query.device) // (num_frames * tokens_per_frame)
    across = mask & (view[:, None] != view)
    bias = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -math.inf)
    bias = bias.masked_fill(across, math.log(view_strength) if view_strength > 0 else -math.inf)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)
