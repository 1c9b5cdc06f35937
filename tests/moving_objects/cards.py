"""A scene of flat cards before a wall, with exact frames, depth and motion."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fourreal.cameras import pixel_intrinsics, scale_intrinsics, unproject
from fourreal.neighborhoods import blurred

SIZE, TIMES = 64, 9
PLACES = ((0.0, 0, 0), (0.35, 0.05, 0), (-0.35, 0.05, 0), (0.2, -0.3, 0))
EXTRINSICS = torch.stack([torch.cat([torch.eye(3), -torch.tensor([p]).T], 1) for p in PLACES])
CAMERAS = EXTRINSICS, pixel_intrinsics(torch.tensor(0.9), SIZE, SIZE).expand(len(PLACES), 3, 3)
RED, GREEN, BLUE = (0.8, 0.2, 0.15), (0.15, 0.6, 0.2), (0.15, 0.2, 0.75)


@dataclass
class Card:
    """A square of this half width around a center [3], which moves by a step [3] a time and turns
    about the line of sight by an angle a time; a stripe of half its brightness across it."""

    center: tuple[float, float, float]
    color: tuple[float, float, float]
    half: float = 0.3
    step: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn: float = 0.0

    def at(self, time: int) -> Tensor:
        return torch.tensor(self.center) + time * torch.tensor(self.step)


@dataclass
class CardScene:
    """Frames [V, T, 3, H, W], depth and the number of the card that is seen [V, T, H, W], 0 where
    there is none, of cards before a wall at z = 4."""

    cards: list[Card]
    frames: Tensor = field(init=False)
    depth: Tensor = field(init=False)
    shown: Tensor = field(init=False)

    def __post_init__(self) -> None:
        fine = [self.drawn(time, 4)[0] for time in range(TIMES)]
        self.frames = torch.stack([avg_pool2d(frames, 4) for frames in fine], 1)
        coarse = [self.drawn(time, 1)[1:] for time in range(TIMES)]
        self.depth, self.shown = (torch.stack(part, 1) for part in zip(*coarse, strict=True))

    def drawn(self, time: int, factor: int) -> tuple[Tensor, Tensor, Tensor]:
        cameras = EXTRINSICS, scale_intrinsics(CAMERAS[1], factor, factor)
        depth = torch.full((len(PLACES), factor * SIZE, factor * SIZE), 4.0)
        x, y, _ = unproject(depth, *cameras).unbind(-1)
        colors = 0.5 + 0.1 * torch.stack([(3 * x).sin(), (2 * y).cos(), (x + y).sin()], 1)
        shown = torch.zeros_like(depth, dtype=torch.long)
        for number, card in enumerate(self.cards, 1):
            center = card.at(time)
            surface = torch.full_like(depth, float(center[2]))
            angle = torch.tensor(card.turn * time)
            x, y = (unproject(surface, *cameras) - center)[..., :2].unbind(-1)
            x, y = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
            own = (x.abs() < card.half) & (y.abs() < card.half) & (surface < depth)
            bright = torch.where((x - y).abs() < 0.1, 0.5, 1.0)
            color = torch.tensor(card.color).view(1, 3, 1, 1) * bright[:, None]
            colors = torch.where(own[:, None], color, colors)
            depth, shown = torch.where(own, surface, depth), torch.where(own, number, shown)
        return colors, depth, shown

    def generated(self, given: Tensor, softness: float = 1.5) -> Tensor:
        """The frames, soft where they are not given [V, T]."""
        keep = given[:, :, None, None, None]
        return torch.where(keep, self.frames, blurred(self.frames, softness))


def both_references() -> Tensor:
    """Cells [V, T] of the first view's video and of all views at the first time."""
    given = torch.zeros(len(PLACES), TIMES, dtype=torch.bool)
    given[0] = given[:, 0] = True
    return given
