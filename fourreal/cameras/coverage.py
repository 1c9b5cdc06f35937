"""The part of the sphere around what the input cameras look at that they cover.

The scene is unobserved elsewhere, so the cameras of a path are clamped to this region unless
`beyond` is set.
"""

import logging
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.cameras.pinhole import camera_centers, extrinsics_at, quaternion_to_matrix

logger = logging.getLogger(__name__)

MARGIN = math.radians(5)  # how far beyond the outermost input camera still counts as covered
NEARER, FARTHER = 0.5, 1.5  # distances to the target, of the nearest and farthest input's


@dataclass
class Coverage:
    """The part of the sphere around target [3] that the input cameras cover.

    axes [3, 3]: right, up and toward the cameras, as rows; low, high [3]: azimuth and elevation in
    radians and distance of the outermost cameras, margins included.
    """

    target: Tensor
    axes: Tensor
    low: Tensor
    high: Tensor

    @staticmethod
    def of(extrinsics: Tensor, distance: float = 1.0) -> "Coverage":
        """Of cameras [V, 3, 4]. Where their axes meet nowhere ahead (one camera, parallel ones),
        the target is `distance` in front of the middle one."""
        centers, forward = camera_centers(extrinsics), extrinsics[:, 2, :3]
        middle = len(extrinsics) // 2
        # The nearest point to all axes: sum (1 - f f^T) (x - c) = 0.
        across = torch.eye(3).to(forward) - forward[:, :, None] * forward[:, None, :]
        matrix = across.mean(0)
        target = centers[middle] + distance * forward[middle]
        if torch.linalg.eigvalsh(matrix)[0] > 1e-4:
            meeting = torch.linalg.solve(matrix, (across @ centers[..., None]).mean(0)[:, 0])
            if (((meeting - centers) * forward).sum(-1) > 0).all():
                target = meeting
        toward = F.normalize(F.normalize(centers - target, dim=-1).mean(0), dim=0)
        up = -extrinsics[:, 1, :3].mean(0)
        up = F.normalize(up - (up @ toward) * toward, dim=0)
        axes = torch.stack([torch.linalg.cross(up, toward), up, toward])
        result = Coverage(target, axes, target, target)
        places = result.locate(centers)
        margin = torch.tensor([MARGIN, MARGIN, 0.0]).to(places)
        factors = torch.tensor([[1, 1, NEARER], [1, 1, FARTHER]]).to(places)
        result.low = (places.amin(0) - margin) * factors[0]
        result.high = (places.amax(0) + margin) * factors[1]
        return result

    def locate(self, centers: Tensor) -> Tensor:
        """Azimuth, elevation and distance [..., 3] of camera centres [..., 3]."""
        right, up, toward = ((centers - self.target) @ self.axes.T).unbind(-1)
        radius = torch.stack([right, up, toward], -1).norm(dim=-1).clamp_min(1e-8)
        elevation = (up / radius).clamp(-1, 1).asin()
        return torch.stack([torch.atan2(right, toward), elevation, radius], -1)

    def position(self, places: Tensor) -> Tensor:
        """Centres [..., 3] of places [..., 3]; undoes `locate`."""
        azimuth, elevation, radius = places.unbind(-1)
        flat = radius * elevation.cos()
        local = [flat * azimuth.sin(), radius * elevation.sin(), flat * azimuth.cos()]
        return torch.stack(local, -1) @ self.axes + self.target

    def excess(self, extrinsics: Tensor) -> Tensor:
        """How far outside cameras [K, 3, 4] are: azimuth, elevation, distance [K, 3]."""
        places = self.locate(camera_centers(extrinsics))
        return places - places.maximum(self.low).minimum(self.high)

    def bound(self, extrinsics: Tensor) -> Tensor:
        """The cameras [K, 3, 4], those outside swung about the target to the border."""
        centers = camera_centers(extrinsics)
        places = self.locate(centers)
        bounded = self.position(places.maximum(self.low).minimum(self.high))
        outside = self.excess(extrinsics).abs().amax(-1) > 1e-6
        # The shortest turn about the target from the old direction to the new one.
        old, new = (F.normalize(c - self.target, dim=-1) for c in (centers, bounded))
        half = F.normalize(old + new, dim=-1)
        turn = torch.cat(
            [(old * half).sum(-1, keepdim=True), torch.linalg.cross(old, half, dim=-1)], -1
        )
        rotation = extrinsics[..., :3] @ quaternion_to_matrix(turn).mT
        return torch.where(outside[:, None, None], extrinsics_at(bounded, rotation), extrinsics)


def keep_covered(cameras: Tensor, coverage: Coverage, beyond: bool) -> Tensor:
    """The cameras [K, 3, 4], brought back to the covered part unless `beyond`; says so."""
    excess = coverage.excess(cameras).abs()
    outside = int((excess.amax(-1) > 1e-6).sum())
    if not outside:
        return cameras
    degrees = math.degrees(float(excess[:, :2].max()))
    logger.warning(
        "%d of %d cameras of the path leave what the inputs cover, by up to %.0f degrees; %s",
        outside,
        len(cameras),
        degrees,
        "no input saw the scene from there." if beyond else "they are brought back to its border.",
    )
    return cameras if beyond else coverage.bound(cameras)
