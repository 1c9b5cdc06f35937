"""Pseudo-4D: an ordinary video seen by cameras that never were (paper, supplement).

Each view is the video under one homography. The homographies change smoothly from view to view, as
a camera on an arc would see a distant plane, and never look past the edge of the frame.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.cameras import colors_at

TRAVEL = 1.6  # how far the window moves over all views at most, in half windows
TURN = 0.3  # radians
ZOOM = 0.4  # logarithm of the change of size
SLANT = 0.3  # perspective, in half windows
CORNERS = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def random_quads(num_views: int, aspect: float, generator: torch.Generator) -> Tensor:
    """Where the corners of each view lie in a frame of a given width / height: [V, 4, 2].

    Coordinates are x, y in [-1, 1] (frame edges); corners run clockwise from the top left. A view
    is square in units of the window, so `aspect` is (frame width / height) / (view width / height).
    Displacement, turn, size and slant each go from one random value to another along a bent line.
    """
    amount = torch.tensor([TRAVEL, TRAVEL, TURN, ZOOM, *[SLANT] * 8])
    ends = (torch.rand(2, 12, generator=generator) * 2 - 1) * amount / 2
    bend = (torch.rand(12, generator=generator) * 2 - 1) * amount / 4
    u = torch.linspace(0, 1, num_views)[:, None] if num_views > 1 else torch.zeros(1, 1)
    path = ends[0] + (ends[1] - ends[0]) * u + bend * 4 * u * (1 - u)  # [V, 12]
    shift, turn, zoom, slant = path.split([2, 1, 1, 8], dim=1)
    rotation = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], -1).view(-1, 2, 2)
    quads = (CORNERS + slant.view(-1, 4, 2)) @ rotation.mT * zoom.exp()[..., None] + shift[:, None]
    # One scale and one shift for all views bring their union just inside the frame.
    low, high = quads.flatten(0, 1).amin(0), quads.flatten(0, 1).amax(0)
    room = torch.tensor([2.0 * aspect, 2.0])
    scale = (room / (high - low)).min()
    slack = room - (high - low) * scale
    quads = (quads - low) * scale + slack * torch.rand(2, generator=generator)
    return quads / room * 2 - 1


def homographies(quads: Tensor) -> Tensor:
    """Matrices [V, 3, 3] that take the corners of [-1, 1]^2 to quads [V, 4, 2]."""
    x, y = CORNERS[:, 0].expand(len(quads), 4), CORNERS[:, 1].expand(len(quads), 4)
    u, v = quads.unbind(-1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    rows = [
        torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], -1),
        torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], -1),
    ]
    solved = torch.linalg.solve(torch.cat(rows, 1), torch.cat([u, v], 1))
    return torch.cat([solved, torch.ones_like(solved[:, :1])], 1).view(-1, 3, 3)


def warp_views(frames: Tensor, quads: Tensor, height: int, width: int) -> Tensor:
    """Views [V, T, 3, height, width] of frames [T, 3, H, W], view v showing quad v of each."""
    # Shrink first where a view has fewer pixels than its part of the frame, so that none are lost.
    part = (quads.amax(1) - quads.amin(1)).amin(0) / 2
    factor = max(
        width / (float(part[0]) * frames.shape[-1]), height / (float(part[1]) * frames.shape[-2])
    )
    if factor < 1:
        size = [max(round(n * factor), 1) for n in frames.shape[-2:]]
        frames = F.interpolate(frames, size, mode="bilinear", antialias=True, align_corners=False)
    x = (torch.arange(width) + 0.5) * 2 / width - 1
    y = (torch.arange(height) + 0.5) * 2 / height - 1
    points = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], -1)
    points = torch.cat([points, torch.ones(height, width, 1)], -1)
    mapped = torch.einsum("vij,hwj->vhwi", homographies(quads), points)
    grid = mapped[..., :2] / mapped[..., 2:]

    def look(grid: Tensor) -> Tensor:
        grid = grid.expand(len(frames), -1, -1, -1)
        return colors_at(frames, grid)

    return torch.stack([look(g) for g in grid])
