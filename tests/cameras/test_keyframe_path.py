"""Paths through keyframes at frames of their own."""

import pytest
import torch

from fourreal.cameras import (
    camera_centers,
    interpolate_cameras,
    keyframe_path,
    look_at,
    pixel_intrinsics,
)

UP = torch.tensor([0.0, -1, 0])
EYES = torch.tensor([[0.0, 0, 0], [1.0, -0.5, 0.2], [2.0, 0, 1]])


def path(frames: list[float], num_frames: int = 9, num_times: int = 9):
    count = len(frames)
    lenses = pixel_intrinsics(torch.tensor([0.9, 0.6, 0.8]), 48, 64)
    return keyframe_path(
        look_at(EYES, torch.tensor([0.0, 0, 4]), UP)[:count],
        lenses[:count],
        torch.tensor(frames),
        (64, 48),
        num_frames,
        num_times,
    )


def test_the_camera_is_at_each_keyframe_in_its_frame_and_stands_around_them():
    along = path([2.0, 3.0, 7.0])
    centers = camera_centers(along.extrinsics)
    for frame, eye in ((0, 0), (1, 0), (2, 0), (3, 1), (7, 2), (8, 2)):
        assert torch.allclose(centers[frame], EYES[eye], atol=1e-6)
    assert along.times.tolist() == list(range(9)) and (along.width, along.height) == (64, 48)
    # Between them an even pace along the spline, the lens too.
    quarters = torch.tensor([1.25, 1.5, 1.75])
    expected = interpolate_cameras(look_at(EYES, torch.tensor([0.0, 0, 4]), UP), quarters)
    assert torch.allclose(along.extrinsics[4:7], expected, atol=1e-6)
    assert torch.allclose(along.intrinsics[3], pixel_intrinsics(torch.tensor(0.6), 48, 64))


def test_one_keyframe_stands_and_a_still_scene_shows_its_only_time():
    along = path([5.0], num_frames=7, num_times=1)
    assert len(along.extrinsics) == 7 and along.times.tolist() == [0] * 7
    assert torch.allclose(camera_centers(along.extrinsics), EYES[:1].expand(7, 3), atol=1e-6)


@pytest.mark.parametrize("frames", [[3.0, 2.0], [2.0, 2.0], [-1.0, 2.0]])
def test_keyframes_that_do_not_rise_are_refused(frames):
    with pytest.raises(ValueError, match="but must rise from 0 or more"):
        path(frames)
