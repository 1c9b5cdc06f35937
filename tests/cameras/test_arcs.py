"""Still cameras on an arc, and the clip that moves through them."""

import math

import pytest
import torch

from fourreal.cameras import (
    arc_cameras,
    camera_centers,
    clip_through,
    look_at,
    pixel_intrinsics,
    point_ahead,
    project,
)

UP = torch.tensor([0.0, -1.0, 0.0])  # y points down
LENS = pixel_intrinsics(torch.tensor(0.8), 48, 64)
CAMERA = look_at(torch.tensor([0.3, -1.0, -2.0]), torch.tensor([0.1, 0.2, 1.5]), UP)
CENTRE = point_ahead(CAMERA, 3.0) + torch.tensor([0.2, 0.1, 0.0])


def arc(num_views=5, **options):
    return arc_cameras(CAMERA, LENS, num_views, **{"degrees": 40, "centre": CENTRE} | options)


def angle_between(a, b):
    return torch.rad2deg(torch.nn.functional.cosine_similarity(a, b, dim=-1).acos())


@pytest.mark.parametrize("given", [0, 2, 4])
def test_the_given_camera_is_one_of_the_arc_to_the_bit(given):
    extrinsics, intrinsics = arc(given=given, elevation=10, distance=0.8)
    assert torch.equal(extrinsics[given], CAMERA)
    assert torch.equal(intrinsics, LENS.expand(5, 3, 3))


def test_the_centre_stays_where_it_is_in_every_image():
    extrinsics, intrinsics = arc(elevation=15, distance=0.7)
    pixels, _ = project(CENTRE.expand(5, 1, 3), extrinsics, intrinsics)
    torch.testing.assert_close(pixels, pixels[:1].expand(5, 1, 2), atol=2e-4, rtol=0)


def test_the_arc_spans_the_angle_at_one_distance_in_equal_steps():
    offset = camera_centers(arc()[0]) - CENTRE
    torch.testing.assert_close(offset.norm(dim=-1), offset[0].norm().expand(5), atol=1e-5, rtol=0)
    steps = angle_between(offset[1:], offset[:-1])
    torch.testing.assert_close(steps, steps[:1].expand(4), atol=2e-3, rtol=0)
    # About the given camera's own up, of which the centre is a little off the axis.
    across = offset - (offset @ CAMERA[1, :3])[:, None] * CAMERA[1, :3]
    assert angle_between(across[0], across[-1]) == pytest.approx(40, abs=1e-2)


def test_positive_angles_lead_to_the_right_and_upward():
    def moved(**options):
        there = camera_centers(arc(**options)[0])[-1:]
        return project(there, CAMERA, torch.eye(3))[0][0]  # slopes in the given camera

    assert moved(degrees=20)[0] > 0 > moved(degrees=-20)[0]
    assert moved(degrees=20, elevation=30)[1] < moved(degrees=20)[1]
    to_the_left, to_the_right = arc(degrees=-20)[0][-1], arc(degrees=20)[0][-1]
    assert to_the_left[2, 0] > CAMERA[2, 0] > to_the_right[2, 0]  # they look back inward


def test_the_last_camera_is_at_the_asked_distance_and_height():
    offset = camera_centers(arc(distance=0.5, elevation=25, centre=point_ahead(CAMERA, 3.0))[0])
    offset = offset - point_ahead(CAMERA, 3.0)
    assert offset[-1].norm() == pytest.approx(1.5, abs=1e-5)
    up = -CAMERA[1, :3]
    assert math.degrees(math.asin(offset[-1] @ up / 1.5)) == pytest.approx(25, abs=1e-3)


def test_a_middle_camera_has_half_the_arc_on_either_side():
    offset = camera_centers(arc(given=2)[0]) - CENTRE
    left, right = angle_between(offset[0], offset[2]), angle_between(offset[4], offset[2])
    assert left == pytest.approx(right.item(), abs=1e-2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"degrees": 0}, "more than 0 and less than 360"),
        ({"degrees": 400}, "less than 360"),
        ({"degrees": math.nan}, "less than 360"),
        ({"num_views": 1}, "at least 2 views"),
        ({"given": 5}, "0 to 4"),
        ({"elevation": 90}, "between -90 and 90"),
        ({"distance": 0}, "positive factor"),
        ({"centre": torch.tensor([0.0, math.nan, 1.0])}, "not finite"),
        ({"centre": point_ahead(CAMERA, -1.0)}, "in front"),
    ],
)
def test_an_impossible_arc_is_refused_in_one_sentence(options, words):
    with pytest.raises(ValueError, match=words) as refusal:
        arc(**options)
    assert ". " not in str(refusal.value)


def test_a_clip_passes_the_views_and_keeps_them_to_the_bit():
    extrinsics, intrinsics = arc(8, elevation=5)
    path, lens, kept = clip_through(extrinsics, intrinsics)
    assert path.shape == (29, 3, 4) and lens.shape == (29, 3, 3)  # 4 (8 - 1) + 1
    assert kept.tolist() == [0, 4, 8, 12, 16, 20, 24, 28]
    assert torch.equal(path[kept], extrinsics)
    torch.testing.assert_close(lens, LENS.expand(29, 3, 3))


def test_a_clip_moves_smoothly_and_stays_near_the_arc():
    path, _, _ = clip_through(*arc(8, degrees=60), steps=8)
    centers = camera_centers(path)
    speed = centers.diff(dim=0).norm(dim=-1)
    assert speed.min() > 0.99 * speed.max()
    radius = (centers - CENTRE).norm(dim=-1)
    assert (radius / radius[0] - 1).abs().max() < 5e-4


def test_a_clip_of_a_length_that_no_video_has_is_refused():
    with pytest.raises(ValueError, match=r"15 frames.*multiple of 4 steps"):
        clip_through(*arc(8), steps=2)
    with pytest.raises(ValueError, match="at least 2 views"):
        clip_through(CAMERA[None], LENS[None])
