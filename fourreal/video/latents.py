"""Between frames and latents: each view is encoded and decoded on its own.

The autoencoder is causal in time, and its state must not cross from one view to the next.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from einops import rearrange
from torch import Tensor

from fourreal.embedded.autoencoder import BlockAutoencoder
from fourreal.grid import num_latent_frames
from fourreal.video.request import GridRequest
from fourreal.video.windows import Window

Vae = AutoencoderKLWan | BlockAutoencoder


def _statistics(vae: Vae, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the VAE's latents, [1, C, 1, 1, 1], as `like` in type and device."""
    shape = (1, -1, 1, 1, 1)
    mean, std = vae.config["latents_mean"], vae.config["latents_std"]
    return like.new_tensor(mean).view(shape), like.new_tensor(std).view(shape)


def encode_views(vae: Vae, videos: Tensor, device: torch.device, at_once: int = 1) -> Tensor:
    """Normalised latents [V, C, F, h, w], float32, of videos [V, T, 3, H, W] in [0, 1], some of
    them at once."""
    encoded = [
        vae.encode(rearrange(views * 2 - 1, "v t c h w -> v c t h w").to(device, vae.dtype))
        for views in videos.split(at_once)
    ]
    latents = torch.cat([answer.latent_dist.mode() for answer in encoded]).float()
    mean, std = _statistics(vae, latents)
    return (latents - mean) / std


def decode_view(vae: Vae, latents: Tensor) -> Tensor:
    """One view [T, 3, H, W] in [0, 1], on the CPU, of normalised latents [C, F, h, w]."""
    mean, std = _statistics(vae, latents)
    answer: Any = vae.decode((latents[None] * std + mean).to(vae.dtype))
    video = answer.sample[0].float()
    return (video.transpose(0, 1) / 2 + 0.5).clamp(0, 1).cpu()


def reference_latents(
    encode: Callable[[Tensor], Tensor],
    request: GridRequest,
    window: Window,
    columns: Tensor | None,
    like: Tensor,
) -> Tensor:
    """The references of a window as latents shaped `like` [V, C, F, h, w], zeros elsewhere.

    encode turns videos into latents; columns [V, n, 3, H, W] are the window's first n pixel frames.
    """
    latents = torch.zeros_like(like)
    if columns is not None:
        latents[:, :, : num_latent_frames(columns.shape[1])] = encode(columns)
    if request.image is not None and window.start == 0:
        # Latent frame 0 is exactly one pixel frame, so an image is a one-frame video.
        latents[:1, :, :1] = encode(request.image[None, None])
    if request.fixed_view is not None:
        latents[:1] = encode(request.fixed_view[None, window.first_frame : window.end_frame])
    return latents
