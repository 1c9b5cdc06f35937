"""Track head of VGGT: where points of one frame are in all others (arXiv 2503.11651, section 3.3).

A DPT like the dense heads makes a feature map per frame. The tracks start at rest; in each of four
iterations their features are compared with the maps around where they are now (correlation on a
pyramid), and a transformer moves them. It follows VGGSfM's tracker (arXiv 2312.04563) and
CoTracker's (arXiv 2307.07635). Attribute names are those of VGGT-1B's `track_head.*`.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourreal.reconstruction.config import VGGTConfig
from fourreal.reconstruction.dense_heads import DenseHead, resize
from fourreal.reconstruction.layers import Mlp, init_transformer
from fourreal.reconstruction.track_transformer import TrackTransformer

STRIDE = 2  # image pixels per pixel of the feature maps
NUM_ITERATIONS = 4
FLOW_SCALE = 518.0  # pixels of the feature map that count as a movement of 1
WINDOWS_PER_PASS = 8192  # in memory together: 340 MB at VGGT-1B's sizes


class TrackFeatures(DenseHead):
    """Feature maps [B, S, features, H / 2, W / 2], without embedded positions."""

    positions = False

    def __init__(self, config: VGGTConfig):
        features = config.track_features
        super().__init__(replace(config, dpt_features=features), channels=features)
        self.scratch.output_conv1 = nn.Conv2d(features, features, 3, padding=1)
        del self.scratch.output_conv2

    def _decode(self, levels: list[Tensor], images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        x = self.scratch.output_conv1(self._fuse(levels, height, width))
        return resize(x, (height // STRIDE, width // STRIDE))


def sample(maps: Tensor, points: Tensor, padding: str) -> Tensor:
    """Values [B, C, N, M] of maps [B, C, H, W] at points [B, N, M, 2], linear in between.

    Points are (x, y) in pixels; the first pixel's centre is (0, 0). padding: "zeros" or "border".
    """
    height, width = maps.shape[-2:]
    size = points.new_tensor([max(width - 1, 1), max(height - 1, 1)])
    return F.grid_sample(maps, 2 * points / size - 1, padding_mode=padding, align_corners=True)


def movement_features(flow: Tensor, channels: int) -> Tensor:
    """Sine embedding [..., 2 * channels] of movements [..., 2]: sines and cosines of x in turn,
    then of y."""
    frequencies = torch.arange(0, channels, 2, device=flow.device) * (1000.0 / channels)
    angles = flow[..., None] * frequencies  # [..., 2, channels / 2]
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)


def place_features(points: Tensor, height: int, width: int, channels: int) -> Tensor:
    """Sine embedding [B, N, channels] of points [B, N, 2] in a map of height x width pixels: x in
    the first half, y in the second, each as sines then cosines. Between whole pixels it is linear,
    and beyond the border that of the border, as if it were read from a map."""
    count = channels // 4
    steps = torch.arange(count, dtype=torch.float64, device=points.device) / count
    frequencies = 10000.0**-steps
    points = points.clamp_min(0).minimum(points.new_tensor([width - 1, height - 1]))
    before = points.floor()
    share = (points - before)[..., None]

    def embedded(pixels: Tensor) -> Tensor:
        angles = pixels[..., None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1).to(points.dtype)

    return (embedded(before) * (1 - share) + embedded(before + 1) * share).flatten(-2)


class CorrelationPyramid:
    """Feature maps [B, S, C, H, W] at several resolutions, to compare tracks with."""

    def __init__(self, maps: Tensor, levels: int, radius: int):
        self.levels = [maps.flatten(0, 1)]
        for _ in range(levels - 1):
            self.levels.append(F.avg_pool2d(self.levels[-1], 2, stride=2))
        side = torch.arange(-radius, radius + 1, device=maps.device, dtype=maps.dtype)
        # x is the slower of the two, as the weights expect.
        self.window = torch.stack(torch.meshgrid(side, side, indexing="ij"), dim=-1).flatten(0, 1)

    def compare(self, features: Tensor, positions: Tensor) -> Tensor:
        """Scalar products [B, S, N, levels * window] of features [B, S, N, C] with the maps around
        positions [B, S, N, 2] (pixels of the finest map), over the root of C."""
        batch = len(features)
        features, positions = features.flatten(0, 1), positions.flatten(0, 1)
        result = []
        step = max(1, WINDOWS_PER_PASS // features.shape[1])
        for i in range(0, len(features), step):
            part = slice(i, i + step)
            values = []
            for level, maps in enumerate(self.levels):
                around = positions[part, :, None] / 2**level + self.window
                seen = sample(maps[part], around, "zeros")  # [S, C, N, window]
                values.append(torch.einsum("snc,scnw->snw", features[part], seen))
            result.append(torch.cat(values, dim=-1) / features.shape[-1] ** 0.5)
        return torch.cat(result).unflatten(0, (batch, -1))


class Tracker(nn.Module):
    """Moves tracks over feature maps, and says how visible and how certain they are."""

    def __init__(self, config: VGGTConfig):
        super().__init__()
        self.config = config
        features, hidden = config.track_features, config.track_hidden
        self.token_dim = 3 * features + 4  # movement, correlation, feature; movement once more
        window = (2 * config.track_radius + 1) ** 2
        self.corr_mlp = Mlp(config.track_levels * window, hidden, features)
        self.query_ref_token = nn.Parameter(torch.randn(1, 2, self.token_dim))
        self.updateformer = TrackTransformer(self.token_dim, hidden, features + 2)
        self.fmap_norm = nn.LayerNorm(features)
        self.ffeat_norm = nn.GroupNorm(1, features)
        self.ffeat_updater = nn.Sequential(nn.Linear(features, features), nn.GELU())
        self.vis_predictor = nn.Sequential(nn.Linear(features, 1))
        self.conf_predictor = nn.Sequential(nn.Linear(features, 1))

    def forward(
        self, points: Tensor, maps: Tensor, iterations: int = NUM_ITERATIONS
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """See TrackHead; points [B, N, 2] in image pixels, maps [B, S, C, H / 2, W / 2]."""
        (positions, features), pyramid, fixed = self.start(points, maps)
        estimates = []
        for _ in range(iterations):
            positions, features = self.step(pyramid, fixed, positions.detach(), features)
            estimates.append(positions * STRIDE)
        return estimates, *self.judge(features)

    def start(
        self, points: Tensor, maps: Tensor
    ) -> tuple[tuple[Tensor, Tensor], CorrelationPyramid, Tensor]:
        """Positions [B, S, N, 2] (pixels of the maps) and features [B, S, N, C] of tracks at rest;
        what they are compared with; and what their tokens keep through all iterations."""
        maps = self.fmap_norm(maps.movedim(2, -1)).movedim(-1, 2)
        points, num_frames = points / STRIDE, maps.shape[1]
        own = sample(maps[:, 0], points[:, :, None], "border")[..., 0].transpose(1, 2)
        positions, features = (x[:, None].expand(-1, num_frames, -1, -1) for x in (points, own))
        pyramid = CorrelationPyramid(maps, self.config.track_levels, self.config.track_radius)
        return (positions, features), pyramid, self._fixed_tokens(points, maps)

    def step(
        self, pyramid: CorrelationPyramid, fixed: Tensor, positions: Tensor, features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One iteration: new positions [B, S, N, 2] (pixels of the maps) and features [B, S, N, C];
        the points asked for stay where they are."""
        tokens = self._tokens(pyramid, positions, features) + fixed
        delta = self.updateformer(tokens.transpose(1, 2)).transpose(1, 2)
        moved, change = delta.split([2, self.config.track_features], dim=-1)
        change = self.ffeat_norm(change.flatten(0, 2)).view_as(change)
        positions = torch.cat([positions[:, :1], (positions + moved)[:, 1:]], dim=1)
        return positions, features + self.ffeat_updater(change)

    def judge(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Visibility and confidence [B, S, N] in 0..1 of tracks with features [B, S, N, C]."""
        visibility, confidence = (
            predictor(features).sigmoid()[..., 0]
            for predictor in (self.vis_predictor, self.conf_predictor)
        )
        return visibility, confidence

    def _fixed_tokens(self, points: Tensor, maps: Tensor) -> Tensor:
        """What a token keeps through all iterations [B, S, N, dim]: where its point was asked for,
        and whether it belongs to that frame or to another."""
        height, width = maps.shape[-2:]
        place = place_features(points, height, width, self.token_dim)[:, None]
        first, other = self.query_ref_token.unsqueeze(2).split(1, dim=1)
        frames = torch.cat([first, other.expand(-1, maps.shape[1] - 1, -1, -1)], dim=1)
        return place + frames

    def _tokens(self, pyramid: CorrelationPyramid, positions: Tensor, features: Tensor) -> Tensor:
        """What the transformer reads of each track [B, S, N, dim]."""
        correlation = self.corr_mlp(pyramid.compare(features, positions))
        flow = positions - positions[:, :1]
        scaled = flow / FLOW_SCALE
        movement = movement_features(flow, self.config.track_features // 2)
        return torch.cat([movement, scaled, scaled, correlation, features], dim=-1)


class TrackHead(nn.Module):
    """Feature maps and tracker, under the names of VGGT-1B's file."""

    def __init__(self, config: VGGTConfig):
        super().__init__()
        self.feature_extractor = TrackFeatures(config)
        self.tracker = Tracker(config)

    @property
    def smallest_side(self) -> int:
        """Pixels of an image's shorter side whose map still is a pixel at the last level."""
        return STRIDE * 2 ** (self.tracker.config.track_levels - 1)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Fresh weights; the convolutions keep those that torch gave them."""
        init_transformer(self)

    def forward(
        self,
        tokens: list[Tensor],
        images: Tensor,
        points: Tensor,
        *,
        chunk: int | None = None,
        iterations: int = NUM_ITERATIONS,
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Follow points of the first frame through a sequence.

        tokens: of the aggregator's intermediate layers, each [B, S, P, C], as the dense heads get
        them; images [B, S, 3, H, W]; points [B, N, 2] as (x, y) in pixels of the images, the first
        pixel's centre being (0, 0), as VGGT counts. `chunk` frames go through the convolutions at
        once. Returns the positions [B, S, N, 2] after each iteration, in the same pixels, and the
        visibility and confidence [B, S, N] in 0..1. Runs in float32 whatever autocast says.
        """
        maps = self.feature_extractor.raw_maps(tokens, images, chunk)
        with torch.autocast(images.device.type, enabled=False):
            return self.tracker(points.float(), maps, iterations)
