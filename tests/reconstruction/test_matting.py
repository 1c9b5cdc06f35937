"""Pixels at the rims of things go to one of both surfaces that they show."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.neighborhoods import eroded, grown
from fourreal.reconstruction import Filters
from fourreal.reconstruction.maps import Maps
from fourreal.reconstruction.matting import BAND, REACH, UNLIKE, unmix_edges
from fourreal.reconstruction.pixels_to_gaussians import emit_gaussians

RED, WALL = torch.tensor([0.8, 0.1, 0.1]), torch.tensor([0.4, 0.5, 0.6])
NEAR, FAR = 2.0, 4.0


def a_box(size: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    """The mask [1, S, S] of a red box before a wall, its blurred image [1, 3, S, S], and a depth
    [1, S, S] that is blurred, too, and has its edges a pixel below and right of the image's."""
    box = torch.zeros(1, size, size, dtype=torch.bool)
    box[:, 8:18, 6:16] = True
    image = torch.where(box[:, None], RED.view(3, 1, 1), WALL.view(3, 1, 1))
    depth = torch.where(box.roll((1, 1), (1, 2)), NEAR, FAR)

    def blurred(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, 3, 1, 1, count_include_pad=False)

    return box, blurred(image), 1 / blurred(1 / depth[:, None])[:, 0]


def test_things_leave_the_wall_and_get_their_edges_from_the_image():
    box, image, depth = a_box()
    colors, placed = unmix_edges(image, depth, 0.1)
    inside, outside = eroded(box, 1), ~grown(box, 1)
    rows = torch.zeros_like(box)
    rows[:, 10:16] = True  # between the corners

    def wrong(depth: Tensor) -> int:
        far = (depth / torch.where(box, NEAR, FAR) - 1).abs() > 0.02
        return int((far & rows).sum())

    assert wrong(depth) > 20 and wrong(placed) == 0
    wall = rows & ~box
    redness = (image - WALL.view(3, 1, 1)).abs().amax(1)
    assert redness[wall].max() > 0.1
    assert (colors - WALL.view(3, 1, 1)).abs().amax(1)[wall].max() < 0.02
    rim = rows & box & ~inside  # on the box colours are as soft as they were
    assert torch.equal(colors.movedim(1, -1)[rim], image.movedim(1, -1)[rim])
    away = ~grown(box | box.roll((1, 1), (1, 2)), REACH)
    assert torch.equal(colors.movedim(1, -1)[away], image.movedim(1, -1)[away])
    assert torch.equal(placed[away], depth[away]) and bool((outside & away).any())


def test_what_is_alike_even_or_of_one_surface_stays():
    box, image, depth = a_box()
    grey = torch.full_like(image, 0.5) + 0.01 * box[:, None]
    slope = (1 / (0.2 + torch.arange(24.0) / 48)).expand(1, 24, 24)
    endless = torch.where(box, NEAR, torch.inf)
    flat = torch.full_like(depth, 3.0)
    for colors, z in ((grey, depth), (image, flat), (image, slope), (image, endless)):
        unmixed, placed = unmix_edges(colors, z, 0.1)
        assert torch.equal(unmixed, colors) and torch.equal(placed, z)


def test_unmixing_agrees_with_a_plain_loop_in_double_precision():
    generator = torch.Generator().manual_seed(0)
    _, image, depth = a_box()
    image = (image + 0.1 * torch.rand(image.shape, generator=generator)).clamp(0, 1)
    depth = depth * (1 + 0.02 * torch.rand(depth.shape, generator=generator))
    colors, placed = unmix_edges(image, depth, 0.1)
    z, picture, size = depth[0].double(), image[0].double(), depth.shape[-1]

    def around(y: int, x: int, reach: int) -> list[tuple[int, int]]:
        rows, columns = (range(max(0, i - reach), min(size, i + reach + 1)) for i in (y, x))
        return [(r, c) for r in rows for c in columns]

    def torn(y: int, x: int) -> bool:
        seen = [float(z[p]) for p in around(y, x, 1)]
        return max(seen) > 1.1 * min(seen)

    changed = 0
    for y, x in around(0, 0, size):
        wanted_color, wanted = picture[:, y, x], z[y, x]
        seen = [float(z[p]) for p in around(y, x, REACH)]
        beside = any(torn(*p) for p in around(y, x, BAND - 1))
        middle = 2 / (1 / min(seen) + 1 / max(seen))
        pure = [p for p in around(y, x, REACH) if not torn(*p)] if beside else []
        sides = []
        for side in ([p for p in pure if z[p] < middle], [p for p in pure if z[p] >= middle]):
            weights = [math.exp(-2 * ((r - y) ** 2 + (c - x) ** 2) / REACH**2) for r, c in side]
            if not weights:
                break
            color = sum(w * picture[:, r, c] for w, (r, c) in zip(weights, side)) / sum(weights)
            sides.append((color, sum(weights) / sum(w / z[p] for w, p in zip(weights, side))))
        if len(sides) == 2 and (sides[0][0] - sides[1][0]).norm() > UNLIKE:
            (near, near_depth), (far, far_depth) = sides
            apart = near - far
            alpha = float(((wanted_color - far) @ apart / (apart @ apart)).clamp(0, 1))
            to_near, place = alpha > 0.5, near_depth if alpha > 0.5 else far_depth
            same = to_near == bool(wanted < middle)
            if not (same and (not torn(y, x) or abs(wanted / place - 1) < 0.05)):
                wanted = place
            if not to_near:
                wanted_color = (wanted_color - alpha * apart).clamp(0, 1)
            changed += 1
        torch.testing.assert_close(placed[0, y, x].double(), wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(colors[0, :, y, x].double(), wanted_color, atol=1e-5, rtol=1e-5)
    assert changed > 100


def test_gaussians_between_the_surfaces_are_moved_unless_told_not_to():
    _, image, depth = a_box()
    lens = torch.tensor([[24.0, 0, 12], [0, 24, 12], [0, 0, 1]])[None]
    cameras = torch.eye(3, 4)[None], lens
    maps = Maps.known(depth[None], *cameras)
    between = {}
    for unmix in (0.0, 0.1):
        filters = Filters(sharpen=0, unmix=unmix, depth_edge=0)
        _, (moving,), _ = emit_gaussians("none", image[None], maps, cameras, filters, None)
        z = moving.means[:, 2]
        between[unmix] = int(((z > 1.1 * NEAR) & (z < FAR / 1.1)).sum())
    assert between[0.0] > 40 and between[0.1] < between[0.0] / 4
