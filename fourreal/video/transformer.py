"""Put view-time attention into a stock diffusers Wan transformer, and take it out again.

No fork: the self-attention processors and the rotary positions are exchanged, the weights and their
names stay. Fused is the paper's architecture (section 3.1) and adds no parameters; the others are
for comparison (`architectures.py`).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import (
    WanAttention,
    WanAttnProcessor,
)
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fourreal.attention import (
    time_attention,
    view_attention,
    view_time_attention,
    view_time_positions,
)
from fourreal.video.architectures import (
    ARCHITECTURES,
    Attend,
    WanTransformer,
    attend_in_streams,
    attend_over_time_first,
    run_both_streams,
    set_synchronisation,
)

EXCHANGED = "_view_time_exchanged"  # attribute of a transformer with view-time attention


class ViewTimeAttnProcessor(WanAttnProcessor):
    """WanAttnProcessor whose self-attention is `attend`(query, key, value), [B, N, heads, dim]."""

    def __init__(self, attend: Attend):
        super().__init__()
        self.attend = attend

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Any = None,
    ) -> Tensor:
        """Self-attention of hidden_states [B, N, width]; rotary_emb: ViewTimeRotary's tables."""
        if attn.fused_projections:
            query, key, value = attn.to_qkv(hidden_states).chunk(3, dim=-1)
        else:
            query, key = attn.to_q(hidden_states), attn.to_k(hidden_states)
            value = attn.to_v(hidden_states)
        query, key = _rms_norm(attn.norm_q, query), _rms_norm(attn.norm_k, key)
        query, key, value = (x.unflatten(2, (attn.heads, -1)) for x in (query, key, value))
        # In the type of the linear layers: under autocast a norm may answer in float32.
        query, key = (apply_rotary(x, *rotary_emb).to(value.dtype) for x in (query, key))
        out = self.attend(query, key, value)
        out = out.flatten(2, 3).to(hidden_states.dtype)
        return attn.to_out[1](attn.to_out[0](out))


def _rms_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """norm(x) with the weight in x's type, for which torch has a fused kernel."""
    if isinstance(norm, nn.RMSNorm):
        weight = norm.weight if norm.weight is None else norm.weight.to(x.dtype)
        return nn.functional.rms_norm(x, norm.normalized_shape, weight, norm.eps)
    return norm(x)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn channel pairs of x [B, N, heads, dim] by Wan's cos and sin [1, N, 1, dim]."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2].to(x.dtype), sin[..., 1::2].to(x.dtype)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


class ViewTimeRotary(nn.Module):
    """Wan's rotary embedding with the temporal positions [V*F] of the grid's frames."""

    def __init__(self, rope: Any, positions: Tensor):
        super().__init__()
        self.rope = rope
        self.positions = positions.to(rope.freqs_cos.device)
        if int(positions[-1]) >= rope.max_seq_len:
            raise ValueError(
                f"this grid needs {int(positions[-1]) + 1} rotary positions, but this model has "
                f"{rope.max_seq_len}; use fewer views."
            )

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [1, V*F*h*w, 1, dim] for latents [B, C, V*F, H, W]."""
        rope = self.rope
        _, _, frames, height, width = hidden_states.shape
        rows, columns = height // rope.patch_size[1], width // rope.patch_size[2]
        if frames // rope.patch_size[0] != len(self.positions):
            raise ValueError(
                f"the latents have {frames} frames, but the grid was set up for "
                f"{len(self.positions)}; call apply_view_time again."
            )
        positions = self.positions.to(rope.freqs_cos.device)

        def table(freqs: Tensor) -> Tensor:
            time, y, x = freqs.split([rope.t_dim, rope.h_dim, rope.w_dim], dim=1)
            shape = (frames, rows, columns, -1)
            parts = (
                time[positions].view(frames, 1, 1, -1),
                y[:rows].view(1, rows, 1, -1),
                x[:columns].view(1, 1, columns, -1),
            )
            return torch.cat([p.expand(*shape) for p in parts], -1).flatten(0, 2)[None, :, None]

        return table(rope.freqs_cos), table(rope.freqs_sin)


@dataclass
class _Exchanged:
    """What apply_view_time took out of a transformer, and the hooks that it put in."""

    rope: nn.Module
    processors: list[Any]
    hooks: list[RemovableHandle]


def _self_attentions(transformer: WanTransformer) -> list[Any]:
    blocks: list[Any] = [*transformer.blocks, *getattr(transformer, "vace_blocks", ())]
    return [block.attn1 for block in blocks]


def _give_back(transformer: WanTransformer) -> None:
    """Undo apply_view_time, where it was called."""
    exchanged = vars(transformer).pop(EXCHANGED, None)
    if exchanged is None:
        return
    for hook in exchanged.hooks:
        hook.remove()
    transformer.register_module("rope", exchanged.rope)
    for attention, processor in zip(_self_attentions(transformer), exchanged.processors):
        attention.set_processor(processor)


def apply_view_time(
    transformer: WanTransformer,
    num_views: int | None,
    num_frames: int = 1,
    *,
    max_frames: int | None = None,
    view_strength: float = 1.0,
    backend: str = "auto",
    architecture: str = "fused",
) -> WanTransformer:
    """Make `transformer` attend over a grid of num_views x num_frames (latent) frames, in place.

    Its input then is one sequence [B, C, V*F, h, w], view-major, and so is the control of a VACE
    transformer, whose VACE blocks attend like the others. max_frames (T_max of the base
    model, default num_frames) spaces the views' positions. num_views=None gives the stock model
    back, with the attention processors that it had. With one view the result is the stock model's,
    whatever the architecture. architecture is one of ARCHITECTURES; the parallel ones have
    parameters of their own, `view_time_sync` of each block, which are made here when they are not
    there, and are kept by num_views=None. view_strength and backend are for fused. Returns the
    transformer. Raises ValueError for what does not fit the model.
    """
    _give_back(transformer)
    if num_views is None:
        return transformer
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"architecture is {architecture!r}, but must be one of {', '.join(ARCHITECTURES)}."
        )
    if not architecture.startswith("fused") and isinstance(transformer, WanVACETransformer3DModel):
        raise ValueError(
            f"the architecture {architecture} is not made for VACE transformers; use fused."
        )
    if architecture != "fused" and view_strength != 1:
        raise ValueError(
            f"view_strength is {view_strength}, but the architecture {architecture} has none; "
            "leave it at 1."
        )
    if architecture == "fused":
        positions = view_time_positions(num_views, num_frames, max_frames or num_frames)
    else:
        positions = (torch.arange(num_views)[:, None] + torch.arange(num_frames)).flatten()
    rope = ViewTimeRotary(transformer.rope, positions)
    if architecture.startswith("parallel"):
        set_synchronisation(transformer, architecture)

    attend: Attend = partial(
        view_time_attention,
        num_views=num_views,
        num_frames=num_frames,
        view_strength=view_strength,
        backend=backend,
    )
    over_time = partial(time_attention, num_views=num_views, num_frames=num_frames)
    over_views = partial(view_attention, num_views=num_views, num_frames=num_frames)
    hooks = []
    if architecture == "sequential" and num_views > 1:
        attend = over_views
        hook = attend_over_time_first(ViewTimeAttnProcessor(over_time))
        hooks = [block.register_forward_pre_hook(hook) for block in transformer.blocks]
    elif architecture.startswith("parallel") and num_views > 1:
        attend = partial(attend_in_streams, over_time, over_views)
        last = len(transformer.blocks) - 1
        for index, block in enumerate(transformer.blocks):
            before, after = run_both_streams(index == 0, index == last)
            hooks += [block.register_forward_pre_hook(before), block.register_forward_hook(after)]

    attentions = _self_attentions(transformer)
    processors = [attention.processor for attention in attentions]
    vars(transformer)[EXCHANGED] = _Exchanged(transformer.rope, processors, hooks)
    transformer.register_module("rope", rope)
    processor = ViewTimeAttnProcessor(attend)
    for attention in attentions:
        attention.set_processor(processor)
    return transformer
