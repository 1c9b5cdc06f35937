"""View-time attention by PyTorch's FlexAttention: one compiled kernel that skips masked blocks."""

import math
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fourreal.caching import cached_tables

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

GRIDS = 1024  # that a process may compile the kernel for; PyTorch gives up after 8
BLOCK = 128  # tokens; a block of the mask is skipped, masked inside, or taken whole


def flex_unavailable(device: torch.device, training: bool) -> str | None:
    """Why this backend cannot be used on `device` (training: with gradients), or None."""
    if device.type == "cuda":
        return None if find_spec("triton") else "on CUDA it needs the package triton"
    if device.type != "cpu":
        return f"it has no kernel for {device.type}"
    if training:
        return "it has no backward on CPUs"
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "on CPUs it needs a C++ compiler"
    return None


def flex_attention(
    query: Tensor, key: Tensor, value: Tensor, num_views: int, num_frames: int, view_strength: float
) -> Tensor:
    """view_time_attention; shapes as there. The first call of a grid compiles the kernel."""
    tokens_per_frame = query.shape[1] // (num_views * num_frames)
    grid = (num_views, num_frames, tokens_per_frame)
    mask = block_mask(*grid, view_strength > 0, query.device)
    score_mod = None
    if view_strength not in (0, 1):
        score_mod = _view_bias(num_frames * tokens_per_frame, math.log(view_strength))
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    if not torch.is_grad_enabled():
        q, k, v = q.detach(), k.detach(), v.detach()  # on CPUs it looks at requires_grad alone
    with torch._dynamo.config.patch(recompile_limit=GRIDS, accumulated_recompile_limit=GRIDS):
        return _compiled()(q, k, v, score_mod=score_mod, block_mask=mask).transpose(1, 2)


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Any]:
    from torch.nn.attention import flex_attention

    # fullgraph: run uncompiled, it would make all scores at once. Each grid is compiled on its own,
    # for the kernel for CPUs takes no dynamic shapes with a mask.
    return torch.compile(flex_attention.flex_attention, fullgraph=True, dynamic=False)


@lru_cache(maxsize=64)
def _view_bias(tokens_per_view: int, bias: float) -> Callable[..., Tensor]:
    """A score_mod that adds `bias` to the scores of other views."""

    def score_mod(score: Tensor, batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return torch.where(q // tokens_per_view == k // tokens_per_view, score, score + bias)

    return score_mod


@cached_tables(64)
def block_mask(
    num_views: int, num_frames: int, tokens_per_frame: int, across: bool, device: torch.device
) -> "BlockMask":
    """FlexAttention's BlockMask of a grid, made from the frames, never from pairs of tokens.

    across=False leaves only the tokens of the own view.
    """
    from torch.nn.attention.flex_attention import BlockMask

    frames = torch.arange(num_views * num_frames, device=device)
    view, time = frames // num_frames, frames % num_frames
    allowed = view[:, None] == view
    if across:
        allowed |= time[:, None] == time
    tokens = len(frames) * tokens_per_frame
    blocks = math.ceil(tokens / BLOCK)
    first = torch.arange(blocks, device=device) * BLOCK
    last = (first + BLOCK).clamp(max=tokens) - 1
    # [blocks, frames]: the frames that a block touches
    touched = (frames >= (first // tokens_per_frame)[:, None]) & (
        frames <= (last // tokens_per_frame)[:, None]
    )
    touched, allowed = touched.float(), allowed.float()
    seen = touched @ allowed @ touched.T  # pairs of frames
    count = touched.sum(1)
    whole = seen == count[:, None] * count
    whole[last - first + 1 < BLOCK] = False
    whole[:, last - first + 1 < BLOCK] = False
    partial = (seen > 0) & ~whole

    def mask_mod(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        q, k = q // tokens_per_frame, k // tokens_per_frame
        same_view = q // num_frames == k // num_frames
        return same_view | (q % num_frames == k % num_frames) if across else same_view

    def listed(kept: Tensor) -> tuple[Tensor, Tensor]:
        """The number of kept blocks of each row, and their indices first."""
        order = kept.int().argsort(dim=1, descending=True, stable=True)
        return kept.sum(1).int()[None, None], order.int()[None, None]

    return BlockMask.from_kv_blocks(
        *listed(partial),
        *listed(whole),
        BLOCK_SIZE=BLOCK,
        mask_mod=mask_mod,
        seq_lengths=(tokens, tokens),
    )
