"""What the network says about a grid: one record from its forward pass to the Gaussians."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.reconstruction.camera_head import cameras_to_pose_encoding

KNOWN = 2.0  # confidence of geometry that is known; the network's is above 1


@dataclass
class Maps:
    """The network's maps and cameras of N times of V views; N is every tensor's first dimension.

    Attributes:
        pose_iterations: [N, V, I, 9], one pose encoding after each iteration of the camera head.
        camera_tokens: [N, V, C], what the camera head read.
        depth: [N, V, h, w] > 0, in the network's unit of length times `scales`.
        depth_confidence: [N, V, h, w] > 1.
        scales: [N], the factor by which depth was multiplied since the network ran.
        raw_gaussians: [N, V, C, h, w], float16 where they were stored away from the network; None
            without a Gaussian head.
        points, points_confidence: [N, V, h, w, 3] and [N, V, h, w] of the point head, or None.
    """

    pose_iterations: Tensor
    camera_tokens: Tensor
    depth: Tensor
    depth_confidence: Tensor
    scales: Tensor
    raw_gaussians: Tensor | None = None
    points: Tensor | None = None
    points_confidence: Tensor | None = None

    @staticmethod
    def known(depth: Tensor, extrinsics: Tensor, intrinsics: Tensor) -> "Maps":
        """Maps of geometry that is known: depth [N, V, h, w] of still cameras [V, 3, 4] and
        [V, 3, 3], in pixels of the depth."""
        (times, views), size = depth.shape[:2], depth.shape[-2:]
        encoding = cameras_to_pose_encoding(extrinsics, intrinsics, *size)
        return Maps(
            encoding[None, :, None].expand(times, -1, -1, -1),
            depth.new_zeros(times, views, 0),
            depth,
            torch.full_like(depth, KNOWN),
            depth.new_ones(times),
        )

    def __len__(self) -> int:
        return len(self.depth)

    @property
    def pose_encodings(self) -> Tensor:
        """[N, V, 9]: the camera head's last word."""
        return self.pose_iterations[:, :, -1]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Maps":
        """A copy with function(tensor) applied to every field that is there."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        there = {name: function(value) for name, value in values.items() if value is not None}
        return Maps(**there)

    def to(self, device: torch.device | str) -> "Maps":
        """A copy on a device."""
        return self.map(lambda x: x.to(device))

    def __getitem__(self, times: slice) -> "Maps":
        return self.map(lambda x: x[times])

    @staticmethod
    def cat(parts: "Sequence[Maps]") -> "Maps":
        """All parts' times in order; what the first part lacks, all must lack."""
        values: dict[str, Any] = {}
        for field in fields(Maps):
            column = [getattr(part, field.name) for part in parts]
            values[field.name] = None if column[0] is None else torch.cat(column)
        return Maps(**values)

    def scaled(self, factors: Tensor) -> "Maps":
        """A copy whose depth is multiplied by one factor per time [N], or by one for all."""
        copy = self.map(lambda x: x)
        copy.scales = self.scales * factors
        copy.depth = self.depth * factors.reshape(-1, 1, 1, 1)
        return copy

    def enlarged(self, factor: int) -> "Maps":
        """A copy with `factor` times the height and width, raw_gaussians and points apart."""
        depth, sure = (enlarged_map(x, factor) for x in (self.depth, self.depth_confidence))
        return replace(self, depth=depth, depth_confidence=sure)


def enlarged_map(values: Tensor, factor: int) -> Tensor:
    """Maps [N, C, h, w] with `factor` times the height and width, interpolated linearly."""
    return F.interpolate(values.float(), scale_factor=factor, mode="bilinear").to(values.dtype)
