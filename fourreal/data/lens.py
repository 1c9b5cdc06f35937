"""Lens distortion, undone: photos as a pinhole camera would have taken them.

The models are OpenCV's (calib3d, "Camera Calibration and 3D Reconstruction" and "Fisheye camera
model"), which COLMAP and nerfstudio have taken over. A point at (x, y) = (X / Z, Y / Z) appears at
f * distorted(x, y) + c.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fourreal.cameras import colors_at, pixel_grid

LensKind = Literal["perspective", "fisheye"]
ZOOM_STEP, MOST_ZOOM = 1.01, 3.0  # of the focal length, until the whole result was seen
PROBE = 33  # points along an edge at which a mapping is looked at
OUTSIDE = 0.5  # pixels beyond the edge that count as seen: half of the outermost ones


@dataclass(frozen=True)
class Lens:
    """A distortion: perspective (k1, k2, p1, p2, k3, k4, k5, k6) or fisheye (k1, k2, k3, k4).

    A fisheye lens bends lines even when all its coefficients are 0 (equidistant projection).
    """

    kind: LensKind
    coefficients: tuple[float, ...]

    @property
    def bends(self) -> bool:
        return self.kind == "fisheye" or any(self.coefficients)

    def distorted(self, points: Tensor) -> Tensor:
        """Where rays [..., 2] (X / Z, Y / Z) appear, in the same units [..., 2]."""
        x, y = points.unbind(-1)
        square = x * x + y * y
        if self.kind == "fisheye":
            radius = square.sqrt().clamp_min(1e-12)
            angle = radius.atan()
            k1, k2, k3, k4 = self.coefficients
            power = angle * angle
            bent = angle * (1 + power * (k1 + power * (k2 + power * (k3 + power * k4))))
            return points * (bent / radius)[..., None]
        k1, k2, p1, p2, k3, k4, k5, k6 = self.coefficients
        radial = 1 + square * (k1 + square * (k2 + square * k3))
        radial = radial / (1 + square * (k4 + square * (k5 + square * k6)))
        return torch.stack(
            [
                x * radial + 2 * p1 * x * y + p2 * (square + 2 * x * x),
                y * radial + p1 * (square + 2 * y * y) + 2 * p2 * x * y,
            ],
            -1,
        )


def source_pixels(lens: Lens, bent: Tensor, straight: Tensor, pixels: Tensor) -> Tensor:
    """Where pixels [..., 2] of a pinhole image, intrinsics `straight` [3, 3], are in the image that
    the lens bent, intrinsics `bent` [3, 3]."""
    rays = (pixels - straight[:2, 2]) / straight[[0, 1], [0, 1]]
    return lens.distorted(rays) * bent[[0, 1], [0, 1]] + bent[:2, 2]


def straight_intrinsics(lens: Lens, bent: Tensor, height: int, width: int) -> Tensor:
    """Intrinsics [3, 3] of a pinhole image of height x width of which every pixel was seen.

    They are those of the bent image, `bent`, with a focal length that is larger where the lens saw
    less than it. Raises ValueError, as part of a sentence, when no zoom up to MOST_ZOOM is enough.
    """
    y = torch.linspace(0.5, height - 0.5, PROBE, dtype=bent.dtype)
    x = torch.linspace(0.5, width - 0.5, PROBE, dtype=bent.dtype)
    pixels = torch.stack([x.expand(PROBE, -1), y[:, None].expand(-1, PROBE)], -1)
    room, zoom = bent.new_tensor([width, height]) + OUTSIDE, 1.0
    while zoom <= MOST_ZOOM:
        straight = bent * bent.new_tensor([[zoom, 1, 1], [1, zoom, 1], [1, 1, 1]])
        source = source_pixels(lens, bent, straight, pixels)
        seen = (source >= -OUTSIDE).all() & (source <= room).all()
        # Beyond the radius where a polynomial turns back it shows the picture again, mirrored.
        down, right = source.diff(dim=0)[:, :-1], source.diff(dim=1)[:-1]
        if seen and (right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0] > 0).all():
            return straight
        zoom *= ZOOM_STEP
    raise ValueError(f"its {lens.kind} lens {lens.coefficients} folds the picture")


@dataclass(frozen=True)
class Straightening:
    """How a photo that is upright becomes a pinhole image.

    turns: quarter turns clockwise that made the stored pixels upright. bent and straight:
    intrinsics [3, 3] of the stored pixels before and after.
    """

    lens: Lens
    turns: int
    bent: Tensor
    straight: Tensor

    def apply(self, image: Tensor) -> Tensor:
        """The image [C, H, W] without distortion, interpolated linearly."""
        stored = torch.rot90(image, self.turns, (1, 2))
        height, width = stored.shape[-2:]
        grid = pixel_grid(height, width, dtype=self.bent.dtype)
        pixels = source_pixels(self.lens, self.bent, self.straight, grid)
        where = 2 * pixels / pixels.new_tensor([width, height]) - 1
        flat = colors_at(stored[None], where[None].to(stored.dtype))
        return torch.rot90(flat[0], -self.turns, (1, 2))
