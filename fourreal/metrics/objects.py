"""The objects of procedural scenes, found in a grid by the colours that captions name.

A colour is told by its hue, which light and shadow leave as it is. White has none: it is told by
being neutral, and where the set itself is grey, by brightness, which finds its lit side only.
"""

import torch
from torch import Tensor

from fourreal.scenes.describe import COLORS

SATURATED, BRIGHT = 0.55, 0.18  # least saturation and value of a pixel of a named colour
HUE_WITHIN = 14.0  # degrees
WHITE = "white"
WHITEST, NEUTRAL, SHADED = 0.74, 0.1, 0.4  # of white: least lit value, most saturation, least value
GREY_SET = 0.05  # share of border pixels that are neutral at all times: the set is grey as well
LEAST_AREA = 0.004  # of the frame


def hue(colors: Tensor, dim: int = -1) -> tuple[Tensor, Tensor, Tensor]:
    """Hue in degrees, saturation and value of colours with their channels in `dim`."""
    most, least = colors.amax(dim), colors.amin(dim)
    red, green, blue = colors.unbind(dim)
    angle = torch.atan2(3**0.5 * (green - blue), 2 * red - green - blue).rad2deg()
    return angle % 360, (most - least) / most.clamp_min(1e-6), most


def color_mask(frames: Tensor, name: str) -> Tensor:
    """The pixels [V, T, H, W] of a grid [V, T, 3, H, W] in [0, 1] that have a colour of COLORS."""
    angle, saturation, value = hue(frames, -3)
    if name == WHITE:
        neutral = (saturation < NEUTRAL) & (value > SHADED)
        still = neutral.all(1)
        sides = still[..., 0], still[..., -1], still[..., 0, :], still[..., -1, :]
        grey_set = torch.cat(sides, -1).float().mean() > GREY_SET
        return neutral & (value > WHITEST) if grey_set else neutral
    wanted = hue(torch.tensor(COLORS[name]))[0].to(frames)
    distance = ((angle - wanted + 180) % 360 - 180).abs()
    return (distance < HUE_WITHIN) & (saturation > SATURATED) & (value > BRIGHT)


def shown(mask: Tensor) -> Tensor:
    """Where an object is seen: the cells [V, T] of masks [V, T, H, W] with enough of its pixels."""
    return mask.float().mean((-1, -2)) > LEAST_AREA
