"""Pinhole cameras in OpenCV's convention, rotations and camera paths."""

import math

import pytest
import torch

from fourreal.cameras import (
    PathOptions,
    camera_centers,
    camera_path,
    extrinsics_at,
    interpolate_cameras,
    invert,
    look_at,
    matrix_to_quaternion,
    pixel_grid,
    pixel_intrinsics,
    places_seen,
    project,
    quaternion_to_matrix,
    relative_to_first,
    scale_intrinsics,
    to_homogeneous,
    unproject,
    warp,
)

UP = torch.tensor([0.0, -1.0, 0.0])  # y points down


def ring(count=5):
    angle = torch.linspace(-0.6, 0.6, count)
    position = torch.stack([3 * angle.sin(), 0.2 * angle, 3 - 3 * angle.cos()], dim=-1)
    return look_at(position, torch.tensor([0.0, 0.0, 3.0]), UP)


def intrinsics(count=1):
    matrix = torch.tensor([[40.0, 0, 17], [0, 38, 11], [0, 0, 1]])
    return matrix.expand(count, 3, 3)


def test_the_first_pixel_centre_is_at_a_half():
    grid = pixel_grid(3, 4)
    assert grid.shape == (3, 4, 2)
    assert grid[0, 0].tolist() == [0.5, 0.5]
    assert grid[2, 3].tolist() == [3.5, 2.5]


def test_the_field_of_view_spans_the_image():
    k = pixel_intrinsics(torch.tensor(math.radians(90.0)), height=20, width=30)
    assert k.flatten().tolist() == pytest.approx([10, 0, 15, 0, 10, 10, 0, 0, 1], rel=1e-6)


def test_scaled_intrinsics_see_the_same_in_a_resized_image():
    points = torch.randn(10, 3) + torch.tensor([0, 0, 5.0])
    view = torch.eye(3, 4)
    pixels, _ = project(points, view, intrinsics()[0])
    resized, _ = project(points, view, scale_intrinsics(intrinsics()[0], 0.5, 2.0))
    torch.testing.assert_close(resized, pixels * torch.tensor([0.5, 2.0]))


def test_look_at_puts_the_target_ahead_and_up_upward():
    position, target = torch.tensor([1.0, 2.0, -3.0]), torch.tensor([0.5, -1.0, 4.0])
    view = look_at(position, target, UP)
    pixels, depth = project(target[None], view, intrinsics()[0])
    torch.testing.assert_close(pixels, torch.tensor([[17.0, 11.0]]))
    torch.testing.assert_close(depth, (target - position).norm()[None])
    above, _ = project((target + 0.5 * UP)[None], view, intrinsics()[0])
    assert above[0, 1] < 11
    rotation = view[:, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3), atol=1e-6, rtol=0)
    assert torch.linalg.det(rotation) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(camera_centers(view), position)


def test_the_camera_on_the_axis_is_the_identity():
    view = look_at(torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]), UP)
    torch.testing.assert_close(view, torch.eye(3, 4), atol=1e-7, rtol=0)


def test_a_camera_is_where_its_centre_is_and_turned_as_its_rotation():
    center, view = torch.tensor([1.0, 2.0, -3.0]), ring()[1]
    moved = extrinsics_at(center, view[:, :3])
    torch.testing.assert_close(camera_centers(moved), center)
    ahead = center + 2 * view[2, :3]  # the third row is the optical axis
    pixels, depth = project(ahead[None], moved, intrinsics()[0])
    torch.testing.assert_close(pixels, torch.tensor([[17.0, 11.0]]), atol=1e-4, rtol=0)
    torch.testing.assert_close(depth, torch.tensor([2.0]))


def test_project_undoes_unproject():
    depth = torch.rand(5, 12, 16) * 4 + 1
    points = unproject(depth, ring(), intrinsics(5))
    pixels, z = project(points.flatten(1, 2), ring(), intrinsics(5))
    torch.testing.assert_close(z.view_as(depth), depth, atol=1e-5, rtol=1e-5)
    expected = pixel_grid(12, 16).expand(5, 12, 16, 2)
    torch.testing.assert_close(pixels.view(5, 12, 16, 2), expected, atol=1e-4, rtol=0)


def test_unproject_broadcasts_cameras_over_time():
    depth = torch.rand(2, 3, 4, 4) + 1
    both = unproject(depth, ring(2)[:, None], intrinsics(2)[:, None])
    torch.testing.assert_close(both[:, 1], unproject(depth[:, 1], ring(2), intrinsics(2)))


def test_a_wall_warps_by_its_disparity():
    images = torch.rand(1, 3, 22, 34)
    aside = torch.eye(3, 4)[None].clone()
    aside[0, 0, 3] = -0.5  # 0.5 to the right: 40 * 0.5 / 4 = 5 pixels
    here, there = (torch.eye(3, 4)[None], intrinsics(1)), (aside, intrinsics(1))
    warped, inside, distance = warp(images, torch.full((1, 22, 34), 4.0), here, there)
    torch.testing.assert_close(warped[..., 5:], images[..., :-5], atol=1e-5, rtol=0)
    assert inside[..., 5:].all() and not inside[..., :5].any()
    torch.testing.assert_close(distance, torch.full((1, 22, 34), 4.0))
    aside[0, 2, 3] = -9.0  # the wall is behind that camera
    assert not warp(images, torch.full((1, 22, 34), 4.0), here, there)[1].any()


@pytest.mark.parametrize("one_target", [True, False])
def test_places_seen_are_those_of_points_that_are_projected(one_target):
    there, lenses = ring(5).double(), intrinsics(5).double()
    here = (there[0], lenses[0]) if one_target else (there.roll(1, 0), lenses)
    depth = torch.rand(5, 22, 34, dtype=torch.double) + 2.5
    depth[2, :4] = 9.0  # much of this one is outside of what the source sees
    places, inside, distance = places_seen(depth, here, (there, lenses))
    points = unproject(depth, *here).flatten(1, 2)
    pixels, expected = (x.unflatten(1, (22, 34)) for x in project(points, there, lenses))
    torch.testing.assert_close(distance, expected)
    torch.testing.assert_close((places + 1) * torch.tensor([17.0, 11.0]), pixels)
    seen = ((pixels > 0) & (pixels < torch.tensor([34.0, 22.0]))).all(-1)
    assert inside.equal(seen & (expected > 0)) and 0.05 < inside.double().mean() < 0.95


def test_invert_undoes_itself_and_the_camera():
    views = ring()
    torch.testing.assert_close(invert(invert(views)), views, atol=1e-6, rtol=0)
    product = to_homogeneous(views) @ to_homogeneous(invert(views))
    torch.testing.assert_close(product, torch.eye(4).expand(5, 4, 4), atol=1e-6, rtol=0)


def test_the_world_of_the_first_camera_keeps_all_images():
    views = ring()
    moved = relative_to_first(views)
    torch.testing.assert_close(moved[0], torch.eye(3, 4), atol=1e-6, rtol=0)
    points = torch.randn(10, 3) + torch.tensor([0, 0, 3.0])
    in_first = points @ views[0, :, :3].T + views[0, :, 3]
    before, _ = project(points, views, intrinsics(5))
    after, _ = project(in_first, moved, intrinsics(5))
    torch.testing.assert_close(after, before, atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize("axis", range(3))
def test_quaternions_turn_by_the_angle_about_the_axis(axis):
    """A quarter turn takes the next axis to the one after it (right hand)."""
    q = torch.zeros(4)
    q[0], q[1 + axis] = math.cos(math.pi / 4), math.sin(math.pi / 4)
    matrix = quaternion_to_matrix(q)
    unit = torch.eye(3)
    torch.testing.assert_close(matrix @ unit[(axis + 1) % 3], unit[(axis + 2) % 3])
    torch.testing.assert_close(matrix @ unit[axis], unit[axis])


def test_quaternions_and_matrices_are_two_ways_to_say_one_rotation():
    q = torch.nn.functional.normalize(torch.randn(200, 4, dtype=torch.float64), dim=-1)
    q[:4] = torch.eye(4)  # half turns, where w is 0, among them
    matrices = quaternion_to_matrix(q)
    identity = torch.eye(3, dtype=q.dtype).expand(200, 3, 3)
    torch.testing.assert_close(matrices @ matrices.mT, identity, atol=1e-12, rtol=0)
    back = matrix_to_quaternion(matrices)
    assert (back[:, 0] >= 0).all()
    torch.testing.assert_close(quaternion_to_matrix(back), matrices, atol=1e-10, rtol=0)


def test_quaternions_of_any_length_turn_alike():
    q = torch.randn(20, 4)
    torch.testing.assert_close(quaternion_to_matrix(q), quaternion_to_matrix(37 * q))


def test_interpolation_passes_through_the_cameras():
    views = ring()
    at_inputs = interpolate_cameras(views, torch.arange(5.0))
    torch.testing.assert_close(at_inputs, views, atol=1e-5, rtol=0)


def test_interpolation_between_equal_cameras_stands_still():
    views = ring(1).expand(3, 3, 4)
    result = interpolate_cameras(views, torch.linspace(0, 2, 7))
    torch.testing.assert_close(result, views[:1].expand(7, 3, 4), atol=1e-5, rtol=0)


def test_interpolation_turns_halfway_about_the_same_axis():
    start = torch.eye(3, 4)
    end = torch.cat([quaternion_to_matrix(torch.tensor([1.0, 0, 1.0, 0])), torch.zeros(3, 1)], 1)
    middle = interpolate_cameras(torch.stack([start, end]), torch.tensor([0.5]))[0, :, :3]
    half = math.pi / 8  # half of a quarter turn, in the quaternion halved again
    expected = quaternion_to_matrix(torch.tensor([math.cos(half), 0, math.sin(half), 0]))
    torch.testing.assert_close(middle, expected, atol=1e-5, rtol=0)


def test_one_camera_can_be_a_path():
    path = camera_path(ring(1), intrinsics(1), 32, 24, 4, PathOptions())
    torch.testing.assert_close(path.extrinsics, ring(1).expand(4, 3, 4), atol=1e-5, rtol=0)


def test_an_orbit_returns_while_time_plays():
    path = camera_path(ring(), intrinsics(5), 32, 24, 9, PathOptions())
    assert path.times.tolist() == list(range(9))
    torch.testing.assert_close(path.extrinsics[0], ring()[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(path.extrinsics[4], ring()[-1], atol=1e-5, rtol=0)
    torch.testing.assert_close(path.extrinsics[8], ring()[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(path.intrinsics, intrinsics(9))
    assert (path.width, path.height) == (32, 24)


def test_the_other_paths_move_what_they_say():
    inputs = camera_path(ring(), intrinsics(5), 32, 24, 9, PathOptions("inputs", 5))
    torch.testing.assert_close(inputs.extrinsics, ring(), atol=1e-5, rtol=0)
    assert inputs.times.tolist() == [0, 2, 4, 6, 8]
    frozen = camera_path(ring(), intrinsics(5), 32, 24, 9, PathOptions("freeze_time", freeze_at=3))
    assert frozen.times.tolist() == [3] * 9
    assert not torch.equal(frozen.extrinsics[0], frozen.extrinsics[4])
    fixed = camera_path(ring(), intrinsics(5), 32, 24, 9, PathOptions("fixed_view"))
    torch.testing.assert_close(fixed.extrinsics, ring()[:1].expand(9, 3, 4), atol=1e-5, rtol=0)
    assert fixed.times.tolist() == list(range(9))


def test_an_unknown_path_is_refused():
    with pytest.raises(ValueError, match="orbit, inputs, freeze_time, fixed_view"):
        camera_path(ring(), intrinsics(5), 32, 24, 9, PathOptions("zigzag"))


def test_look_at_takes_lists_as_it_takes_tensors():
    places = [[1, 2, -3], [0.5, 0.0, 4.0], [0, -2, 0]]
    tensors = (torch.tensor(place, dtype=torch.float32) for place in places)
    assert torch.equal(look_at(*places), look_at(*tensors))
    assert look_at(torch.zeros(5, 3), *places[1:]).shape == (5, 3, 4)
    exact = look_at(*(torch.tensor(place, dtype=torch.float64) for place in places))
    assert exact.dtype == torch.float64


@pytest.mark.parametrize(
    ("position", "target", "up", "words"),
    [
        ([1, 2, 3], [1, 2, 3], [0, -1, 0], "is at its target"),
        ([[0, 0, 0], [0, 0, 4]], [0, 0, 4], [0, -1, 0], "is at its target"),
        ([0, 0, 0], [0, 5, 0], [0, -1, 0], "straight along up"),
        ([0.3, 0.1, 0.2], [1.3, 0.4, 1.7], [-2, -0.6, -3], "straight along up"),
        ([0, 0, 0], [0, 0, 4], [0, 0, 0], "straight along up"),
    ],
)
def test_a_camera_without_a_direction_is_refused(position, target, up, words):
    with pytest.raises(ValueError, match=words):
        look_at(position, target, up)


def test_a_camera_that_looks_almost_along_up_is_one():
    view = look_at([0, 0, 0], [1e-4, 5, 0], [0, -1, 0])
    assert torch.linalg.det(view[:, :3]).item() == pytest.approx(1, abs=1e-5)
