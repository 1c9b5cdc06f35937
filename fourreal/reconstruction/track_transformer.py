"""The transformer that moves tracks: attention along time, and among points by virtual tracks.

VGGT's track head takes it from CoTracker (arXiv 2307.07635, section 3.2): N tracks would attend to
one another at N^2 cost, so 64 learned virtual tracks read the points, attend among themselves and
write back. Attribute names, `virual_tracks` included, are those of the public checkpoint.
"""

import torch
from torch import Tensor, nn

from fourreal.reconstruction.layers import Mlp

NUM_BLOCKS = 6  # along time, and as many among points
NUM_HEADS = 8
NUM_VIRTUAL = 64
MLP_RATIO = 4


class SelfBlock(nn.Module):
    """Attention among tokens. Its skip carries the normalised tokens, as the weights expect."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, NUM_HEADS, batch_first=True)
        self.mlp = Mlp(dim, MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, dim] to [B, N, dim]."""
        x = self.norm1(x)
        x = x + self.attn(x, x, x, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class CrossBlock(nn.Module):
    """Attention of tokens to others, with the same kind of skip."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm_context = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attn = nn.MultiheadAttention(dim, NUM_HEADS, batch_first=True)
        self.mlp = Mlp(dim, MLP_RATIO * dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """[B, N, dim] that read [B, M, dim]."""
        x, context = self.norm1(x), self.norm_context(context)
        x = x + self.cross_attn(x, context, context, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class TrackTransformer(nn.Module):
    """Tokens of N tracks over S frames to what is added to their positions and features."""

    def __init__(self, input_dim: int, dim: int, output_dim: int):
        super().__init__()
        self.virual_tracks = nn.Parameter(torch.randn(1, NUM_VIRTUAL, 1, dim))
        self.input_norm = nn.LayerNorm(input_dim)
        self.input_transform = nn.Linear(input_dim, dim)
        self.output_norm = nn.LayerNorm(dim)
        self.flow_head = nn.Linear(dim, output_dim)
        self.time_blocks = nn.ModuleList(SelfBlock(dim) for _ in range(NUM_BLOCKS))
        self.space_virtual_blocks = nn.ModuleList(SelfBlock(dim) for _ in range(NUM_BLOCKS))
        self.space_point2virtual_blocks = nn.ModuleList(CrossBlock(dim) for _ in range(NUM_BLOCKS))
        self.space_virtual2point_blocks = nn.ModuleList(CrossBlock(dim) for _ in range(NUM_BLOCKS))

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, S, input_dim] to [B, N, S, output_dim]."""
        batch, count, num_frames, _ = x.shape
        first = self.input_transform(self.input_norm(x))
        virtual = self.virual_tracks.expand(batch, -1, num_frames, -1)
        tokens = torch.cat([first, virtual], dim=1)  # [B, N + virtual, S, dim]
        for i in range(NUM_BLOCKS):
            tokens = self.time_blocks[i](tokens.flatten(0, 1)).unflatten(0, (batch, -1))
            at_once = tokens.transpose(1, 2).flatten(0, 1)  # [B * S, N + virtual, dim]
            points, virtual = at_once[:, :count], at_once[:, count:]
            # In the checkpoint's names the block of the virtual tracks that read the points is
            # "virtual2point", and the other way round.
            virtual = self.space_virtual2point_blocks[i](virtual, points)
            virtual = self.space_virtual_blocks[i](virtual)
            points = self.space_point2virtual_blocks[i](points, virtual)
            at_once = torch.cat([points, virtual], dim=1)
            tokens = at_once.unflatten(0, (batch, num_frames)).transpose(1, 2)
        return self.flow_head(self.output_norm(tokens[:, :count] + first))
