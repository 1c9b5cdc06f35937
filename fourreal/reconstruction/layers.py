"""Transformer layers of VGGT: attention with QK-norm and rotary positions, LayerScale, MLP.

Attribute names are those of the public checkpoints, so that their files load as they are.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourreal.caching import cached_tables

Rotary = tuple[Tensor, Tensor]  # cosines and signed sines, each [N, 1, head_dim]


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Apply rotary positions to queries or keys [B, N, heads, head_dim].

    The head dimension is two axes (y, x) of two halves each; a pair is one entry of both halves.
    """
    cosine, sine = (table.to(x.dtype) for table in rotary)
    swapped = x.unflatten(-1, (2, 2, -1)).flip(-2).flatten(-3)
    return x * cosine + swapped * sine


def _to_rotary(angles: Tensor, device: torch.device, dtype: torch.dtype) -> Rotary:
    """Angles [N, 2 axes, pairs] to tables; the sine's sign does the rotation's minus."""
    both = torch.stack([angles, angles], dim=2)  # [N, axis, half, pairs]
    sign = torch.tensor([-1.0, 1.0])[:, None]
    cosine, sine = (
        table.flatten(1)[:, None].to(device=device, dtype=dtype)
        for table in (both.cos(), both.sin() * sign)
    )
    return cosine, sine


def _frequencies(count: int, base: float) -> Tensor:
    return base ** -(torch.arange(count, dtype=torch.float32) / count)


def spatial_angles(rows: int, columns: int, specials: int, head_dim: int, base: float) -> Tensor:
    """Rotary angles [specials + rows * columns, 2, head_dim / 4] of one frame's tokens.

    Patches count from 1 in both axes; camera and register tokens are at position 0.
    """
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    positions = torch.stack([y, x], -1).flatten(0, 1) + 1
    positions = torch.cat([positions.new_zeros(specials, 2), positions]).float()
    return positions[..., None] * _frequencies(head_dim // 4, base)


@cached_tables(64)
def spatial_rotary(
    rows: int,
    columns: int,
    specials: int,
    repeats: int,
    head_dim: int,
    base: float,
    device: torch.device,
    dtype: torch.dtype,
) -> Rotary:
    """Tables for `repeats` frames in a row: RoPE2D, the same for every frame."""
    angles = spatial_angles(rows, columns, specials, head_dim, base)
    return _to_rotary(angles.repeat(repeats, 1, 1), device, dtype)


@cached_tables(64)
def temporal_rotary(
    num_times: int, head_dim: int, base: float, device: torch.device, dtype: torch.dtype
) -> Rotary:
    """Tables for the same token at several times: a 1-D rotary position without parameters."""
    frequencies = _frequencies(head_dim // 2, base).unflatten(0, (2, -1))
    return _to_rotary(torch.arange(num_times).float()[:, None, None] * frequencies, device, dtype)


class Attention(nn.Module):
    """Multi-head self-attention with optional QK-norm."""

    def __init__(self, dim: int, num_heads: int, qk_norm: bool):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(dim // num_heads) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // num_heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rotary: Rotary | None = None) -> Tensor:
        """[B, N, dim] to [B, N, dim]."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        query, key = self.q_norm(query), self.k_norm(key)
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        # Autocast may have made the norms' output wider than the values.
        query, key = query.to(value.dtype), key.to(value.dtype)
        out = F.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        )
        return self.proj(out.transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, dim: int, init: float):
        super().__init__()
        self.init = init
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Mlp(nn.Module):
    """Two linear layers with GELU."""

    def __init__(self, dim: int, hidden: int, out: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block with LayerScale on both branches."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        layer_scale: float,
        qk_norm: bool = False,
        eps: float = 1e-5,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads, qk_norm)
        self.ls1 = LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dim)
        self.ls2 = LayerScale(dim, layer_scale)

    def forward(self, x: Tensor, rotary: Rotary | None = None) -> Tensor:
        """[B, N, dim] to [B, N, dim]."""
        x = x + self.ls1(self.attn(self.norm1(x), rotary))
        return x + self.ls2(self.mlp(self.norm2(x)))


@torch.no_grad()
def init_transformer(module: nn.Module) -> None:
    """Fresh weights for linear layers, norms and LayerScale below `module`.

    Linear layers have deviation sqrt(0.4 / inputs): ViT's usual 0.02 at its width of 1000, and more
    in narrow models, where 0.02 would let almost nothing through.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=(0.4 / part.in_features) ** 0.5)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm) and part.elementwise_affine:
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
        elif isinstance(part, LayerScale):
            part.gamma.fill_(part.init)
