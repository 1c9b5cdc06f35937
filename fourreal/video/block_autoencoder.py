"""The embedded video autoencoder: an orthogonal block transform with Wan's strides.

One 8x8 block of the first frame, or of four following frames, becomes 16 numbers: its principal
components (the Karhunen-Loeve transform of procedural scenes), compressed so that strong components
stay stronger. It has the interface of diffusers' AutoencoderKLWan and the causal layout of its
latents (first frame alone, then four at a time), and costs two matrix products.
"""

from types import SimpleNamespace

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor

BLOCK, STRIDE = 8, 4
SCALED_TO = 48  # gives 16 components a deviation of about 1.3, and more of them less
FIRST = "b c 1 (h i) (w j) -> b 1 h w (c i j)"
REST = "b c (f k) (h i) (w j) -> b f h w (c k i j)"


class BlockAutoencoder(ModelMixin, ConfigMixin):
    """Videos [B, 3, T, H, W] in [-1, 1] to latents [B, z_dim, F, H/8, W/8] and back."""

    @register_to_config
    def __init__(
        self,
        z_dim: int = 16,
        scale_factor_temporal: int = STRIDE,
        scale_factor_spatial: int = BLOCK,
        latents_mean: tuple[float, ...] = (0.0,),
        latents_std: tuple[float, ...] = (1.0,),
    ):
        # The latents already have mean 0 and deviation about 1, so these are for every channel.
        super().__init__()
        self.z_dim = z_dim
        for name, size in (("first", 3 * BLOCK**2), ("rest", 3 * STRIDE * BLOCK**2)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_basis", torch.zeros(size, z_dim))
            self.register_buffer(f"{name}_scale", torch.ones(z_dim))

    @torch.no_grad()
    def fit(self, videos: list[Tensor]) -> None:
        """Set the transform to the principal components of videos [B, 3, T, H, W] in [-1, 1].

        Component k, of deviation d_k, is divided by the root of d_k times a common factor, the
        root of the mean deviation of the SCALED_TO strongest components.
        """
        for name, pattern, clip in (("first", FIRST, slice(0, 1)), ("rest", REST, slice(1, None))):
            blocks = torch.cat(
                [
                    rearrange(v[:, :, clip], pattern, **self._sizes(name)).flatten(0, 3)
                    for v in videos
                ]
            ).double()
            mean = blocks.mean(0)
            values, vectors = torch.linalg.eigh((blocks - mean).T @ (blocks - mean) / len(blocks))
            basis = vectors.flip(1)[:, : self.z_dim]
            deviation = values.flip(0).clamp_min(1e-8).sqrt()
            scale = deviation[: self.z_dim].sqrt() * deviation[:SCALED_TO].mean().sqrt()
            # The sign of an eigenvector is arbitrary; fix it.
            basis = basis * basis.sum(0, keepdim=True).sign()
            getattr(self, f"{name}_mean").copy_(mean)
            getattr(self, f"{name}_basis").copy_(basis)
            getattr(self, f"{name}_scale").copy_(scale)

    @staticmethod
    def _sizes(name: str) -> dict[str, int]:
        sizes = {"i": BLOCK, "j": BLOCK}
        return sizes if name == "first" else sizes | {"k": STRIDE}

    def _analyse(self, name: str, pattern: str, video: Tensor) -> Tensor:
        mean, basis, scale = (getattr(self, f"{name}_{x}") for x in ("mean", "basis", "scale"))
        blocks = rearrange(video, pattern, **self._sizes(name))
        return ((blocks - mean) @ (basis / scale)).movedim(-1, 1)

    def _synthesise(self, name: str, pattern: str, latents: Tensor) -> Tensor:
        mean, basis, scale = (getattr(self, f"{name}_{x}") for x in ("mean", "basis", "scale"))
        blocks = latents.movedim(1, -1) @ (basis * scale).T + mean
        back = " -> ".join(reversed(pattern.split(" -> ")))
        return rearrange(blocks, back, c=3, **self._sizes(name))

    def encode(self, videos: Tensor) -> SimpleNamespace:
        """`.latent_dist.mean`, `.mode()` and `.sample()` (all the same: nothing is random)."""
        parts = [self._analyse("first", FIRST, videos[:, :, :1])]
        if videos.shape[2] > 1:
            parts.append(self._analyse("rest", REST, videos[:, :, 1:]))
        latents = torch.cat(parts, 2)
        answer = SimpleNamespace(mean=latents, mode=lambda: latents, sample=lambda *_: latents)
        return SimpleNamespace(latent_dist=answer)

    def decode(self, latents: Tensor, return_dict: bool = True):
        """`.sample`: videos [B, 3, 4 (F - 1) + 1, 8h, 8w], clamped to [-1, 1]."""
        parts = [self._synthesise("first", FIRST, latents[:, :, :1])]
        if latents.shape[2] > 1:
            parts.append(self._synthesise("rest", REST, latents[:, :, 1:]))
        videos = torch.cat(parts, 2).clamp(-1, 1)
        return SimpleNamespace(sample=videos) if return_dict else (videos,)
