"""Metrics of images and grids against what is known of exact scenes."""

import math

import pytest
import torch

from fourreal.metrics.pixels import (
    color_shares,
    moving_region,
    psnr,
    smoothness,
    ssim,
    view_consistency,
)
from fourreal.scenes import make_scene, scene_seed

SIZE = 48


@pytest.fixture(scope="module")
def scene():
    return make_scene(scene_seed("validation", 2), 4, 5, SIZE, SIZE)


def geometry(scene):
    return scene.depth, scene.extrinsics, scene.intrinsics


def test_exact_views_agree_and_shifted_ones_do_not(scene):
    exact = view_consistency(scene.frames, *geometry(scene))
    assert exact > 27  # pixels are interpolated
    shifted = scene.frames.clone()
    shifted[1] = shifted[1].roll(3, -1)
    assert view_consistency(shifted, *geometry(scene)) < exact - 3
    flat = torch.full_like(scene.frames, 0.5)
    flat[::2] += 0.1
    assert view_consistency(flat, *geometry(scene)) == pytest.approx(20, abs=1e-3)


def test_smoothness_is_of_the_axis_asked_for():
    frames = torch.zeros(3, 4, 3, 16, 16)
    frames[1] = 0.2
    assert smoothness(frames, 1) == pytest.approx(100)
    assert smoothness(frames, 0) == pytest.approx(80)


def test_moving_pixels_are_those_that_differ_from_the_first_time_and_their_neighbours(scene):
    """Of one bright pixel, and of a scene with known motion."""
    frames = torch.zeros(1, 3, 3, 16, 16)
    frames[0, 1, 1, 8, 8] = 0.07
    frames[0, 2, 1, 8, 8] = 0.05  # less than what counts
    region = moving_region(frames)
    assert region[0, 1, 6:11, 6:11].all() and region.sum() == 25
    exact = scene.frames
    region = moving_region(exact)
    assert not region[:, 0].any() and region[:, 1:].any()
    assert region[scene.moving & (exact - exact[:, :1]).abs().amax(2).gt(0.06)].all()


def test_every_named_colour_is_found_and_hardly_any_other():
    named, others = [], []
    for index in range(8):
        scene = make_scene(scene_seed("validation", index), 2, 2, 64, 64)
        for color, share in color_shares(scene.frames).items():
            (named if color in scene.caption.split() else others).append(float(share.min()))
    assert len(named) > 5 and min(named) > 0.004 > max(others)


def test_ssim_and_psnr_of_equal_and_of_brighter_images():
    images = torch.rand(2, 2, 3, 16, 16)
    assert ssim(images, images) == pytest.approx(1, abs=1e-4)
    assert psnr(images, images) == float("inf")
    assert psnr(images, images + 0.1) == pytest.approx(20, abs=1e-3)


def test_psnr_may_be_of_some_pixels_only():
    images, mask = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.bool)
    other = images.clone()
    other[0, :, 0, 0], mask[0, 0, :2] = 0.1, True  # one of two pixels differs
    assert psnr(images, other, mask) == pytest.approx(20 + 3.0103, abs=1e-3)
    assert math.isnan(psnr(images, other, torch.zeros_like(mask)))
