"""Colours of warped pixels, looked up in the frames that were given."""

import pytest
import torch

from fourreal.cameras import pixel_intrinsics, project, unproject
from fourreal.reference_colors import reference_colors

SIZE = 48
LENS = pixel_intrinsics(torch.tensor(0.9), SIZE, SIZE)


def wall_and_card(cameras):
    """What cameras [V, 3, 4] see of a wall at z = 4 with colours that change with the place, and of
    a card before it at z = 2: frames [V, 3, H, W] and depth [V, H, W]."""
    lenses = LENS.expand(len(cameras), 3, 3)

    def points(z):
        """Where the rays meet a plane; these cameras all look along z."""
        depth = z - (-cameras[:, 2, 3])
        depth = depth[:, None, None].expand(-1, SIZE, SIZE)
        return unproject(depth, cameras, lenses), depth

    wall, far = points(4.0)
    card, near = points(2.0)
    x, y, _ = wall.unbind(-1)
    colors = torch.stack([0.5 + 0.3 * (4 * x).sin(), 0.5 + 0.3 * (4 * y).cos(), 0.3 + 0 * x], 1)
    before = (card[..., :2].abs() < 0.25).all(-1)
    red = torch.tensor([0.9, 0.1, 0.1]).view(1, 3, 1, 1)
    return torch.where(before[:, None], red, colors), torch.where(before, near, far)


def at(*places):
    """Cameras at places [3] that look along z."""
    return torch.stack([torch.cat([torch.eye(3), -torch.tensor(p)[:, None]], 1) for p in places])


def test_what_a_reference_sees_has_its_colours_and_nothing_else_does():
    cameras = at([0.0, 0, 0], [0.4, 0.1, 0.0])
    frames, depth = wall_and_card(cameras)
    blurred = torch.nn.functional.avg_pool2d(frames, 3, 1, 1, count_include_pad=False)  # as drawn
    lenses = LENS.expand(2, 3, 3)
    found = reference_colors(blurred, depth, (cameras, lenses), frames, [0])
    taken = (found != blurred).any(dim=1)
    # Sharper than the lattice of pixels allows is not possible: a card's border is one pixel wide.
    error = (found - frames).abs().amax(dim=1)
    assert error[1][taken[1]].max() < 0.1 and error[1][taken[1]].mean() < 0.005
    # Hidden behind the card, or outside the reference's image: as drawn.
    points = unproject(depth[1:], cameras[1:], lenses[1:])[0]
    pixels, _ = project(points.view(1, -1, 3), cameras[:1], lenses[:1])
    column, row = pixels[0].view(SIZE, SIZE, 2).unbind(-1)
    outside = (column < 0) | (column >= SIZE) | (row < 0) | (row >= SIZE)
    inner = (column > 1) & (column < SIZE - 1) & (row > 1) & (row < SIZE - 1)
    seen_depth = depth[0][row.long().clamp(0, SIZE - 1), column.long().clamp(0, SIZE - 1)]
    hidden = ~outside & (seen_depth < depth[1] - 1)
    assert outside.sum() > 100 and hidden.sum() > 20
    assert not taken[1][outside | hidden].any()
    rims = torch.nn.functional.max_pool2d(hidden.float()[None, None], 5, 1, 2)[0, 0] > 0
    rims |= torch.nn.functional.max_pool2d((depth[1] < 3).float()[None, None], 5, 1, 2)[0, 0] > 0
    assert taken[1][inner & ~rims].all()
    assert taken[1][(depth[1] < 3)].float().mean() > 0.5  # of the card, all but its rim


def test_of_several_references_the_nearest_one_that_sees_a_point_has_it():
    cameras = at([0.0, 0, 0], [0.1, 0.0, 0.0], [0.5, 0.0, 0.0])
    _, depth = wall_and_card(cameras)
    flat = torch.tensor([0.2, 0.5, 0.8]).view(3, 1, 1, 1).expand(3, 3, SIZE, SIZE)
    drawn = flat.clone()
    drawn[1] = 0
    found = reference_colors(drawn, depth, (cameras, LENS.expand(3, 3, 3)), flat, [0, 2])
    values = (1000 * found[1]).round().unique() / 1000
    torch.testing.assert_close(values, torch.tensor([0.0, 0.2, 0.8]))
    assert ((found[1] - 0.2).abs() < 1e-3).float().mean() > 0.8  # camera 0 is nearer
    # What only camera 2 sees lies at the right border.
    assert (found[1][0] > 0.7).nonzero()[:, 1].float().mean() > SIZE * 0.6


@pytest.mark.parametrize("depth", [torch.inf, 0.0, -1.0])
def test_depth_of_nothing_is_seen_by_no_reference(depth):
    cameras = at([0.0, 0, 0], [0.1, 0.0, 0.0])
    drawn = torch.rand(2, 3, SIZE, SIZE)
    depths = torch.full((2, SIZE, SIZE), depth)
    given = torch.ones(2, 3, SIZE, SIZE)
    found = reference_colors(drawn, depths, (cameras, LENS.expand(2, 3, 3)), given, [0])
    assert found.isfinite().all()
    assert torch.equal(found[1], drawn[1])


def test_what_the_reference_shows_before_what_is_drawn_lends_no_colour():
    """The rims of a card were dropped: the wall is drawn there, and the frame has the card."""
    cameras = at([0.0, 0, 0], [0.4, 0.1, 0.0])
    frames, depth = wall_and_card(cameras)
    far = torch.full_like(depth, 4.0)  # no card is left
    wall = torch.full_like(frames, 0.5)
    shown = torch.where((depth < 3)[:, None], frames, wall)
    found = reference_colors(wall, far, (cameras, LENS.expand(2, 3, 3)), shown, [0])
    assert (shown[0] != 0.5).any()
    assert torch.equal(found[1], wall[1])
