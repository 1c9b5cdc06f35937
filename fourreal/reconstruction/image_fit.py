"""Fitting images of any size to the network, and its cameras and maps back to the images."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def check_frames(frames: Tensor) -> None:
    """Raise ValueError unless frames is a float tensor [V, T, 3, H, W] in [0, 1]."""
    if frames.ndim != 5 or 0 in frames.shape:
        raise ValueError(
            f"frames have the shape {tuple(frames.shape)}, but [V, T, 3, H, W] is needed: V views "
            "of T times."
        )
    channels = frames.shape[2]
    if channels != 3:
        known = {1: "repeat the grey channel three times", 4: "blend or drop the alpha channel"}
        advice = known.get(channels, "check the order of the dimensions")
        raise ValueError(
            f"frames have {channels} channels, but 3 (red, green, blue) are needed at the third "
            f"place of [V, T, 3, H, W]; {advice}."
        )
    if not frames.is_floating_point():
        raise ValueError(
            f"frames are {frames.dtype}, but floating point values in [0, 1] are needed; divide by "
            "255."
        )
    if not torch.isfinite(frames).all():
        raise ValueError("frames contain NaN or infinite values; every value must be in [0, 1].")
    low, high = frames.min().item(), frames.max().item()
    if low < -0.01 or high > 1.01:
        raise ValueError(
            f"frames have values from {low:.3g} to {high:.3g}, but must be in [0, 1]; scale them."
        )


@dataclass(frozen=True)
class ImageFit:
    """A resize by one factor and a centre crop to multiples of the patch.

    The image of input_height x input_width pixels is resized to resized_height x resized_width
    and cropped to height x width, `top` and `left` pixels away from its corner.
    """

    input_height: int
    input_width: int
    resized_height: int
    resized_width: int
    height: int
    width: int

    @staticmethod
    def to(height: int, width: int, resolution: int, patch: int) -> "ImageFit":
        """The fit whose longer side is `resolution`; the crop loses at most half a patch."""
        longer = max(height, width)
        sides = [
            max(1, round(side * resolution / longer / patch)) * patch for side in (height, width)
        ]
        scale = max(sides[0] / height, sides[1] / width)
        resized = [max(fit, round(side * scale)) for fit, side in zip(sides, (height, width))]
        # An even overhang keeps the optical centre of the input in the centre of the crop.
        resized = [size + (size - fit) % 2 for fit, size in zip(sides, resized)]
        return ImageFit(height, width, *resized, *sides)

    def enlarged(self, factor: int) -> "ImageFit":
        """The fit to `factor` times the height and width."""
        sides = self.resized_height, self.resized_width, self.height, self.width
        return ImageFit(self.input_height, self.input_width, *(factor * side for side in sides))

    @property
    def top(self) -> int:
        return (self.resized_height - self.height) // 2

    @property
    def left(self) -> int:
        return (self.resized_width - self.width) // 2

    def grid(self, frames: Tensor, device: torch.device) -> "FittedGrid":
        """Frames [V, T, 3, H, W] of the input's size as images [T, V, 3, h, w] on a device."""
        return FittedGrid(frames, self, device)

    def images(self, images: Tensor) -> Tensor:
        """Images [..., 3, H, W] of the input's size at the network's size."""
        leading = images.shape[:-3]
        x = images.reshape(-1, *images.shape[-3:]).float()
        if (self.resized_height, self.resized_width) != (self.input_height, self.input_width):
            size = (self.resized_height, self.resized_width)
            x = F.interpolate(x, size=size, mode="bicubic", antialias=True)
        x = x[..., self.top : self.top + self.height, self.left : self.left + self.width]
        return x.clamp(0, 1).reshape(*leading, 3, self.height, self.width)

    def masks(self, masks: Tensor) -> Tensor:
        """Masks [..., H, W] of the input's size, boolean [..., h, w] at the network's."""
        colors = masks.unsqueeze(-3).expand(*masks.shape[:-2], 3, -1, -1)
        return self.images(colors)[..., 0, :, :] > 0.5

    def _affine(self, reference: Tensor) -> Tensor:
        """[3, 3] from the input's pixels to the network's."""
        x = self.resized_width / self.input_width
        y = self.resized_height / self.input_height
        return reference.new_tensor([[x, 0, -self.left], [0, y, -self.top], [0, 0, 1]])

    def intrinsics(self, intrinsics: Tensor) -> Tensor:
        """Intrinsics [..., 3, 3] of the input's pixels in the network's."""
        return self._affine(intrinsics) @ intrinsics

    def intrinsics_back(self, intrinsics: Tensor) -> Tensor:
        """Intrinsics [..., 3, 3] of the network's pixels in the input's."""
        return torch.linalg.inv(self._affine(intrinsics)) @ intrinsics

    def points(self, points: Tensor) -> Tensor:
        """Points [..., 2] as (x, y) in the input's pixels in the network's; in both the centre of
        the first pixel is at (0.5, 0.5)."""
        affine = self._affine(points)
        return points * affine.diagonal()[:2] + affine[:2, 2]

    def points_back(self, points: Tensor) -> Tensor:
        """Points [..., 2] as (x, y) in the network's pixels in the input's, see `points`."""
        affine = self._affine(points)
        return (points - affine[:2, 2]) / affine.diagonal()[:2]

    def maps_back(self, maps: Tensor, outside: float | None = None) -> Tensor:
        """Maps [N, C, h, w] at the input's size [N, C, H, W].

        What was cropped gets the value `outside`, or that of the nearest pixel.
        """
        bottom = self.resized_height - self.height - self.top
        right = self.resized_width - self.width - self.left
        pad = (self.left, right, self.top, bottom)
        if any(pad) and outside is None:
            maps = F.pad(maps, pad, mode="replicate")
        elif any(pad):
            maps = F.pad(maps, pad, value=outside)
        if (self.resized_height, self.resized_width) == (self.input_height, self.input_width):
            return maps
        size = (self.input_height, self.input_width)
        return F.interpolate(maps, size=size, mode="bilinear", antialias=True)


@dataclass(frozen=True)
class FittedGrid:
    """A grid of frames [V, T, 3, H, W] as the network sees it, [T, V, 3, h, w] on a device.

    It is indexed like a tensor, and fits what is asked for anew each time: larger images of a long
    grid would take more memory than its maps of depth.
    """

    frames: Tensor
    fit: ImageFit
    device: torch.device

    def __len__(self) -> int:
        return self.frames.shape[1]

    def __getitem__(self, index: int | slice | tuple[slice, int]) -> Tensor:
        return self.fit.images(self.frames.transpose(0, 1)[index].to(self.device))


Images = Tensor | FittedGrid
