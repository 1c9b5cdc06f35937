"""Scenes far from the origin are packed around their center, and their cameras with them."""

import json

import numpy as np
import pytest
import torch

from fourreal.cameras import camera_centers
from fourreal.gaussians import GaussianScene
from fourreal.viewer import pack_gaussians, scene_files

from ..tiny import cloud


def positions(part, count):
    """The positions in a packed part: three half floats behind a word of colour."""
    packed = np.frombuffer(part[: 16 * count], np.uint8).reshape(count, 16)
    return np.frombuffer(packed[:, 4:10].tobytes(), "<f2").reshape(count, 3).astype(np.float64)


@pytest.mark.parametrize("place", [(0, 0, 0), (1000, -2000, 500), (1e5, 1e5, 0)])
def test_positions_are_as_fine_far_out_as_at_the_origin(place):
    still, moving = cloud(300, 1), cloud(50, 0, 1)
    for g in (still, moving):
        g.means = (g.means.double() + torch.tensor(place, dtype=torch.float64)).float()
    extrinsics = torch.eye(3, 4)[None].clone()
    extrinsics[0, :, 3] = -torch.tensor(place, dtype=torch.float32)
    scene = GaussianScene(still, [moving], extrinsics, torch.eye(3)[None], 8, 8)
    files = scene_files(scene)
    about = json.loads(files["scene.json"]())
    center = np.array(about["center"])
    for g, part in ((still, "static.bin"), (moving, "0.bin")):
        shown = positions(files[part](), len(g)) + center
        reach = np.abs(g.means.double().numpy() - center).max()
        assert np.abs(shown - g.means.double().numpy()).max() <= reach * 2**-11
    shown = camera_centers(torch.tensor(about["extrinsics"], dtype=torch.float64))[0].numpy()
    np.testing.assert_allclose(shown + center, place, atol=1e-6)


def test_a_center_of_its_own_is_taken_off():
    g = cloud(20, 0)
    g.means += 1000
    packed = pack_gaussians(g, center=(1000, 1000, 1000)).tobytes()
    assert np.abs(positions(packed, 20) + 1000 - g.means.double().numpy()).max() < 4e-3


def test_a_scene_without_gaussians_has_the_origin_as_its_center():
    from fourreal.gaussians import Gaussians

    empty = Gaussians.empty()
    scene = GaussianScene(empty, [empty], torch.eye(3, 4)[None], torch.eye(3)[None], 8, 8)
    assert json.loads(scene_files(scene)["scene.json"]())["center"] == [0, 0, 0]
