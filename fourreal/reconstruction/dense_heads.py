"""Dense heads of VGGT: a DPT decoder (arXiv 2103.13413) on four levels of tokens.

The depth and point heads and both Gaussian heads share this decoder. The layout follows the public
checkpoints; features also get a sine embedding of their image position.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourreal.caching import cached_tables
from fourreal.devices import give_back_memory
from fourreal.reconstruction.config import VGGTConfig

Store = torch.device | str | None  # where maps are moved to as they come

POSITION_STRENGTH = 0.1
POSITION_BASE = 100.0


@cached_tables(64)
def position_features(
    height: int,
    width: int,
    channels: int,
    aspect: float,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Sine embedding [channels, height, width] of image positions.

    Positions run over a rectangle of the image's aspect ratio whose diagonal has length 2; the
    first half of the channels encodes x, the second y, each as sines then cosines.
    """
    diagonal = (aspect**2 + 1) ** 0.5
    spans = (aspect / diagonal * (width - 1) / width, 1 / diagonal * (height - 1) / height)
    frequencies = torch.arange(channels // 4, dtype=torch.float64) / (channels / 4)
    frequencies = POSITION_BASE**-frequencies
    axes = []
    for span, count in zip(spans, (width, height)):
        angles = torch.linspace(-span, span, count, dtype=torch.float64)[:, None] * frequencies
        axes.append(torch.cat([angles.sin(), angles.cos()], dim=-1).T)  # [channels / 2, count]
    x = axes[0][:, None, :].expand(-1, height, -1)
    y = axes[1][:, :, None].expand(-1, -1, width)
    return POSITION_STRENGTH * torch.cat([x, y]).to(device=device, dtype=dtype)


def add_positions(x: Tensor, aspect: float) -> Tensor:
    """Features [N, C, h, w] plus the embedding of their image positions."""
    channels, height, width = x.shape[1:]
    return x + position_features(height, width, channels, aspect, x.device, x.dtype)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, corners aligned, as the public weights were trained."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=list(size), mode="bilinear", align_corners=True)


class ResidualUnit(nn.Module):
    """Two convolutions; the skip carries the rectified input, as in the public weights."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        return x + self.conv2(self.conv1(x).relu_())


class Fusion(nn.Module):
    """Adds a finer level to the coarser ones so far, and enlarges."""

    def __init__(self, channels: int, has_skip: bool):
        super().__init__()
        if has_skip:
            self.resConfUnit1 = ResidualUnit(channels)
        self.resConfUnit2 = ResidualUnit(channels)
        self.out_conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, skip: Tensor | None, size: Sequence[int]) -> Tensor:
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        # A 1x1 convolution commutes with bilinear resizing, and is cheaper before it.
        return resize(self.out_conv(self.resConfUnit2(x)), size)


class Scratch(nn.Module):
    """The decoder's own convolutions, under the name the checkpoints use."""

    refinenet1: Fusion
    refinenet2: Fusion
    refinenet3: Fusion
    refinenet4: Fusion

    def __init__(self, config: VGGTConfig, hidden: int, channels: int):
        super().__init__()
        features = config.dpt_features
        for level, width in enumerate(config.dpt_out_channels, start=1):
            conv = nn.Conv2d(width, features, 3, padding=1, bias=False)
            setattr(self, f"layer{level}_rn", conv)
            setattr(self, f"refinenet{level}", Fusion(features, has_skip=level < 4))
        self.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, hidden, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 1),
        )


class DenseHead(nn.Module):
    """DPT from aggregator tokens to `channels` maps at the image's resolution.

    With `image_shortcut`, a convolution of the raw image is added before the last convolutions.
    """

    positions = True  # whether features get an embedding of where in the image they are

    def __init__(
        self, config: VGGTConfig, channels: int, hidden: int = 32, image_shortcut: bool = False
    ):
        super().__init__()
        self.patch_size = config.patch_size
        self.num_special_tokens = 1 + config.num_register_tokens
        dim, widths = 2 * config.embed_dim, config.dpt_out_channels
        self.norm = nn.LayerNorm(dim)
        self.projects = nn.ModuleList(nn.Conv2d(dim, width, 1) for width in widths)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(widths[0], widths[0], 4, stride=4),
                nn.ConvTranspose2d(widths[1], widths[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(widths[3], widths[3], 3, stride=2, padding=1),
            ]
        )
        self.scratch = Scratch(config, hidden, channels)
        self.input_merger: nn.Module | None = None
        if image_shortcut:
            shortcut = nn.Conv2d(3, config.dpt_features // 2, 7, padding=3)
            self.input_merger = nn.Sequential(shortcut, nn.ReLU())

    @torch.no_grad()
    def init_weights(self) -> None:
        """Fresh weights that keep the size of the signal through every layer."""
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, nonlinearity="linear")
            elif isinstance(part, nn.ConvTranspose2d):
                # Stride equals kernel: each output pixel sees one tap of every input channel.
                nn.init.normal_(part.weight, std=part.in_channels**-0.5)
            if isinstance(part, nn.Conv2d | nn.ConvTranspose2d) and part.bias is not None:
                nn.init.zeros_(part.bias)
            elif isinstance(part, nn.LayerNorm):
                nn.init.ones_(part.weight)
                nn.init.zeros_(part.bias)
        for part in self.modules():
            if isinstance(part, ResidualUnit):
                # Quiet branches: the skip carries the signal at first.
                part.conv2.weight.mul_(0.1)
        nn.init.xavier_uniform_(self.scratch.get_parameter("output_conv2.2.weight"), gain=0.1)

    def raw_maps(
        self,
        tokens: list[Tensor],
        images: Tensor,
        chunk: int | None = None,
        store: Store = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Raw maps [B, S, channels, H, W] from the aggregator's tokens and images [B, S, 3, H, W].

        `chunk` frames are decoded at once (all by default), and moved to the device `store` as
        they come (the network's own by default), in the type `dtype`. Runs in float32 whatever
        autocast says: an exponential of bfloat16 depth would show bands.
        """
        batch, views = images.shape[:2]
        levels = [level.flatten(0, 1) for level in tokens]
        frames, count = images.flatten(0, 1), batch * views
        if store is not None:
            give_back_memory()
        store, chunk, maps = store or images.device, chunk or count, None
        with torch.autocast(images.device.type, enabled=False):
            for i in range(0, count, chunk):
                part = [x[i : i + chunk, self.num_special_tokens :].float() for x in levels]
                decoded = self._decode(part, frames[i : i + chunk]).to(store, dtype)
                if chunk >= count:
                    return decoded.unflatten(0, (batch, views))
                if maps is None:  # all at once: parts that are joined later would be held twice
                    maps = decoded.new_empty(count, *decoded.shape[1:])
                maps[i : i + chunk] = decoded
        assert maps is not None
        return maps.unflatten(0, (batch, views))

    def _decode(self, levels: list[Tensor], images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        x = self.scratch.output_conv1(self._fuse(levels, height, width))
        x = resize(x, (height, width))
        if self.input_merger is not None:
            pixels = images.float().contiguous(memory_format=torch.channels_last)
            x = x + self.input_merger(pixels)
        return self.scratch.output_conv2(add_positions(x, width / height))

    def _fuse(self, levels: list[Tensor], height: int, width: int) -> Tensor:
        """The four levels' tokens [N, P, C] as features [N, features, 8 rows, 8 columns]."""
        rows, columns = height // self.patch_size, width // self.patch_size
        maps = []
        for index, level in enumerate(levels):
            x = self.norm(level).transpose(1, 2).unflatten(2, (rows, columns))
            x = self.projects[index](x)
            if self.positions:
                x = add_positions(x, width / height)
            x = self.resize_layers[index](x)
            maps.append(getattr(self.scratch, f"layer{index + 1}_rn")(x))
        scratch = self.scratch
        x = scratch.refinenet4(maps[3], None, maps[2].shape[-2:])
        x = scratch.refinenet3(x, maps[2], maps[1].shape[-2:])
        x = scratch.refinenet2(x, maps[1], maps[0].shape[-2:])
        return scratch.refinenet1(x, maps[0], [2 * n for n in maps[0].shape[-2:]])


class DepthHead(DenseHead):
    """Depth along the camera's axis, and its confidence."""

    def __init__(self, config: VGGTConfig):
        super().__init__(config, channels=2)

    def forward(
        self,
        tokens: list[Tensor],
        images: Tensor,
        chunk: int | None = None,
        store: Store = None,
    ) -> tuple[Tensor, Tensor]:
        """Depth [B, S, H, W] > 0 in the network's unit, confidence [B, S, H, W] > 1.

        For the arguments see `DenseHead.raw_maps`.
        """
        depth, confidence = self.raw_maps(tokens, images, chunk, store).unbind(2)
        return depth.exp(), 1 + confidence.exp()


class PointHead(DenseHead):
    """Points in the first camera's frame, and their confidence."""

    def __init__(self, config: VGGTConfig):
        super().__init__(config, channels=4)

    def forward(
        self,
        tokens: list[Tensor],
        images: Tensor,
        chunk: int | None = None,
        store: Store = None,
    ) -> tuple[Tensor, Tensor]:
        """Points [B, S, H, W, 3], confidence [B, S, H, W] > 1; see `DenseHead.raw_maps`."""
        raw = self.raw_maps(tokens, images, chunk, store).movedim(2, -1)
        return raw[..., :3].sign() * raw[..., :3].abs().expm1(), 1 + raw[..., 3].exp()
