"""Pictures of what is evaluated: scenes drawn from their cameras, grids side by side."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.gaussians import GaussianScene
from fourreal.grid import contact_sheet, spaced_times
from fourreal.rendering import render

ACROSS = 4  # grids in a row of a montage
WHITE = 1.0
GREEN, RED = (0.1, 0.65, 0.2), (0.85, 0.1, 0.1)


def draw_scene(
    scene: GaussianScene,
    times: list[int],
    cameras: tuple[Tensor, Tensor],
    device: torch.device | None = None,
) -> Tensor:
    """A scene at some times from cameras (extrinsics [V, 3, 4], intrinsics [V, 3, 3]) of its size:
    [V, T, 3, H, W] in [0, 1] on the CPU. device: where it is rendered (default: where it is)."""
    scene = scene.to(device) if device else scene
    shown = render([scene.at(t) for t in times], *cameras, scene.width, scene.height).color
    return shown.transpose(0, 1).movedim(-1, 2).clamp(0, 1).cpu()


def beside(grid: Tensor, exact: Tensor) -> Tensor:
    """A grid [V, T, 3, H, W] and the exact one at its right, every second view and seven times of
    each, as one image [3, h, w]."""
    left, right = (contact_sheet(frames[::2], 7) for frames in (grid, exact))
    return torch.cat([F.pad(left, (0, 6), value=WHITE), right], -1)


def excerpt(grid: Tensor) -> Tensor:
    """The first and last view of a grid [V, T, 3, H, W] at four times, as a cell [3, h, w] of a
    montage."""
    return F.pad(contact_sheet(grid[spaced_times(2, len(grid))], 4), (0, 8, 0, 8), value=WHITE)


def marked(cell: Tensor, right: float) -> Tensor:
    """A cell of a montage with a bar below it: green where `right` is 1, red where it is 0, none
    where nothing is known (NaN)."""
    if math.isnan(right):
        return cell
    cell = cell.clone()
    cell[:, -7:-3, :-8] = torch.tensor(GREEN if right else RED)[:, None, None]
    return cell


def montage(cells: list[Tensor]) -> Tensor:
    """Cells [3, h, w] of one size in rows of four, as one image; what is missing is white."""
    missing = -len(cells) % ACROSS
    cells = cells + [torch.full_like(cells[0], WHITE)] * missing
    rows = [torch.cat(cells[i : i + ACROSS], -1) for i in range(0, len(cells), ACROSS)]
    return torch.cat(rows, -2)
