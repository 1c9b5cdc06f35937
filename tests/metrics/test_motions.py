"""Paths in space, and the word of motion for them."""

import math

import pytest
import torch

from fourreal.cameras import project
from fourreal.metrics.motions import Movement, look_change, mean_rig, path_of, triangulate
from fourreal.scenes import describe, scene_seed

SECONDS = torch.arange(29.0) / 8


def test_the_kind_of_every_exact_path_is_its_word():
    for index in range(60):
        for thing in describe(scene_seed("validation", index), 1, 29).things:
            movement = Movement.of(torch.as_tensor(thing.positions).float())
            expected = "in place" if thing.motion in ("spin", "still") else thing.motion
            assert movement.kind == expected, (index, thing.motion, movement)


@pytest.mark.parametrize(
    ("path", "kind", "size"),
    [
        (lambda t: (0 * t, -0.7 * (1 - (2 * (t / 1.8 % 1) - 1) ** 2), 0 * t), "bounce", 0.7),
        (lambda t: (0.5 * (2 * t).cos(), 0 * t, 0.5 * (2 * t).sin()), "orbit", 1.0),
        (lambda t: (0.3 * t, 0 * t, 0.1 * t), "slide", 3.5 * math.hypot(0.3, 0.1)),
        (lambda t: (0.6 * t.cos(), -0.3 * t.cos() ** 2, 0 * t), "swing", 1.2),
        (lambda t: (0.3 * t, 0.07 * (2 * t).sin(), 0 * t), "swing", 1.05),
        (lambda t: (0.3 * t, 0.04 * (2 * t).sin(), 0 * t), "slide", 1.05),
        (lambda t: (0.05 * t.cos(), 0 * t, 0.05 * t), "in place", None),
    ],
)
def test_a_path_of_a_formula_has_its_kind_and_size(path, kind, size):
    movement = Movement.of(torch.stack(path(SECONDS), -1))
    assert movement.kind == kind
    if size is not None:
        assert movement.size_as(kind) == pytest.approx(size, rel=0.04)


def drawn(points: torch.Tensor, size: int = 64) -> torch.Tensor:
    """Masks [8, T, size, size] of squares of 7 x 7 pixels around points [T, 3]."""
    extrinsics, intrinsics = mean_rig(8, size, size)
    pixels = project(points[None].expand(8, -1, -1), extrinsics, intrinsics)[0]
    masks = torch.zeros(8, len(points), size, size, dtype=torch.bool)
    for view, own in enumerate(pixels.round().long().tolist()):
        for time, (x, y) in enumerate(own):
            masks[view, time, y - 3 : y + 4, x - 3 : x + 4] = True
    return masks


def alone(masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks with nothing else in the grid."""
    return masks, torch.zeros_like(masks)


def test_the_path_comes_back_from_the_middles_in_all_views():
    points = torch.stack([0.4 * SECONDS.cos(), -0.4 + 0 * SECONDS, 0.4 * SECONDS.sin()], -1)
    found = path_of(*alone(drawn(points)))
    assert (found - points).norm(dim=-1).max() < 0.06  # a pixel is 0.03 units
    hidden = drawn(points)
    hidden[2, 5:9, :, :32] = False  # partly behind something in one view
    hidden[:, 12] = False  # nowhere at one time
    assert (path_of(*alone(hidden)) - points).norm(dim=-1).max() < 0.12


def test_views_that_show_no_common_place_or_too_little_have_no_path():
    points = torch.tensor([[0.5, -0.4, 0.3]]).expand(29, -1)
    masks = drawn(points)
    elsewhere = torch.tensor([[-0.5, -0.9, -0.3], [0.6, -0.1, 0.5], [0.0, -0.5, 0.8]])
    apart = torch.stack([drawn(elsewhere[v % 3].expand(29, -1))[v] for v in range(8)])
    assert path_of(*alone(apart)) is None
    masks[:, ::2] = False
    assert path_of(*alone(masks)) is None
    assert path_of(*alone(torch.zeros_like(masks))) is None


@pytest.mark.parametrize("size", [64, 128])
def test_a_path_goes_on_where_something_passes_before_it(size):
    """What is half hidden in all views for a third of the time is where its other side says."""
    points = torch.stack([0.3 * SECONDS - 0.5, -0.3 + 0 * SECONDS, 0.1 + 0 * SECONDS], -1)
    extrinsics, intrinsics = mean_rig(8, size, size)
    pixels = project(points[None].expand(8, -1, -1), extrinsics, intrinsics)[0]
    place = torch.arange(size) + 0.5
    radius = 5 / 64 * size
    x, y = ((place - pixels[..., axis, None]).abs() < radius for axis in (0, 1))
    masks = y[..., None] & x[..., None, :]
    before = torch.zeros_like(masks)
    before[:, 10:20] = (place > pixels[:, 10:20, 0, None])[..., None, :]
    path = path_of(masks & ~before, before)
    assert (path - points).norm(dim=-1).max() < 0.08
    movement = Movement.of(path)
    assert movement.kind == "slide" and movement.size_as("slide") == pytest.approx(
        3.5 * 0.3, rel=0.08
    )


def test_a_point_is_where_most_views_see_it():
    extrinsics, intrinsics = mean_rig(6, 64, 64)
    point = torch.tensor([0.2, -0.3, 0.1])
    pixels = project(point[None], extrinsics, intrinsics)[0][:, 0]
    pixels[2] += 20
    trust = torch.ones(6, 2)
    found, error = triangulate(pixels, trust, extrinsics, intrinsics)
    assert (found - point).norm() < 0.1 and error < 3
    trust[2, 0], trust[2, 1], trust[4] = 0, 0, 0.1
    found, error = triangulate(pixels, trust, extrinsics, intrinsics)
    assert (found - point).norm() < 1e-4 and error < 0.01


def test_what_turns_in_place_changes_its_look():
    mask = torch.zeros(2, 4, 8, 8, dtype=torch.bool)
    mask[..., 2:5, 2:5] = True
    frames = torch.full((2, 4, 3, 8, 8), 0.5)
    assert look_change(mask, frames) == 0
    frames[:, 1::2, 0, 2:5, 2:5] = 0.7  # a deviation of 0.1 of one channel
    assert look_change(mask, frames) == pytest.approx(0.1, abs=1e-5)
    mask[0, :2] = False  # something else is there: its pixels do not count
    frames[0, :2] = 0.0
    assert look_change(mask, frames) == pytest.approx(0.1, abs=1e-5)
    assert look_change(mask & False, frames) == 0
