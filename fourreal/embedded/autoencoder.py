"""The embedded video autoencoder: an orthogonal block transform with Wan's strides.

One 8x8 block of the first frame, or of four following frames, becomes 16 numbers: its principal
components (the Karhunen-Loeve transform of procedural scenes), compressed so that strong components
stay stronger. It has the interface of diffusers' AutoencoderKLWan and the causal layout of its
latents (first frame alone, then four at a time). The transform alone costs two matrix products;
`NeighbourDecoder` predicts a correction from neighbouring blocks, and `smooth_edges` blends the
remaining seams between blocks and between groups of frames, as video codecs do.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from fourreal.embedded.edges import smooth_edges
from fourreal.files.models import assign_weights, write_weights
from fourreal.files.tensors import read_safetensors

BLOCK, STRIDE = 8, 4
SCALED_TO = 48  # components that set the scale: 16 then have a deviation of about 1.3
FIRST_SIZE, REST_SIZE = 3 * BLOCK**2, 3 * STRIDE * BLOCK**2
FIRST = "b c 1 (h i) (w j) -> b 1 h w (c i j)"
REST = "b c (f k) (h i) (w j) -> b f h w (c k i j)"


class NeighbourDecoder(nn.Module):
    """Corrections of decoded blocks, from their latents and those of the blocks around them in
    space and time.

    Latents [B, z_dim, F, h, w] to corrections [B, 1, h, w, 192] of the first frame's blocks and
    [B, F - 1, h, w, 768] of the others. All zero until it is trained.
    """

    def __init__(self, z_dim: int, width: int, depth: int):
        super().__init__()
        self.first_in, self.rest_in = nn.Linear(z_dim, width), nn.Linear(z_dim, width)
        self.layers = nn.ModuleList(
            nn.Conv3d(width, width, 3, padding=1, padding_mode="replicate") for _ in range(depth)
        )
        self.first_out, self.rest_out = nn.Linear(width, FIRST_SIZE), nn.Linear(width, REST_SIZE)
        for layer in (self.first_out, self.rest_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        x = latents.movedim(1, -1)
        x = torch.cat([self.first_in(x[:, :1]), self.rest_in(x[:, 1:])], 1).movedim(-1, 1)
        for layer in self.layers:
            x = x + layer(F.silu(x))
        x = F.silu(x).movedim(1, -1)
        return self.first_out(x[:, :1]), self.rest_out(x[:, 1:])


class BlockAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]  # as diffusers' own do
    """Videos [B, 3, T, H, W] in [-1, 1] to latents [B, z_dim, F, H/8, W/8] and back."""

    @register_to_config
    def __init__(
        self,
        z_dim: int = 16,
        decoder_width: int = 0,
        decoder_depth: int = 2,
        scale_factor_temporal: int = STRIDE,
        scale_factor_spatial: int = BLOCK,
        latents_mean: tuple[float, ...] = (0.0,),
        latents_std: tuple[float, ...] = (1.0,),
    ):
        """decoder_width and decoder_depth: channels and layers of the NeighbourDecoder; width 0
        leaves the transform alone.
        latents_mean and latents_std are what a video model normalises latents with, one for all
        channels: the latents already have mean 0 and deviation about 1."""
        super().__init__()
        self.z_dim = z_dim
        for name, size in (("first", FIRST_SIZE), ("rest", REST_SIZE)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_basis", torch.zeros(size, z_dim))
            self.register_buffer(f"{name}_scale", torch.ones(z_dim))
        self.neighbours = (
            NeighbourDecoder(z_dim, decoder_width, decoder_depth) if decoder_width else None
        )

    @torch.no_grad()
    def fit(self, videos: list[Tensor]) -> None:
        """Set the transform to the principal components of videos [B, 3, T, H, W] in [-1, 1].

        Component k, of deviation d_k, is divided by sqrt(d_k m), where m is the mean deviation of
        the SCALED_TO strongest components. The first frame's components are then turned and scaled
        to agree with the others' (see `_align_first`).
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
        self._align_first()

    @torch.no_grad()
    def _align_first(self) -> None:
        """Turn the first frame's basis, within its span, so that a channel means the same there as
        in four frames that stand still (orthogonal Procrustes)."""
        parts = self.rest_basis.unflatten(0, (3, STRIDE, BLOCK**2))
        still = parts.sum(1).flatten(0, 1) / STRIDE**0.5  # unit columns, where nothing moves
        left, _, right = torch.linalg.svd((self.first_basis.T @ still).double())
        self.first_basis.copy_(self.first_basis.double() @ (left @ right))
        self.first_scale.copy_(self.rest_scale / STRIDE**0.5)

    @staticmethod
    def _sizes(name: str) -> dict[str, int]:
        sizes = {"i": BLOCK, "j": BLOCK}
        return sizes if name == "first" else sizes | {"k": STRIDE}

    def _analyse(self, name: str, pattern: str, video: Tensor) -> Tensor:
        mean, basis, scale = (getattr(self, f"{name}_{x}") for x in ("mean", "basis", "scale"))
        blocks = rearrange(video, pattern, **self._sizes(name))
        return ((blocks - mean) @ (basis / scale)).movedim(-1, 1)

    def _synthesise(self, name: str, latents: Tensor) -> Tensor:
        mean, basis, scale = (getattr(self, f"{name}_{x}") for x in ("mean", "basis", "scale"))
        return latents.movedim(1, -1) @ (basis * scale).T + mean

    def _to_video(self, name: str, pattern: str, blocks: Tensor) -> Tensor:
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

    def unclamped(self, latents: Tensor) -> Tensor:
        """Decoded videos [B, 3, 4 (F - 1) + 1, 8h, 8w], which may leave [-1, 1]."""
        first = self._synthesise("first", latents[:, :, :1])
        rest = self._synthesise("rest", latents[:, :, 1:])
        if self.neighbours is not None:
            more = self.neighbours(latents)
            first, rest = first + more[0], rest + more[1]
        parts = [self._to_video("first", FIRST, first), self._to_video("rest", REST, rest)]
        videos = torch.cat(parts, 2)
        if self.neighbours is not None:
            for dim, start, step in ((2, 1, STRIDE), (3, BLOCK, BLOCK), (4, BLOCK, BLOCK)):
                videos = smooth_edges(videos, dim, range(start, videos.shape[dim], step))
        return videos

    def decode(self, latents: Tensor, return_dict: bool = True) -> SimpleNamespace | tuple[Tensor]:
        """`.sample`: videos [B, 3, 4 (F - 1) + 1, 8h, 8w], clamped to [-1, 1]."""
        videos = self.unclamped(latents).clamp(-1, 1)
        return SimpleNamespace(sample=videos) if return_dict else (videos,)


def save_autoencoder(vae: BlockAutoencoder, path: Path) -> None:
    """Write one safetensors file: float16 weights, the config as JSON in the metadata."""
    config = {k: v for k, v in dict(vae.config).items() if not k.startswith("_")}
    noted = {"config": json.dumps(config), "fourreal": json.dumps({"kind": "block"})}
    write_weights(path, vae.state_dict(), noted)


def load_autoencoder(path: Path, dtype: torch.dtype | None = torch.float32) -> BlockAutoencoder:
    """The autoencoder of save_autoencoder's file; dtype None keeps float16.

    Raises ValueError, naming what is wrong, when the file is another, or damaged.
    """
    tensors, metadata = read_safetensors(path)
    if "first_basis" not in tensors or "config" not in metadata:
        raise ValueError(
            f"{path} is not an embedded autoencoder, whose file holds its transform (first_basis) "
            "and its `config`; make one with `fourreal train autoencoder`."
        )
    with init_empty_weights():
        vae = BlockAutoencoder.from_config(json.loads(metadata["config"]))
    assign_weights(vae, tensors, path, dtype)
    return vae
