"""The objects of procedural scenes, found in a grid by the colours that captions name.

A colour is told by its hue, which light and shadow leave as it is. White has none: it is told by
being neutral, and where the set itself is grey, by brightness, which finds its lit side only. Two
colours of the set that blend at an edge can be neutral too: thin lines are no object.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.scenes.describe import COLORS

SATURATED, BRIGHT = 0.55, 0.18  # least saturation and value of a pixel of a named colour
HUE_WITHIN = 14.0  # degrees
WHITE = "white"
WHITEST, NEUTRAL, SHADED = 0.74, 0.1, 0.4  # of white: least lit value, most saturation, least value
GREY_SET = 0.05  # share of border pixels that are neutral at all times: the set is grey as well
LEAST_AREA = 0.004  # of the frame
# Shares of the frame's height: half of the thickest line that is no object, and how near something
# else is that may hide a part of an object.
THIN, NEAR = 1 / 64, 1 / 32
TOUCHES = 0.02  # least share of an object's pixels that are near to something else


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
        if _grey_border(saturation, value):
            return (saturation < NEUTRAL) & (value > WHITEST)
        return opened((saturation < NEUTRAL) & (value > SHADED))
    wanted = hue(torch.tensor(COLORS[name]))[0].to(frames)
    distance = ((angle - wanted + 180) % 360 - 180).abs()
    return (distance < HUE_WITHIN) & (saturation > SATURATED) & (value > BRIGHT)


def grey_set(frames: Tensor) -> bool:
    """Whether a grid's set has so much grey that of what is white only the lit side is told."""
    return _grey_border(*hue(frames, -3)[1:])


def _grey_border(saturation: Tensor, value: Tensor) -> bool:
    """See grey_set; saturation and value [V, T, H, W]."""
    still = ((saturation < NEUTRAL) & (value > SHADED)).all(1)
    sides = still[..., 0], still[..., -1], still[..., 0, :], still[..., -1, :]
    return float(torch.cat(sides, -1).float().mean()) > GREY_SET


def around(mask: Tensor, share: float) -> Tensor:
    """Masks [V, T, H, W] grown by a share of their height, at least one pixel, to all sides."""
    reach = max(1, round(share * mask.shape[-2]))
    return F.max_pool2d(mask.float(), 2 * reach + 1, 1, reach) > 0


def opened(mask: Tensor) -> Tensor:
    """Masks [V, T, H, W] without lines thinner than 2 THIN."""
    return around(~around(~mask, THIN), THIN)


def shown_whole(mask: Tensor, others: Tensor) -> Tensor:
    """The cells [V, T] that show an object of masks [V, T, H, W] whole: neither the frame's border
    nor any of the `others` [V, T, H, W] touches it, which may be in front of it."""
    border = mask[..., 0].any(-1) | mask[..., -1].any(-1)
    border |= mask[..., 0, :].any(-1) | mask[..., -1, :].any(-1)
    touched = (mask & around(others, NEAR)).float().sum((-1, -2))
    return shown(mask) & ~border & (touched <= TOUCHES * mask.float().sum((-1, -2)))


def shown(mask: Tensor) -> Tensor:
    """Where an object is seen: the cells [V, T] of masks [V, T, H, W] with enough of its pixels."""
    return mask.float().mean((-1, -2)) > LEAST_AREA
