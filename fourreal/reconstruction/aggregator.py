"""The transformer of VGGT with the temporal layers of 4Real-Video-V2.

VGGT (arXiv 2503.11651, section 3.2): DINOv2 patch tokens plus a camera and four register tokens per
frame go through pairs of a frame block (attention inside each frame) and a global block (across the
frames of one sequence). 4Real-Video-V2 (arXiv 2506.18839, section 4): a sequence is the views of
one time, and after each pair a temporal block joins the tokens of different times. Its gates are
zero at first, so that an untrained model is exactly VGGT.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from fourreal.reconstruction.config import VGGTConfig
from fourreal.reconstruction.layers import (
    Block,
    Rotary,
    init_transformer,
    spatial_rotary,
    temporal_rotary,
)

IMAGE_MEAN = (0.485, 0.456, 0.406)  # ImageNet, as DINOv2 was trained
IMAGE_STD = (0.229, 0.224, 0.225)
GATES = ("ls1.gamma", "ls2.gamma")  # of a block; zero where it changes nothing


def in_parts(module: Callable[..., Tensor], x: Tensor, parts: int, *rotary: Rotary) -> Tensor:
    """module(x, *rotary), without gradients in `parts` parts of the batch, so that the largest
    tensors (hidden layers of MLPs) are those of one part."""
    if parts == 1 or torch.is_grad_enabled():
        return module(x, *rotary)
    return torch.cat([module(part, *rotary) for part in x.chunk(parts)])


class PatchProjection(nn.Module):
    """Patches to tokens by one strided convolution."""

    def __init__(self, patch_size: int, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)


class PatchEmbedding(nn.Module):
    """DINOv2 ViT with registers (arXiv 2309.16588): images to normalised patch tokens."""

    def __init__(self, config: VGGTConfig):
        super().__init__()
        dim = config.embed_dim
        self.grid = config.img_size // config.patch_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, 4, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim))  # in public files; not used here
        self.patch_embed = PatchProjection(config.patch_size, dim)
        self.blocks = nn.ModuleList(
            Block(dim, config.dino_num_heads, config.mlp_ratio, 1.0, eps=1e-6)
            for _ in range(config.dino_depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def position_embedding(self, rows: int, columns: int) -> Tensor:
        """The patches' position embedding [1, rows * columns, dim] for a grid of any size."""
        patches = self.pos_embed[:, 1:]
        if (rows, columns) == (self.grid, self.grid):
            return patches
        patches = patches.unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2).float()
        patches = F.interpolate(patches, size=(rows, columns), mode="bicubic", antialias=True)
        return patches.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [N, 3, H, W] to patch tokens [N, rows * columns, dim]."""
        patches = self.patch_embed.proj(images)
        rows, columns = patches.shape[-2:]
        patches = patches.flatten(2).transpose(1, 2) + self.position_embedding(rows, columns)
        first = self.cls_token + self.pos_embed[:, :1]
        count = images.shape[0]
        specials = torch.cat([first, self.register_tokens], dim=1).expand(count, -1, -1)
        x = torch.cat([specials.to(patches.dtype), patches], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, specials.shape[1] :])


class Aggregator(nn.Module):
    """Images to the tokens that the heads read."""

    def __init__(self, config: VGGTConfig):
        super().__init__()
        self.config = config
        dim = config.embed_dim

        def blocks(layer_scale: float) -> nn.ModuleList:
            return nn.ModuleList(
                Block(dim, config.num_heads, config.mlp_ratio, layer_scale, qk_norm=True)
                for _ in range(config.depth)
            )

        self.patch_embed = PatchEmbedding(config)
        # Row 0 is for the first frame of a sequence, whose camera is the world; row 1 for others.
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, dim))
        self.register_token = nn.Parameter(torch.zeros(1, 2, config.num_register_tokens, dim))
        self.frame_blocks = blocks(config.layer_scale_init)
        self.global_blocks = blocks(config.layer_scale_init)
        if config.temporal != "none":
            self.temporal_blocks = blocks(0.0)

    @property
    def num_special_tokens(self) -> int:
        """Camera and register tokens in front of each frame's patch tokens."""
        return 1 + self.config.num_register_tokens

    @torch.no_grad()
    def init_weights(self) -> None:
        """Fresh weights everywhere; the temporal gates are zero."""
        init_transformer(self)
        embed = self.patch_embed
        nn.init.trunc_normal_(embed.patch_embed.proj.weight, std=0.02)
        nn.init.zeros_(embed.patch_embed.proj.get_parameter("bias"))
        nn.init.zeros_(embed.mask_token)
        nn.init.trunc_normal_(embed.pos_embed, std=0.02)
        for tokens in (embed.cls_token, embed.register_tokens):
            nn.init.normal_(tokens, std=1e-6)
        for tokens in (self.camera_token, self.register_token):
            nn.init.normal_(tokens, std=0.02)

    @torch.no_grad()
    def start_temporal_from_global(self) -> None:
        """Copy each global block into the temporal block of the same index, gates zero."""
        for temporal, source in zip(self.temporal_blocks, self.global_blocks, strict=True):
            temporal.load_state_dict(source.state_dict())
            for gate in GATES:
                temporal.get_parameter(gate).zero_()

    def temporal_is_trained(self) -> bool:
        """Whether any temporal gate is open (otherwise the layers do nothing)."""
        if self.config.temporal == "none":
            return False
        return any(
            bool(block.get_parameter(gate).any())
            for block in self.temporal_blocks
            for gate in GATES
        )

    def _embed(self, images: Tensor) -> Tensor:
        """Patch tokens [N, patches, C] of images [N, 3, H, W] in [0, 1]."""
        mean, std = (images.new_tensor(v)[:, None, None] for v in (IMAGE_MEAN, IMAGE_STD))
        weight = self.patch_embed.patch_embed.proj.weight
        return self.patch_embed(((images - mean) / std).to(weight.dtype))

    def _special_tokens(self, batch: int, views: int) -> Tensor:
        both = torch.cat([self.camera_token, self.register_token], dim=2)  # [1, 2, specials, C]
        rows = torch.cat([both[:, :1], both[:, 1:].expand(-1, views - 1, -1, -1)], dim=1)
        return rows.expand(batch, -1, -1, -1)

    def _temporal(self, block: nn.Module, x: Tensor, num_times: int) -> Tensor:
        """One temporal block on tokens [B * T, S, P, C]: each token attends along time."""
        config = self.config
        head_dim = config.embed_dim // config.num_heads
        views, tokens = x.shape[1:3]
        rotary = temporal_rotary(num_times, head_dim, config.rope_base, x.device, x.dtype)
        x = rearrange(x, "(b t) s p c -> (b s p) t c", t=num_times)
        x = in_parts(block, x, views, rotary)
        return rearrange(x, "(b s p) t c -> (b t) s p c", s=views, p=tokens)

    def forward(self, images: Tensor, num_times: int = 1, temporal: bool = True) -> list[Tensor]:
        """Tokens of the intermediate layers, each [B, S, specials + patches, 2 * embed_dim].

        images is [B, S, 3, H, W] in [0, 1]: B = scenes x times (times innermost), S the views.
        H and W must be multiples of patch_size. `temporal=False` leaves the temporal blocks out.
        The first half of the channels is the frame block's output, the second the global (and
        temporal) one's. Without gradients the blocks run time by time.
        """
        config = self.config
        batch, views, _, height, width = images.shape
        grid = (height // config.patch_size, width // config.patch_size)
        temporal = temporal and config.temporal != "none"

        patches = in_parts(self._embed, images.flatten(0, 1), batch)
        patches = patches.unflatten(0, (batch, views))
        specials = self._special_tokens(batch, views).to(patches.dtype)
        x = torch.cat([specials, patches], dim=2)  # [B, S, P, C]

        head_dim, base = config.embed_dim // config.num_heads, config.rope_base
        tokens, place = (*grid, self.num_special_tokens), (x.device, x.dtype)
        frame_rotary = spatial_rotary(*tokens, 1, head_dim, base, *place)
        global_rotary = spatial_rotary(*tokens, views, head_dim, base, *place)
        outputs = []
        for layer in range(config.depth):
            x = in_parts(self.frame_blocks[layer], x.flatten(0, 1), batch, frame_rotary)
            in_frame = x.unflatten(0, (batch, views))
            x = in_parts(self.global_blocks[layer], in_frame.flatten(1, 2), batch, global_rotary)
            x = x.unflatten(1, (views, -1))
            if temporal:
                x = self._temporal(self.temporal_blocks[layer], x, num_times)
            if layer in config.intermediate_layers:
                outputs.append(torch.cat([in_frame, x], dim=-1))
        return outputs
