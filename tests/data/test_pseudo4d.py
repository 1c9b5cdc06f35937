"""Pseudo-4D: where the views lie, and what they show."""

import torch

from fourreal.data.pseudo4d import CORNERS, homographies, random_quads, warp_views

from .clip_files import generator


def test_a_homography_takes_the_corners_to_the_quad():
    quads = random_quads(8, 16 / 9, generator())
    corners = torch.cat([CORNERS, torch.ones(4, 1)], 1)
    mapped = torch.einsum("vij,kj->vki", homographies(quads).double(), corners.double())
    assert torch.allclose((mapped[..., :2] / mapped[..., 2:]).float(), quads, atol=1e-5)


def test_views_stay_inside_the_frame_and_move_smoothly():
    for seed in range(200):
        quads = random_quads(8, (4 / 3, 16 / 9, 0.6)[seed % 3], generator(seed))
        assert float(quads.abs().max()) <= 1 + 1e-5
        assert float(quads.abs().amax((0, 1)).max()) > 1 - 1e-5  # and use all there is of it
        edges = quads.roll(-1, 1) - quads
        following = edges.roll(-1, 1)
        turns = edges[..., 0] * following[..., 1] - edges[..., 1] * following[..., 0]
        assert bool((turns > 0).all())  # convex, clockwise: never mirrored
        steps = (quads[1:] - quads[:-1]).norm(dim=-1)
        path = (quads[-1] - quads[0]).norm(dim=-1)
        # A parabola's steps change by a constant, so neighbouring steps are alike.
        assert float((steps[1:] - steps[:-1]).abs().max()) < 0.25 * max(float(path.max()), 0.5)


def test_warped_views_show_the_frame_where_the_quad_lies_and_have_no_border():
    # Colour is position, so a warped pixel says where it came from.
    y, x = torch.meshgrid(torch.arange(90) + 0.5, torch.arange(160) + 0.5, indexing="ij")
    frame = torch.stack([x / 160, y / 90, torch.ones_like(x)])
    quads = random_quads(8, 16 / 9, generator(5))
    views = warp_views(frame.expand(2, -1, -1, -1), quads, 45, 45)
    assert views.shape == (8, 2, 3, 45, 45)
    assert float(views[:, :, 2].min()) > 0.95  # blue is 1 everywhere inside; black is 0
    centre = torch.tensor([0.0, 0.0, 1.0])
    for view, matrix in zip(views, homographies(quads)):
        where = matrix @ centre
        expected = (where[:2] / where[2] + 1) / 2
        assert torch.allclose(view[0, :2, 22, 22], expected, atol=0.01)
    assert torch.equal(views[:, 0], views[:, 1])  # the same warp at all times
