"""Metrics of images and grids against what is known of exact scenes."""

import math

import pytest
import torch

from fourreal.metrics.pixels import (
    gradient_energy,
    mean_psnr,
    moving_region,
    psnr,
    smoothness,
    ssim,
)
from fourreal.scenes import make_scene, scene_seed

SIZE = 48


@pytest.fixture(scope="module")
def scene():
    return make_scene(scene_seed("validation", 2), 4, 5, SIZE, SIZE)


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


def test_the_mean_psnr_is_that_of_frames_and_not_of_their_mean_error():
    """Frames of 20 and 40 dB have 30 dB in the mean, but 23 dB of mean error."""
    exact = torch.zeros(1, 2, 3, 4, 4)
    other = exact.clone()
    other[0, 0], other[0, 1] = 0.1, 0.01
    assert mean_psnr(other, exact) == pytest.approx(30, abs=1e-3)
    assert psnr(other, exact) == pytest.approx(23, abs=0.1)
    assert mean_psnr(exact, exact) == 60  # equal frames count as this
    mask = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    mask[0, 0, 0] = True  # the second frame has no such pixel
    assert mean_psnr(other, exact, mask) == pytest.approx(20, abs=1e-3)
    assert math.isnan(mean_psnr(other, exact, mask & False))


def test_gradient_energy_is_the_mean_square_of_steps():
    ramp = (torch.arange(8.0) * 0.1).expand(3, 8, 8)
    assert gradient_energy(ramp) == pytest.approx(0.01)
    blurred = torch.nn.functional.avg_pool2d(torch.eye(8)[None], 3, 1, 1)
    assert gradient_energy(blurred) < 0.5 * gradient_energy(torch.eye(8)[None])
