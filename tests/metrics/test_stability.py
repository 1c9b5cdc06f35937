"""Jitter of cameras and flicker of still pixels against their formulas."""

import pytest
import torch

from fourreal.cameras import camera_centers
from fourreal.metrics.stability import camera_jitter, flicker, still_pixels


def test_camera_jitter_is_the_deviation_of_centres_in_percent_of_the_rig():
    torch.manual_seed(0)
    still = torch.eye(4)[:3].repeat(5, 3, 1, 1)
    still[:, 1, 0, 3], still[:, 2, 0, 3] = 2.0, -2.0
    assert camera_jitter(still) == 0
    shaken = still.clone()
    shaken[:, 1:, 1, 3] += torch.tensor([0.1, -0.1, 0.1, -0.1, 0.0])[:, None]
    centers = camera_centers(shaken)
    wanted = centers[:, 1:].std(0, correction=0).norm(dim=-1).sum() / 3
    size = (centers[:, 1:] - centers[:, :1]).norm(dim=-1).mean()
    assert camera_jitter(shaken) == pytest.approx(float(100 * wanted / size), rel=1e-5)


def test_flicker_counts_still_pixels_only():
    frames = torch.full((1, 3, 3, 4, 4), 0.5)
    frames[:, 1] += 10 / 255
    frames[:, :, :, 0] = torch.rand(3, 3, 4)  # moves
    still = torch.ones(1, 2, 4, 4, dtype=torch.bool)
    still[:, :, 0] = False
    assert flicker(frames, still) == pytest.approx(10, rel=1e-5)


def test_pixels_stand_still_while_no_colour_channel_changes_by_two_levels():
    frames = torch.full((1, 2, 3, 4, 4), 100 / 255)
    frames[0, 1, 0, 1, 1] += 1 / 255
    frames[0, 1, 2, 2, 3] -= 2 / 255
    still = still_pixels(frames)
    assert still.shape == (1, 1, 4, 4) and still.sum() == 15 and not still[0, 0, 2, 3]
