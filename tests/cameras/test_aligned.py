"""Cameras come back from a world that is turned, moved and scaled."""

import pytest
import torch

from fourreal.cameras import aligned_cameras, camera_centers, extrinsics_at, look_at, project


def rig(num_views):
    angle = torch.linspace(-0.5, 0.5, num_views).double()
    position = torch.stack([3 * angle.sin(), -1 + 0.2 * angle, -3 * angle.cos()], -1)
    target = torch.zeros(num_views, 3, dtype=torch.float64)
    return look_at(position, target, torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64))


def moved(extrinsics, scale=2.5):
    """The same cameras in a world that is turned by 40 degrees, moved and scaled."""
    turn = torch.matrix_exp(0.7 * torch.tensor([[0.0, 0, 1], [0, 0, 0], [-1, 0, 0]]).double())
    centers = scale * camera_centers(extrinsics) @ turn.T + torch.tensor([1.0, 2, 3]).double()
    return extrinsics_at(centers, extrinsics[..., :3] @ turn.T)


@pytest.mark.parametrize("shared", [[0, 2, 4, 6], [0, 1]])
def test_other_cameras_come_along_with_the_shared_ones(shared):
    cameras = rig(8)
    wanted = moved(cameras)
    found = aligned_cameras(cameras, cameras[shared], wanted[shared])
    torch.testing.assert_close(found, wanted)


def test_noise_in_the_shared_cameras_is_spread_over_all():
    cameras = rig(8)
    wanted = moved(cameras)
    noise = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).double() * 0.01
    noisy = extrinsics_at(camera_centers(wanted[::2]) + noise, wanted[::2, :, :3])
    found = aligned_cameras(cameras, cameras[::2], noisy)
    assert (camera_centers(found) - camera_centers(wanted)).norm(dim=-1).max() < 0.03


def test_cameras_in_one_place_keep_their_unit():
    cameras = rig(1)
    other = moved(rig(3))[1:2]
    found = aligned_cameras(torch.cat([cameras, rig(3)]), cameras, other)
    torch.testing.assert_close(found[:1], other)
    assert project(torch.zeros(1, 3).double(), found, torch.eye(3).double())[1].isfinite().all()
