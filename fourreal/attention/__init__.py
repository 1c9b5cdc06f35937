"""Fused view-time attention: a token attends to the tokens of its view and of its time.

Paper, section 3.1. With row = all tokens of the view, column = all tokens of the time and self =
the frame in both, it is exact inclusion-exclusion over three dense attentions with outputs O and
log-sum-exp L, where a is the view strength:

    out = (e^Lr Or + a (e^Lc Oc - e^Ls Os)) / (e^Lr + a (e^Lc - e^Ls))
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.attention.merge import merge_attention

BACKENDS = ("auto", "merge", "dense")
SMALL_GRID = 512  # tokens up to which one masked attention beats three on a CPU


def view_time_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    num_views: int,
    num_frames: int,
    *,
    view_strength: float = 1.0,
    backend: str = "auto",
) -> Tensor:
    """Attention over a grid of frames; query, key, value and result are [B, V*F*S, heads, dim].

    num_frames is F, in latent frames; S tokens per frame follow from the shape. view_strength
    scales the weight of the other views: 1 is the paper's attention, 0 gives independent views.
    Backends: merge (three dense attentions, exact forward and backward; the default), dense (one
    attention with a mask of all tokens by all tokens; the reference), auto (merge, but dense for
    grids of at most SMALL_GRID tokens on a CPU). Raises ValueError when the
    tokens do not fill the grid.
    """
    tokens = query.shape[1]
    if num_views < 1 or num_frames < 1 or tokens % (num_views * num_frames):
        raise ValueError(
            f"{tokens} tokens do not fill a grid of {num_views} views x {num_frames} frames; "
            "their number must be a multiple of views x frames."
        )
    if view_strength < 0:
        raise ValueError(f"view_strength is {view_strength}, but must be 0 or more.")
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}, but must be one of {', '.join(BACKENDS)}.")
    if backend == "auto":
        backend = "dense" if query.is_cpu and tokens <= SMALL_GRID else "merge"
    if backend == "dense":
        return _dense(query, key, value, num_views, num_frames, view_strength)
    return merge_attention(query, key, value, num_views, num_frames, view_strength)


def view_time_positions(num_views: int, num_frames: int, max_frames: int, device=None) -> Tensor:
    """Temporal positions [V*F] of a grid's frames: v * max_frames + f (paper, section 3.1).

    max_frames is the base model's longest sequence in latent frames. Raises ValueError when
    num_frames exceeds it, for the positions of two views would collide.
    """
    if num_frames > max_frames:
        raise ValueError(
            f"num_frames is {num_frames} latent frames, but this model keeps the views apart only "
            f"up to {max_frames}; generate a shorter grid."
        )
    views = torch.arange(num_views, device=device)[:, None] * max_frames
    return (views + torch.arange(num_frames, device=device)).flatten()


def view_time_mask(num_views: int, num_frames: int, tokens_per_frame: int, device=None) -> Tensor:
    """Boolean mask [N, N], N = V*F*S: True where a query may see a key."""
    index = torch.arange(num_views * num_frames, device=device).repeat_interleave(tokens_per_frame)
    view, time = index // num_frames, index % num_frames
    return (view[:, None] == view) | (time[:, None] == time)


def _dense(query, key, value, num_views, num_frames, view_strength) -> Tensor:
    tokens_per_frame = query.shape[1] // (num_views * num_frames)
    mask = view_time_mask(num_views, num_frames, tokens_per_frame, query.device)
    view = torch.arange(query.shape[1], device=query.device) // (num_frames * tokens_per_frame)
    across = mask & (view[:, None] != view)
    bias = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -math.inf)
    bias[across] = math.log(view_strength) if view_strength > 0 else -math.inf
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)
