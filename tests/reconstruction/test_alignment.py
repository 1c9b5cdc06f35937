"""One unit of length for all times, and one camera per view."""

import pytest
import torch

from fourreal.reconstruction import cameras_to_pose_encoding, pose_encoding_to_cameras
from fourreal.reconstruction.alignment import (
    combine_pose_encodings,
    photometric_scale,
    scale_between,
)
from fourreal.scenes import make_scene, scene_seed


def test_pose_encodings_and_cameras_are_inverse_to_each_other():
    torch.manual_seed(0)
    encoding = torch.randn(5, 9)
    encoding[:, 3:7] = torch.nn.functional.normalize(encoding[:, 3:7], dim=-1)
    encoding[:, 6].abs_()
    encoding[:, 7:] = torch.rand(5, 2) + 0.5
    cameras = pose_encoding_to_cameras(encoding, 30, 50)
    assert torch.allclose(cameras_to_pose_encoding(*cameras, 30, 50), encoding, atol=1e-5)
    # Fields of view from the definition: the angle between rays through opposite edges.
    _, intrinsics = cameras
    assert torch.allclose(2 * torch.atan(15 / intrinsics[:, 1, 1]), encoding[:, 7], atol=1e-6)
    assert torch.allclose(2 * torch.atan(25 / intrinsics[:, 0, 0]), encoding[:, 8], atol=1e-6)


def test_scale_is_that_of_the_pixels_that_stand_still():
    reference, sure = torch.full((100,), 2.0), torch.ones(100)
    depth, change = reference * 0.8, torch.zeros(100)
    depth[:60], change[:60] = 0.7, 0.5  # most of the picture is an object that came closer
    depth[99] = 50.0
    assert abs(scale_between(reference, depth, (sure, sure), change) - 1.25) < 1e-6
    # Most still pixels are wrong here, but know it.
    depth, change, unsure = reference * 0.8, torch.zeros(100), torch.ones(100)
    depth[:25], change[45:] = 9.0, 0.5
    depth[45:], unsure[:25] = 0.7, 0.1
    for confidences in ((sure, unsure), (unsure, sure)):
        assert abs(scale_between(reference, depth, confidences, change) - 1.25) < 1e-6


def test_cameras_of_several_times_are_combined_whatever_their_quaternions_signs():
    encodings = torch.tensor([[0.0, 0, 0, 0, 0, 0, 1, 1, 1]]).repeat(3, 1)[:, None]
    encodings[1, :, 3:7] *= -1  # the same rotation
    encodings[2, :, 0] = 3
    mean, median = (combine_pose_encodings(encodings, how)[0] for how in ("mean", "median"))
    assert torch.allclose(mean, torch.tensor([1.0, 0, 0, 0, 0, 0, 1, 1, 1]))
    assert torch.allclose(median, torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 1, 1]))


@pytest.mark.parametrize("size", [64, 160])
def test_the_unit_of_depth_is_the_one_in_which_views_agree(size):
    scene = make_scene(scene_seed("validation", 1), 4, 1, size, size)
    images, depth = scene.frames[:, 0], scene.depth[:, 0]
    cameras = scene.extrinsics, scene.intrinsics
    assert photometric_scale(images, depth, *cameras) == 1
    for wrong in (0.8, 1.1, 1.25):
        found = photometric_scale(images, wrong * depth, *cameras)
        assert found == pytest.approx(1 / wrong, rel=0.02)
    one = [v[:1] for v in (images, depth, *cameras)]
    assert photometric_scale(*one) == 1
    assert photometric_scale(torch.full_like(images, 0.5), depth, *cameras) == 1
