"""A scene whose images tell left from right and up from down, and how it should look."""

import numpy as np
import torch

from fourreal.cameras import look_at
from fourreal.gaussians import Gaussians, GaussianScene, rgb_to_harmonics
from fourreal.rendering import render

SIZE = 256
TIMES = 8
LETTER = ("11110", "10001", "11110", "10100", "10010", "10001")  # R: no symmetry hides a mirror
ARROW = ("00100", "01110", "10101", "00100", "00100", "00100")  # points up
PLACES = {ARROW: (-1.3, -0.5), LETTER: (0.3, -0.5)}  # x, y of the first dot of each
STEP, DISTANCE = 0.22, 4.0  # between dots, and of all dots from the first camera
FOCAL, CENTER = 1.1 * SIZE, (0.53 * SIZE, 0.48 * SIZE)


def blobs(means, rgb, scale, opacity=0.95) -> Gaussians:
    """Gaussians at means [N, 3] of one colour, elongated and turned so that rotation matters."""
    count = len(means)
    quaternions = torch.tensor([0.9, 0.1, -0.2, 0.35]).repeat(count, 1)
    return Gaussians(
        torch.as_tensor(means, dtype=torch.float32),
        quaternions,
        torch.tensor([1.0, 0.6, 0.8]).repeat(count, 1) * scale,
        torch.full((count,), opacity),
        rgb_to_harmonics(torch.tensor(rgb).repeat(count, 1)),
    )


def dots(glyph) -> list[list[float]]:
    """Means of a glyph's dots, upright for a camera that looks along z (y points down)."""
    left, top = PLACES[glyph]
    return [
        [left + STEP * x, top + STEP * y, DISTANCE]
        for y, row in enumerate(glyph)
        for x, dot in enumerate(row)
        if dot == "1"
    ]


def letters_scene() -> GaussianScene:
    """A backdrop, a green arrow and a red R that stand, and a ball of blobs that goes round."""
    grid = torch.cartesian_prod(torch.linspace(-3, 3, 24), torch.linspace(-3, 3, 24))
    wall = blobs(torch.cat([grid, torch.full((len(grid), 1), 6.0)], 1), [0.25, 0.3, 0.5], 0.2, 0.8)
    arrow = blobs(dots(ARROW), [0.1, 0.9, 0.2], 0.1)
    letter = blobs(dots(LETTER), [0.9, 0.15, 0.1], 0.1)
    noise = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)) * 0.12
    dynamic = []
    for time in range(TIMES):
        angle = torch.tensor(2 * torch.pi * time / TIMES)
        center = torch.stack([1.2 * angle.cos(), 1.2 * angle.sin(), torch.tensor(3.4)])
        dynamic.append(blobs((center + noise)[: 60 - 3 * time], [1.0, 0.8, 0.1], 0.1, 0.7))
    eyes = torch.tensor([[0.0, 0.0, 0.0], [1.2, -0.4, 0.2], [-1.0, 0.5, 0.0]])
    extrinsics = look_at(eyes, torch.tensor([0.0, 0.0, DISTANCE]), torch.tensor([0.0, -1.0, 0.0]))
    intrinsics = torch.tensor([[FOCAL, 0, CENTER[0]], [0, FOCAL, CENTER[1]], [0, 0, 1.0]])
    return GaussianScene(
        Gaussians.concatenate([wall, arrow, letter]),
        dynamic,
        extrinsics,
        intrinsics.repeat(len(eyes), 1, 1),
        SIZE,
        SIZE,
        fps=8.0,
    )


def draw(scene: GaussianScene, view: int, time: int) -> np.ndarray:
    """What the torch renderer draws of one input camera, [H, W, 3] in [0, 1]."""
    cameras = scene.extrinsics[view : view + 1], scene.intrinsics[view : view + 1]
    color = render(scene.at(time), *cameras, SIZE, SIZE, backend="torch").color[0]
    return color.clamp(0, 1).numpy()
