"""View-time attention frame by frame: each frame's queries and a copy of the keys they may see.

Needs nothing but scaled_dot_product_attention, so it runs on any device. Beside the result it
takes the memory of one frame's keys and values; the backward gathers them again.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def gather_attention(
    query: Tensor, key: Tensor, value: Tensor, num_views: int, num_frames: int, view_strength: float
) -> Tensor:
    """view_time_attention; shapes as there."""
    # Frames, view-major, each [B, heads, S, dim].
    queries, keys, values = (
        rearrange(x, "b (n s) h d -> n b h s d", n=num_views * num_frames).unbind()
        for x in (query, key, value)
    )
    tokens = query.shape[1] // len(queries)
    others = num_views - 1 if view_strength > 0 else 0
    bias = None
    if others and view_strength != 1:
        bias = query.new_zeros(1, 1, 1, (num_frames + others) * tokens)
        bias[..., num_frames * tokens :] = math.log(view_strength)

    def attend(index: int) -> Tensor:
        view, time = divmod(index, num_frames)
        row = range(view * num_frames, (view + 1) * num_frames)
        column = range(time, len(keys), num_frames) if others else ()
        seen = [*row, *(i for i in column if i not in row)]
        k, v = (torch.cat([x[i] for i in seen], dim=2) for x in (keys, values))
        return F.scaled_dot_product_attention(queries[index], k, v, attn_mask=bias)

    frames = [
        checkpoint(attend, index, use_reentrant=False, preserve_rng_state=False)
        for index in range(len(queries))
    ]
    return rearrange(torch.stack(frames), "n b h s d -> b (n s) h d")
