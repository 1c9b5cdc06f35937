"""The architectures that the fused view-time attention is compared with, on the same transformer.

fused-sum: the fused attention itself, but the frame (v, t) has the temporal position v + t, which
(v + 1, t - 1) has as well, instead of v * T_max + t (paper, section 3.2).
sequential: each layer's self-attention runs over time, then once more over the views, each with
its residual; nothing is added (4Real-Video-V2, section 3.1).
parallel: two streams of tokens go through every layer, one attends over time, the other over the
views, and a synchronisation after the layer joins them (4Real-Video, arXiv 2412.04462): hard makes
both streams one weighted average, x = Wt xt + Wv xv, starting at the mean; soft adds to each stream
a linear map of both, starting at zero. Both are modulated by the noise level.

In the latter two, within a view only differences of time count and within a time only those of
views, so v + t loses nothing.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel
from torch import Tensor, nn

WanTransformer = WanTransformer3DModel | WanVACETransformer3DModel
# Query, key and value [B, N, heads, dim] to what is attended to.
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
ARCHITECTURES = ("fused", "fused-sum", "sequential", "parallel-hard", "parallel-soft")


class Synchronisation(nn.Module):
    """Joins the two streams after one layer; the state is [2B, N, width], the time stream first."""

    def __init__(self, width: int, hard: bool):
        super().__init__()
        self.hard = hard
        self.linear = nn.Linear(2 * width, width if hard else 2 * width, bias=False)
        self.gain = nn.Parameter(torch.zeros(2 * width))
        with torch.no_grad():
            self.linear.weight.zero_()
            if hard:
                self.linear.weight.copy_(torch.eye(width).repeat(1, 2) / 2)

    def forward(self, hidden_states: Tensor, temb: Tensor) -> Tensor:
        """temb [2B, 6, width] or [2B, N, 6, width] is the layer's embedding of the noise level."""
        both = torch.cat(hidden_states.chunk(2), dim=-1)
        # The part of the embedding that scales the layer's own attention input.
        level = temb.chunk(2)[0][..., 1, :]
        level = level if level.ndim == 3 else level[:, None]
        both = both * (1 + self.gain * torch.cat([level, level], dim=-1)).to(both)
        joined = self.linear(both.to(self.linear.weight.dtype)).to(hidden_states.dtype)
        if self.hard:
            return torch.cat([joined, joined])
        return hidden_states + torch.cat(joined.chunk(2, dim=-1))


def set_synchronisation(transformer: WanTransformer, architecture: str) -> None:
    """Give each block the layer of a parallel architecture, `view_time_sync`, unless it has it.

    Needed before such a model's weights are loaded or its parameters are given to an optimizer.
    """
    config: Any = transformer.config
    blocks: Any = transformer.blocks
    width = config.num_attention_heads * config.attention_head_dim
    hard = architecture == "parallel-hard"
    for block in blocks:
        present = getattr(block, "view_time_sync", None)
        if present is None or present.hard != hard:
            block.view_time_sync = Synchronisation(width, hard).to(block.scale_shift_table.device)


def attend_over_time_first(processor: Callable[..., Tensor]) -> Callable[..., tuple]:
    """Forward pre-hook of a block: before it runs, its self-attention over time by `processor`,
    with the block's norm, modulation and residual."""

    def hook(block: Any, args: tuple) -> tuple:
        hidden_states, text, temb, rotary = args
        shift, scale, gate = (block.scale_shift_table + temb.float()).unbind(-2)[:3]
        if temb.ndim == 3:  # one noise level for all tokens
            shift, scale, gate = shift[:, None], scale[:, None], gate[:, None]
        normed = block.norm1(hidden_states.float()) * (1 + scale) + shift
        attended = processor(block.attn1, normed.type_as(hidden_states), rotary_emb=rotary)
        hidden_states = (hidden_states.float() + attended * gate).type_as(hidden_states)
        return hidden_states, text, temb, rotary

    return hook


def attend_in_streams(
    over_time: Attend, over_views: Attend, query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    """Attention of two streams, [2B, N, heads, dim]: the first over time, the second over views."""
    streams = zip(query.chunk(2), key.chunk(2), value.chunk(2))
    return torch.cat([over(*qkv) for over, qkv in zip((over_time, over_views), streams)])


def run_both_streams(first: bool, last: bool) -> tuple[Callable[..., tuple], Callable[..., Tensor]]:
    """(forward pre-hook, forward hook) of a block that runs two streams.

    The first block's doubles the state, every block's synchronises the streams, the last one's
    leaves their mean.
    """

    def before(_: Any, args: tuple) -> tuple:
        hidden_states, text, temb, rotary = args
        if first:
            hidden_states = torch.cat([hidden_states, hidden_states])
        return hidden_states, torch.cat([text, text]), torch.cat([temb, temb]), rotary

    def after(block: Any, args: tuple, hidden_states: Tensor) -> Tensor:
        hidden_states = block.view_time_sync(hidden_states, args[2])
        if not last:
            return hidden_states
        over_time, over_views = hidden_states.chunk(2)
        return (over_time + over_views) / 2

    return before, after
