"""The reconstruction network: VGGT with temporal layers and a Gaussian head.

Paper, section 4 and figure 5: images to tokens (aggregator); camera tokens of every time replaced
by those of the first; cameras, depth and Gaussian parameters by heads. `VGGT.forward` is the only
forward pass to them: training and inference both call it. A track head is called by itself
(`track_points`), because it begins with points of one frame.
"""

import torch
from torch import Tensor, nn

from fourreal.reconstruction.aggregator import Aggregator
from fourreal.reconstruction.camera_head import CameraHead
from fourreal.reconstruction.config import VGGTConfig
from fourreal.reconstruction.dense_heads import DenseHead, DepthHead, PointHead
from fourreal.reconstruction.gaussian_head import GaussianHead
from fourreal.reconstruction.maps import Maps
from fourreal.reconstruction.track_head import TrackHead


def replace_camera_tokens(tokens: Tensor, first: Tensor | None = None) -> Tensor:
    """Camera token replacement (paper, section 4): every time takes the tokens of the first.

    tokens [B, T, S, C] of T times of S still cameras; first [B, S, C], the tokens of the first
    time where that is not in `tokens` (a later window), on any device. The camera head reads
    nothing else, so each view gets one camera for all times.
    """
    if first is None:
        first = tokens[:, 0]
    return first.to(tokens.device, tokens.dtype)[:, None].expand_as(tokens)


class VGGT(nn.Module):
    """All parts under the names of VGGT-1B's checkpoint, which therefore loads as it is."""

    def __init__(self, config: VGGTConfig):
        super().__init__()
        self.config = config
        self.aggregator = Aggregator(config)
        self.camera_head = CameraHead(config)
        self.depth_head = DepthHead(config)
        parts: list[Aggregator | CameraHead | DenseHead | TrackHead]
        parts = [self.aggregator, self.camera_head, self.depth_head]
        if config.point_head:
            self.point_head = PointHead(config)
            parts.append(self.point_head)
        if config.track_head:
            self.track_head = TrackHead(config)
            parts.append(self.track_head)
        if config.gaussian_head != "none":
            self.gaussian_head = GaussianHead(config)
            parts.append(self.gaussian_head)
        if not self.aggregator.camera_token.is_meta:
            for part in parts:
                part.init_weights()

    def forward(
        self,
        images: Tensor,
        num_times: int = 1,
        *,
        temporal: bool = True,
        camera_replacement: bool = True,
        first_camera_tokens: Tensor | None = None,
        gaussians: bool = True,
        gaussians_from: int = 0,
        points: bool = True,
        chunk: int | None = None,
        store: torch.device | str | None = None,
    ) -> Maps:
        """What the network says about images [B * T, S, 3, H, W] in [0, 1] of B scenes.

        Args:
            num_times: T, the times of each scene, which follow each other in the batch.
            temporal: False leaves the temporal layers out.
            camera_replacement: False gives each time the cameras of its own tokens.
            first_camera_tokens: [B, S, C], `Maps.camera_tokens` of each scene's first time where
                the images begin later.
            gaussians, points: False leaves out those heads, where the model has them.
            gaussians_from: raw_gaussians begin with this one of the batch.
            chunk: frames that go through a dense head at once; all by default.
            store: device that each chunk of a map is moved to, those of Gaussians in float16; by
                default they stay, in float32.

        Raises ValueError when the batch does not hold whole scenes.
        """
        if num_times < 1 or len(images) % num_times:
            raise ValueError(
                f"the batch holds {len(images)} times of {images.shape[1]} views, which are not "
                f"whole scenes of {num_times} times."
            )
        tokens = self.aggregator(images, num_times, temporal=temporal)

        camera_tokens = tokens[-1][:, :, 0].unflatten(0, (-1, num_times))  # [B, T, S, C]
        if camera_replacement:
            camera_tokens = replace_camera_tokens(camera_tokens, first_camera_tokens)
        camera_tokens = camera_tokens.flatten(0, 1)
        pose_iterations = self.camera_head(camera_tokens)

        decoding = (tokens, images, chunk, store)
        depth, confidence = self.depth_head(*decoding)
        home = depth.device
        scales = torch.ones(len(images), device=home)
        poses = (pose_iterations.to(home), camera_tokens.to(home))
        maps = Maps(*poses, depth, confidence, scales)
        if gaussians and self.config.gaussian_head != "none":
            wanted = [level[gaussians_from:] for level in tokens], images[gaussians_from:]
            maps.raw_gaussians = self.gaussian_head(*wanted, chunk, store)
        if points and self.config.point_head:
            maps.points, maps.points_confidence = self.point_head(*decoding)
        return maps
