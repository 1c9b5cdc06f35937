"""Gaussians and dynamic scenes: what they hold and how they are put together."""

import math

import pytest
import torch

from fourreal.gaussians import (
    Gaussians,
    GaussianScene,
    harmonics_to_rgb,
    rgb_to_harmonics,
    turn_about_x,
)
from fourreal.rendering import render

from .tiny import cloud


def scene(dynamic):
    return GaussianScene(
        cloud(4, 0), dynamic, torch.eye(3, 4).expand(2, 3, 4), torch.eye(3).expand(2, 3, 3), 8, 6
    )


def test_colours_and_harmonics_are_two_ways_to_say_one_thing():
    rgb = torch.rand(7, 3)
    torch.testing.assert_close(harmonics_to_rgb(rgb_to_harmonics(rgb)), rgb)
    grey = rgb_to_harmonics(torch.tensor([0.5, 0.5, 1.0]))
    expected = torch.tensor([[0, 0, 0.5 * 2 * math.sqrt(math.pi)]])
    torch.testing.assert_close(grey, expected)


@pytest.mark.parametrize(
    "name, shape", [("quaternions", (3, 3)), ("scales", (2, 3)), ("opacities", (3, 1))]
)
def test_fields_of_different_gaussians_are_refused(name, shape):
    fields = dict(vars(cloud(3)))
    fields[name] = torch.zeros(shape)
    with pytest.raises(ValueError, match=f"Gaussians.{name} has shape"):
        Gaussians(**fields)


def test_flat_harmonics_are_refused():
    fields = dict(vars(cloud(3)))
    fields["harmonics"] = torch.zeros(3, 3)
    with pytest.raises(ValueError, match="harmonics"):
        Gaussians(**fields)


def test_selection_takes_the_same_gaussians_from_every_field():
    g = cloud(5, 1)
    chosen = g[torch.tensor([True, False, True, False, False])]
    assert len(chosen) == 2
    assert torch.equal(chosen.means, g.means[[0, 2]])
    assert torch.equal(chosen.opacities, g.opacities[[0, 2]])
    assert torch.equal(chosen.harmonics, g.harmonics[[0, 2]])


def test_concatenation_pads_lower_degrees_with_zeros():
    low, high = cloud(2, 0), cloud(3, 2)
    both = Gaussians.concatenate([low, high])
    assert both.harmonics.shape == (5, 9, 3)
    assert torch.equal(both.harmonics[:2, :1], low.harmonics)
    assert not both.harmonics[:2, 1:].any()
    assert torch.equal(both.harmonics[2:], high.harmonics)
    assert torch.equal(both.scales, torch.cat([low.scales, high.scales]))


def test_a_scene_at_a_time_is_what_stands_and_what_moves_then():
    moving = [cloud(2, 0), cloud(0, 0), cloud(3, 1)]
    s = scene(moving)
    assert (s.num_frames, s.num_views) == (3, 2)
    assert (s.num_gaussians, s.num_harmonics) == (4 + 2 + 0 + 3, 4)
    assert [len(s.at(t)) for t in range(3)] == [6, 4, 7]
    assert torch.equal(s.at(2).means, torch.cat([s.static.means, moving[2].means]))


def test_a_scene_moves_to_another_type_as_a_whole():
    moved = scene([cloud(2)]).to(torch.float64)
    assert moved.at(0).means.dtype == torch.float64
    assert moved.extrinsics.dtype == torch.float64
    assert (moved.width, moved.height) == (8, 6)


def test_a_scene_without_times_or_with_odd_cameras_is_refused():
    with pytest.raises(ValueError, match="at least one time"):
        scene([])
    with pytest.raises(ValueError, match="of the same V"):
        GaussianScene(cloud(1), [cloud(1)], torch.eye(3, 4)[None], torch.eye(3), 8, 6)


@pytest.mark.parametrize("degree", range(5))
def test_a_turned_scene_from_a_turned_camera_is_the_same_image(degree):
    g = cloud(60, degree)
    g.means[:, 2] += 4
    turn = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    extrinsics = torch.eye(3, 4)[None]
    intrinsics = torch.tensor([[[30.0, 0, 16], [0, 30, 16], [0, 0, 1]]])
    turned = extrinsics.clone()
    turned[0, :, :3] = turn
    expected = render(g, extrinsics, intrinsics, 32, 32).color
    result = render(turn_about_x(g), turned, intrinsics, 32, 32).color
    assert expected.max() > 0.2
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("time", [-1, 2, 99])
def test_a_time_that_a_scene_does_not_have_is_refused(time):
    with pytest.raises(ValueError, match=f"time is {time}, but the scene has times 0 to 1; "):
        scene([cloud(2), cloud(3)]).at(time)


def test_scenes_and_gaussians_are_shown_by_their_sizes():
    s = scene([cloud(2, 0), cloud(3, 1)])
    assert repr(s) == (
        f"GaussianScene(2 times, 2 views, {len(s.static)} still and 5 moving Gaussians, 8 x 6, "
        f"{s.fps:g} fps)"
    )
    assert repr(cloud(7, 2)) == "Gaussians(7 of degree 2, torch.float32, cpu)"


def test_the_first_times_keep_what_is_known_of_them():
    whole = scene([cloud(n, n) for n in (1, 2, 3)])
    whole.observed = torch.tensor([[True, False, True], [False, True, True]])
    whole.confidences = [torch.full((n,), float(n)) for n in (4, 1, 2, 3)]
    first = whole.first_times(2)
    assert [len(part) for part in first.dynamic] == [1, 2] and first.static is whole.static
    assert torch.equal(first.observed, whole.observed[:, :2])
    assert [len(sure) for sure in first.confidences] == [4, 1, 2]
    for count in (None, 5):
        assert whole.first_times(count).num_frames == 3
    assert scene([cloud(1)]).first_times(1).observed is None
