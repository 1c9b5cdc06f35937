"""The tokens of a grid: grouped by view, by time or by frame; who sees whom; their positions.

Tokens come as [B, V*F*S, heads, dim], view-major: V views, F latent frames, S tokens per frame. A
row is one view at all times, a column one time in all views (paper, section 3).
"""

import torch
from einops import rearrange
from torch import Tensor

# To [batch, heads, tokens, dim], where the tokens of one group attend to each other. Row and frame
# are views of the tensor; the column is a copy.
ROW = "b (v f s) h d -> (b v) h (f s) d"
COLUMN = "b (v f s) h d -> (b f) h (v s) d"
FRAME = "b (v f s) h d -> (b v f) h s d"


def check_shapes(query: Tensor, num_views: int, num_frames: int) -> None:
    """Raises ValueError unless the tokens of query [B, N, heads, dim], one or more in each
    dimension, fill a grid. Kernels end the process where a dimension is 0."""
    batch, tokens, heads, head_dim = query.shape
    if not query.numel():
        raise ValueError(
            f"there are {batch} sequences of {tokens} tokens with {heads} heads of {head_dim} "
            "channels, but one or more of each are needed."
        )
    if num_views < 1 or num_frames < 1 or tokens % (num_views * num_frames):
        raise ValueError(
            f"{tokens} tokens do not fill a grid of {num_views} views x {num_frames} frames; "
            "their number must be a multiple of views x frames."
        )


def apart(x: Tensor, layout: str, num_views: int, num_frames: int) -> Tensor:
    """The groups of a layout, [batch, heads, tokens, dim], of x [B, V*F*S, heads, dim]."""
    x = rearrange(x, layout, v=num_views, f=num_frames)
    return x if x.stride(-1) == 1 else x.contiguous()  # kernels need the last dimension dense


def together(x: Tensor, layout: str, num_views: int, num_frames: int) -> Tensor:
    """The way back from `apart`, [B, V*F*S, heads, dim]."""
    tokens, groups = layout.split(" -> ")
    return rearrange(x, f"{groups} -> {tokens}", v=num_views, f=num_frames)


def view_time_mask(
    num_views: int, num_frames: int, tokens_per_frame: int, device: torch.device | None = None
) -> Tensor:
    """Boolean mask [N, N], N = V*F*S: True where a query may see a key."""
    index = torch.arange(num_views * num_frames, device=device).repeat_interleave(tokens_per_frame)
    view, time = index // num_frames, index % num_frames
    return (view[:, None] == view) | (time[:, None] == time)


def view_time_positions(num_views: int, num_frames: int, max_frames: int) -> Tensor:
    """Temporal positions [V*F] of a grid's frames: v * max_frames + f (paper, section 3.1).

    max_frames is the base model's longest sequence in latent frames. Raises ValueError when
    num_frames exceeds it, for the positions of two views would collide.
    """
    if num_frames > max_frames:
        raise ValueError(
            f"num_frames is {num_frames} latent frames, but this model keeps the views apart only "
            f"up to {max_frames}; generate a shorter grid."
        )
    views = torch.arange(num_views)[:, None] * max_frames
    return (views + torch.arange(num_frames)).flatten()
