"""Screw motions against the exponential map in float64 and against cameras on an arc."""

import math

import pytest
import torch

from fourreal.cameras import camera_centers, look_at, to_homogeneous
from fourreal.cameras.screws import even_movement, screw, steps_between, twist_of


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 0.3, 3.1])
def test_a_twist_comes_back_from_its_motion(angle):
    generator = torch.Generator().manual_seed(0)
    twists = torch.randn(20, 6, generator=generator, dtype=torch.float64)
    twists[:, :3] *= angle / twists[:, :3].norm(dim=1, keepdim=True)
    motions = screw(twists)
    torch.testing.assert_close(twist_of(motions), twists, atol=1e-7, rtol=1e-7)
    turned = motions[:, :, :3].diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(turned, torch.full_like(turned, 1 + 2 * math.cos(angle)))


def test_half_a_screw_done_twice_is_the_screw():
    twist = torch.tensor([0.4, -1.0, 0.2, 3.0, 0.5, -2.0], dtype=torch.float64)
    half = to_homogeneous(screw(twist / 2))
    torch.testing.assert_close((half @ half)[:3], screw(twist))


def arc(degrees):
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    places = torch.stack([3 * angles.sin(), torch.full_like(angles, -1.0), -3 * angles.cos()], -1)
    return look_at(places, (0.0, 0.0, 0.0), up=(0.0, -1.0, 0.0))


def test_cameras_on_an_arc_are_an_even_movement():
    cameras = arc([-30, -18, -6, 6, 18, 30])
    torch.testing.assert_close(even_movement(cameras), cameras)
    steps = steps_between(cameras)
    torch.testing.assert_close(steps, steps[:1].expand(5, -1))
    around = arc([60.0 * k for k in range(7)])  # the last camera is the first again
    torch.testing.assert_close(even_movement(around), around)
    one = cameras[:1]
    assert even_movement(one) is one


def test_cameras_in_two_heaps_are_spread_along_their_arc():
    spread = even_movement(arc([-30, -29, -28, 28, 29, 30]))
    torch.testing.assert_close(spread, arc([-30, -18, -6, 6, 18, 30]))


def test_cameras_without_a_turn_lie_on_a_straight_line():
    cameras = torch.eye(3, 4).repeat(4, 1, 1)
    cameras[:, 0, 3] = torch.tensor([0.0, -0.1, -1.1, -1.2])
    centers = camera_centers(even_movement(cameras))
    torch.testing.assert_close(centers[:, 0], torch.tensor([0.0, 0.4, 0.8, 1.2]))
    assert not centers[:, 1:].any()
