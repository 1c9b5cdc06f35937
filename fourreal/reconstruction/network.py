"""The reconstruction network: VGGT with temporal layers and a Gaussian head.

Paper, section 4 and figure 5: images to tokens (aggregator); camera tokens of every time replaced
by those of the first; cameras, depth and Gaussian parameters by heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fourreal.reconstruction.aggregator import Aggregator
from fourreal.reconstruction.camera_head import CameraHead
from fourreal.reconstruction.config import VGGTConfig
from fourreal.reconstruction.dense_heads import DepthHead, PointHead
from fourreal.reconstruction.gaussian_head import GaussianHead


@dataclass
class Prediction:
    """What the network says about images [B, S, 3, H, W]; B = scenes x times.

    pose_encodings: per iteration [B, S, 9]; depth, depth_confidence [B, S, H, W]; raw_gaussians
    [B, S, channels, H, W] or None; points [B, S, H, W, 3], points_confidence [B, S, H, W] or None.
    """

    pose_encodings: list[Tensor]
    depth: Tensor
    depth_confidence: Tensor
    raw_gaussians: Tensor | None = None
    points: Tensor | None = None
    points_confidence: Tensor | None = None


def replace_camera_tokens(tokens: list[Tensor], num_times: int) -> list[Tensor]:
    """Tokens [B * T, S, P, C] whose camera tokens are those of each scene's first time."""
    replaced = []
    for level in tokens:
        by_time = level.unflatten(0, (-1, num_times))  # [B, T, S, P, C]
        first = by_time[:, :1, :, :1].expand(-1, num_times, -1, -1, -1)
        replaced.append(torch.cat([first, by_time[:, :, :, 1:]], dim=3).flatten(0, 1))
    return replaced


class VGGT(nn.Module):
    """All parts under the names of VGGT-1B's checkpoint, which therefore loads as it is."""

    def __init__(self, config: VGGTConfig):
        super().__init__()
        self.config = config
        self.aggregator = Aggregator(config)
        self.camera_head = CameraHead(config)
        self.depth_head = DepthHead(config)
        if config.point_head:
            self.point_head = PointHead(config)
        if config.gaussian_head != "none":
            self.gaussian_head = GaussianHead(config)
        if not self.aggregator.camera_token.is_meta:
            for part in self.children():
                part.init_weights()

    def forward(
        self,
        images: Tensor,
        num_times: int = 1,
        *,
        temporal: bool = True,
        camera_replacement: bool = True,
        gaussians: bool = True,
        points: bool = True,
        chunk: int | None = None,
    ) -> Prediction:
        """Predict everything for images [B, S, 3, H, W] in [0, 1], B = scenes x num_times.

        temporal=False leaves the temporal layers out, camera_replacement=False gives each time
        its own cameras (both for ablations); gaussians=False and points=False leave out those
        heads; `chunk` frames go through a dense head at once. Raises ValueError when the batch does
        not hold whole scenes.
        """
        if num_times < 1 or len(images) % num_times:
            raise ValueError(
                f"the batch holds {len(images)} times of {images.shape[1]} views, which are not "
                f"whole scenes of {num_times} times."
            )
        tokens = self.aggregator(images, num_times, temporal=temporal)
        if camera_replacement and num_times > 1:
            # The head sees only the tokens of one time, so replacing them everywhere is the
            # same as reading the first time's and repeating the answer.
            first = tokens[-1].unflatten(0, (-1, num_times))[:, 0]
            poses = [p.repeat_interleave(num_times, 0) for p in self.camera_head([first])]
        else:
            poses = self.camera_head(tokens)
        prediction = Prediction(poses, *self.depth_head(tokens, images, chunk))
        if gaussians and self.config.gaussian_head != "none":
            prediction.raw_gaussians = self.gaussian_head(tokens, images, chunk)
        if points and self.config.point_head:
            prediction.points, prediction.points_confidence = self.point_head(tokens, images, chunk)
        return prediction
