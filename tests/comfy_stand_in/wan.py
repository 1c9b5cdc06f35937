"""Wan's transformer and the models around it."""

import math
from functools import partial
from types import SimpleNamespace

import torch
from torch import nn

from .models import LatentFormat


def attention(q, k, v, heads, transformer_options=None):
    def split(x):
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    out = nn.functional.scaled_dot_product_attention(split(q), split(k), split(v))
    return out.transpose(1, 2).flatten(2)


def optimized_attention(q, k, v, heads, transformer_options):
    override = transformer_options.get("optimized_attention_override")
    if override is None:
        return attention(q, k, v, heads)
    return override(attention, q, k, v, heads, transformer_options=transformer_options)


class Attention(nn.Module):
    def __init__(self, dim, heads, eps):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = nn.RMSNorm(dim, eps), nn.RMSNorm(dim, eps)

    def forward(self, x, context, turns, options):
        q, k = self.norm_q(self.q(x)), self.norm_k(self.k(context))
        if turns is not None:
            q, k = (
                (turns * p.unflatten(-1, (self.heads, -1, 1, 2))).sum(-1).flatten(2) for p in (q, k)
            )
        return self.o(optimized_attention(q, k, self.v(context), self.heads, options))


class Block(nn.Module):
    def __init__(self, dim, ffn_dim, heads, eps):
        super().__init__()
        self.self_attn, self.cross_attn = Attention(dim, heads, eps), Attention(dim, heads, eps)
        self.norm1 = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.norm3 = nn.LayerNorm(dim, eps)
        self.ffn = nn.Sequential(
            nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim)
        )
        self.modulation = nn.Parameter(torch.empty(1, 6, dim))

    def forward(self, x, level, context, turns, options):
        e = (self.modulation + level).unbind(2)  # [B, L, C] each
        y = self.norm1(x) * (1 + e[1]) + e[0]
        x = x + self.self_attn(y, y, turns, options) * e[2]
        x = x + self.cross_attn(self.norm3(x), context, None, options)
        return x + self.ffn(self.norm2(x) * (1 + e[4]) + e[3]) * e[5]


class Head(nn.Module):
    def __init__(self, dim, out_dim, eps):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps, elementwise_affine=False)
        self.head = nn.Linear(dim, out_dim)
        self.modulation = nn.Parameter(torch.empty(1, 2, dim))

    def forward(self, x, level):
        shift, scale = (self.modulation + level[:, :, None]).unbind(2)
        return self.head(self.norm(x) * (1 + scale) + shift)


class WanModel(nn.Module):
    """Wan's transformer under ComfyUI's keys, with the two hooks that the nodes use."""

    def __init__(self, patch_size, in_dim, dim, num_heads, num_layers, eps, **sizes):
        super().__init__()
        self.patch_size, self.in_dim, self.freq_dim = patch_size, in_dim, sizes["freq_dim"]
        self.head_dim, self.text_dim = dim // num_heads, sizes["text_dim"]
        self.patch_embedding = nn.Conv3d(in_dim, dim, patch_size, patch_size)
        self.text_embedding = nn.Sequential(
            nn.Linear(sizes["text_dim"], dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(self.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, dim * 6))
        self.blocks = nn.ModuleList(
            Block(dim, sizes["ffn_dim"], num_heads, eps) for _ in range(num_layers)
        )
        self.head = Head(dim, sizes["out_dim"] * math.prod(patch_size), eps)

    def rope_encode(self, t, h, w, t_start=0, device=None, dtype=None, transformer_options=None):
        """Rotations [1, L, 1, head_dim / 2, 2, 2] of tokens at (time, row, column)."""
        sizes = [n // p for n, p in zip((t, h, w), self.patch_size)]
        starts = (t_start, 0, 0)
        axes = [torch.arange(n, dtype=torch.float64) + s for n, s in zip(sizes, starts)]
        third = 2 * (self.head_dim // 6)
        angles = [
            place[:, None] / 10000 ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)
            for place, dim in zip(
                torch.cartesian_prod(*axes).T, (self.head_dim - 2 * third, third, third)
            )
        ]
        angle = torch.cat(angles, dim=1)
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=-1)
        return turn.unflatten(-1, (2, 2)).float()[None, :, None]

    def forward(
        self,
        x,
        timestep,
        context,
        clip_fea=None,
        time_dim_concat=None,
        transformer_options=None,
        **kwargs,
    ):
        run = self._run
        found = transformer_options.get("wrappers", {}).get("diffusion_model", {}).values()
        for wrapper in (w for group in found for w in group):
            run = partial(wrapper, run)
        return run(x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs)

    def _run(self, x, timestep, context, clip_fea, time_dim_concat, transformer_options, **kwargs):
        frames, height, width = x.shape[2:]
        turns = self.rope_encode(frames, height, width, dtype=x.dtype)
        x = self.patch_embedding(x)
        grid = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        half = self.freq_dim // 2
        scales = 10000 ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = timestep.double()[..., None] * scales  # [B] or [B, F]
        level = self.time_embedding(torch.cat([angles.cos(), angles.sin()], dim=-1).float())
        level = level.reshape(len(x), -1, level.shape[-1])
        level = level.repeat_interleave(x.shape[1] // level.shape[1], dim=1)  # to all tokens
        context = self.text_embedding(context)
        modulation = self.time_projection(level).unflatten(-1, (6, -1))
        x = self._run_blocks(x, (modulation, context, turns), transformer_options, **kwargs)
        x = self.head(x, level).unflatten(1, grid).unflatten(-1, (*self.patch_size, -1))
        return x.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(len(x), -1, frames, height, width)

    def _run_blocks(self, x, given, options):
        for index, block in enumerate(self.blocks):
            x = block(x, *given, options | {"block_index": index})
        return x


class VaceBlock(Block):
    def __init__(self, dim, *sizes, first):
        super().__init__(dim, *sizes)
        if first:
            self.before_proj = nn.Linear(dim, dim)
        self.after_proj = nn.Linear(dim, dim)


class VaceWanModel(WanModel):
    """With blocks that read controls, and add to what the main blocks give."""

    def __init__(self, vace_layers, vace_in_dim, dim, num_heads, eps, **sizes):
        super().__init__(dim=dim, num_heads=num_heads, eps=eps, **sizes)
        self.vace_patch_embedding = nn.Conv3d(vace_in_dim, dim, self.patch_size, self.patch_size)
        block = (dim, sizes["ffn_dim"], num_heads, eps)
        self.vace_blocks = nn.ModuleList(
            VaceBlock(*block, first=index == 0) for index in range(vace_layers)
        )

    def _run_blocks(self, x, given, options, vace_context, vace_strength):
        first = x
        controls = [
            self.vace_patch_embedding(control).flatten(2).transpose(1, 2)
            for control in vace_context.unbind(1)
        ]
        distance = len(self.blocks) // len(self.vace_blocks)
        for index, block in enumerate(self.blocks):
            own = options | {"block_index": index}
            x = block(x, *given, own)
            if index % distance:
                continue
            vace = self.vace_blocks[index // distance]
            for number, strength in enumerate(vace_strength):
                if index == 0:
                    controls[number] = vace.before_proj(controls[number]) + first
                controls[number] = vace(controls[number], *given, own)
                x = x + strength * vace.after_proj(controls[number])
        return x


class WAN21(nn.Module):
    """The network, its noise levels and its latents: flow matching."""

    _network = WanModel

    def __init__(self, model_config, device=None):
        super().__init__()
        self.diffusion_model = self._network(**model_config.unet_config)
        self.latent_format = model_config.latent_format
        self.model_sampling = SimpleNamespace(shift=model_config.sampling_settings["shift"])

    def process_latent_in(self, latent):
        return self.latent_format.process_in(latent)

    def process_latent_out(self, latent):
        return self.latent_format.process_out(latent)

    def _known(self, sigma, noise, latent):
        """What is known, at a noise level."""
        return sigma * noise + (1 - sigma) * latent

    def extra_conds(self, **kwargs):
        """More inputs of the network, of a CONDITIONING's values, for a batch like noise."""
        return {}


class WAN21_Vace(WAN21):
    _network = VaceWanModel

    def extra_conds(self, **kwargs):
        parts, noise = zip(kwargs["vace_frames"], kwargs["vace_mask"]), kwargs["noise"]
        controls = torch.stack([torch.cat(both, dim=1) for both in parts], dim=1)
        controls = controls.repeat(len(noise) // len(controls), 1, 1, 1, 1, 1)
        return {"vace_context": controls, "vace_strength": kwargs["vace_strength"]}


class WAN22(WAN21):
    def _known(self, sigma, noise, latent):
        return latent


class Wan21(LatentFormat):
    """Its normalisation is left out: no test on the stand-in compares what goes through it."""

    latent_channels, spacial_downscale_ratio = 16, 8


class Wan22(LatentFormat):
    latent_channels, spacial_downscale_ratio = 48, 16


class WAN21_T2V:
    _base = WAN21
    latent_format = Wan21

    def __init__(self, unet_config):
        self.unet_config = unet_config
        self.latent_format = self.latent_format()
        self.sampling_settings = {"shift": 8.0}

    def set_inference_dtype(self, dtype, manual_cast_dtype):
        assert dtype == torch.float32

    def get_model(self, state_dict, prefix="", device=None):
        return self._base(self, device)


class VACE_WAN21(WAN21_T2V):
    """WAN21_Vace of comfy.supported_models; that of comfy.model_base has the name here."""

    _base = WAN21_Vace


class WAN22_T2V(WAN21_T2V):
    _base = WAN22
    latent_format = Wan22
