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

from fourreal.attention.dense import dense_attention
from fourreal.attention.flex import flex_attention, flex_unavailable
from fourreal.attention.gather import gather_attention
from fourreal.attention.kernels import FlashAttention3, flash_attn_kernel, fused_kernel
from fourreal.attention.layouts import check_shapes
from fourreal.attention.matmul import matmul_attention
from fourreal.attention.merge import merge_attention

BACKENDS = ("auto", "merge", "flash-attn", "flex", "gather", "matmul", "dense")
SMALL_GRID = 512  # tokens up to which one masked attention beats three on a CPU
DENSE_GRID = 2048  # tokens up to which, without a kernel, a mask replaces an attention per frame
MATMUL_GRID = 2048  # tokens up to which matrix products in bfloat16 beat CPUs' fused kernel


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
    Backends, all exact, with gradients:

    - merge: three dense attentions by PyTorch's own fused kernels; the default.
    - flash-attn: the same by the kernels of the package flash-attn, on CUDA.
    - flex: PyTorch's FlexAttention, compiled once for each grid; on CPUs without gradients.
    - matmul: plain matrix products, row and column in one softmax; any device, small grids.
    - gather: each frame's queries with a copy of the keys they see; any device, slow, small.
    - dense: one attention with a mask of all tokens by all tokens; the reference.
    - auto: what choose_backend says.

    Source: the paper's section 3.1; the formula is in this file's first lines. Raises ValueError
    when the tokens do not fill the grid or there are none, for a view_strength that is negative or
    not finite, and for a backend that this device, type or machine does not have.
    """
    check_shapes(query, num_views, num_frames)
    tokens, _, head_dim = query.shape[1:]
    if not 0 <= view_strength < math.inf:
        raise ValueError(f"view_strength is {view_strength}, but must be 0 or more, and finite.")
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}, but must be one of {', '.join(BACKENDS)}.")
    if backend == "auto":
        backend, _ = choose_backend(query.device, query.dtype, head_dim, tokens)
    else:
        training = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
        reason = unavailable(backend, query.device, query.dtype, head_dim, training)
        if reason:
            raise ValueError(f"backend {backend!r} cannot be used: {reason}; use 'auto'.")
    given = (query, key, value, num_views, num_frames, view_strength)
    all_see_all = num_views == 1 or (num_frames == 1 and view_strength == 1)
    if all_see_all and backend in ("dense", "matmul", "gather", "merge"):
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    if backend == "dense":
        return dense_attention(*given)
    if backend == "matmul":
        return matmul_attention(*given)
    if backend == "gather":
        return gather_attention(*given)
    if backend == "flex":
        return flex_attention(*given)
    if backend == "flash-attn":
        kernel, _ = flash_attn_kernel(query.device, query.dtype, head_dim)
    else:
        kernel = fused_kernel(query.device, query.dtype, head_dim)
    return merge_attention(*given, kernel)


def choose_backend(
    device: torch.device, dtype: torch.dtype, head_dim: int, tokens: int
) -> tuple[str, str]:
    """(the backend that `auto` takes for a grid of that many tokens, why, in words)."""
    if device.type == "cpu" and tokens <= SMALL_GRID:
        return "dense", f"at most {SMALL_GRID} tokens, where one masked attention is the fastest"
    if device.type == "cpu" and dtype == torch.bfloat16 and tokens <= MATMUL_GRID:
        return "matmul", f"at most {MATMUL_GRID} tokens of bfloat16 on a CPU"
    if device.type == "cuda":
        kernel, _ = flash_attn_kernel(device, dtype, head_dim)
        if kernel == FlashAttention3.name:
            return "flash-attn", f"{kernel} is installed, the fastest on this GPU"
    kernel = fused_kernel(device, dtype, head_dim)
    if kernel:
        return "merge", f"{kernel} gives the log-sum-exp"
    reason = f"no kernel on {device.type} gives the log-sum-exp for {dtype}"
    if tokens <= DENSE_GRID:
        return "dense", f"{reason}; at most {DENSE_GRID} tokens"
    return "gather", reason


def unavailable(
    backend: str,
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    training: bool = False,
) -> str | None:
    """Why a backend cannot be used (training: with gradients), or None when it can."""
    if backend == "flash-attn":
        return flash_attn_kernel(device, dtype, head_dim)[1] or None
    if backend == "flex":
        return flex_unavailable(device, training)
    if backend == "merge" and fused_kernel(device, dtype, head_dim) is None:
        return (
            f"no kernel of PyTorch on {device.type} gives the log-sum-exp for {dtype} and "
            f"{head_dim} channels per head"
        )
    return None
