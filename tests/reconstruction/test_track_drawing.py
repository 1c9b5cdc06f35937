"""Pictures of tracks: dots where points are seen, rings where they are hidden, tails."""

import torch

from fourreal.reconstruction.track_drawing import colors_of, draw_tracks
from fourreal.reconstruction.tracking import Tracks

GREY = 0.5


def drawn(positions, visibility):
    """Two views of three times, 60 x 60 pixels, with tracks of one point of view 0, time 0."""
    frames = torch.full((2, 3, 3, 60, 60), GREY)
    positions = torch.tensor(positions, dtype=torch.float32).view(2, 3, 1, 2)
    visibility = torch.tensor(visibility, dtype=torch.float32).view(2, 3, 1)
    return draw_tracks(frames, Tracks(positions, visibility, visibility))


def test_a_dot_is_where_the_point_is_seen_and_a_ring_where_it_is_hidden():
    places = [[10, 10], [30, 10], [50, 10], [10, 50], [10, 50], [10, 50]]
    pictures = drawn(places, [1, 1, 1, 1, 0, 1])
    color = torch.tensor(colors_of(torch.tensor([[10.0, 10.0]]), 60, 60)[0]) / 255
    assert (pictures[0, 0, :, 10, 10] - color).abs().max() < 0.25
    assert (pictures[0, 2, :, 10, 50] - color).abs().max() < 0.25
    # Nothing far from the point, nothing of later times.
    assert (pictures[0, 0, :, 30:, :] - GREY).abs().max() < 0.01
    assert (pictures[0, 0, :, :, 20:] - GREY).abs().max() < 0.01
    # The tail runs from where it was, through (20, 10).
    assert (pictures[0, 1, :, 10, 20] - GREY).abs().max() > 0.1
    filled, hollow = pictures[1, 0, :, 50, 10], pictures[1, 1, :, 50, 10]
    assert (filled - color).abs().max() < (hollow - color).abs().max()


def test_points_far_outside_and_hidden_ends_leave_no_lines():
    pictures = drawn([[10, 10], [1e6, -1e6], [50, 50]] * 2, [1, 1, 1, 1, 0, 1])
    assert (pictures[:, 1] - GREY).abs().max() < 0.01
    assert (pictures[:, 2, :, 25:35, 25:35] - GREY).abs().max() < 0.01


def test_neighbouring_points_have_neighbouring_colours():
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [59.0, 0.0], [0.0, 59.0]])
    colors = torch.tensor(colors_of(points, 60, 60)).float()
    near, across, down = (colors[1:] - colors[0]).abs().sum(-1)
    assert near < 40 < across and near < 40 < down
