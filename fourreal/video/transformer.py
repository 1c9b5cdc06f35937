"""Fused view-time attention in a stock diffusers Wan transformer, and out of it again.

No parameters, no fork: the self-attention processors and the rotary positions are exchanged, the
weights and their names stay. Paper, section 3.1.
"""

import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor, WanTransformer3DModel
from torch import Tensor, nn

from fourreal.attention import view_time_attention, view_time_positions


class ViewTimeAttnProcessor(WanAttnProcessor):
    """WanAttnProcessor whose self-attention runs over a grid of num_views x num_frames frames."""

    def __init__(self, num_views: int, num_frames: int, view_strength: float, backend: str):
        super().__init__()
        self.num_views, self.num_frames = num_views, num_frames
        self.view_strength, self.backend = view_strength, backend

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None
    ) -> Tensor:
        if attn.fused_projections:
            query, key, value = attn.to_qkv(hidden_states).chunk(3, dim=-1)
        else:
            query, key = attn.to_q(hidden_states), attn.to_k(hidden_states)
            value = attn.to_v(hidden_states)
        query, key = _rms_norm(attn.norm_q, query), _rms_norm(attn.norm_k, key)
        query, key, value = (x.unflatten(2, (attn.heads, -1)) for x in (query, key, value))
        query, key = (apply_rotary(x, *rotary_emb) for x in (query, key))
        out = view_time_attention(
            query, key, value.to(query.dtype), self.num_views, self.num_frames,
            view_strength=self.view_strength, backend=self.backend,
        )  # fmt: skip
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
    """Wan's rotary embedding with the temporal position v * max_frames + f of each grid frame."""

    def __init__(self, rope: nn.Module, num_views: int, num_frames: int, max_frames: int):
        super().__init__()
        self.rope = rope
        self.positions = view_time_positions(num_views, num_frames, max_frames)
        limit = rope.max_seq_len
        if int(self.positions[-1]) >= limit:
            raise ValueError(
                f"{num_views} views of up to {max_frames} latent frames need "
                f"{int(self.positions[-1]) + 1} rotary positions, but this model has {limit}; use "
                "fewer views."
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


def apply_view_time(
    transformer: WanTransformer3DModel,
    num_views: int | None,
    num_frames: int | None = None,
    *,
    max_frames: int | None = None,
    view_strength: float = 1.0,
    backend: str = "auto",
) -> WanTransformer3DModel:
    """Make `transformer` attend over a grid of num_views x num_frames (latent) frames, in place.

    Its input then is one sequence [B, C, V*F, h, w], view-major. max_frames (T_max of the base
    model, default num_frames) spaces the views' positions. num_views=None gives the stock model
    back. With one view the result is the stock model's. Returns the transformer.
    """
    stock_rope = getattr(transformer.rope, "rope", transformer.rope)
    if num_views is None:
        transformer.rope = stock_rope
        for block in transformer.blocks:
            block.attn1.set_processor(WanAttnProcessor())
        return transformer
    transformer.rope = ViewTimeRotary(stock_rope, num_views, num_frames, max_frames or num_frames)
    processor = ViewTimeAttnProcessor(num_views, num_frames, view_strength, backend)
    for block in transformer.blocks:
        block.attn1.set_processor(processor)
    return transformer
