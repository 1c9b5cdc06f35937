"""A dynamic scene along a camera path."""

import pytest
import torch

from fourreal.cameras import CameraPath
from fourreal.gaussians import GaussianScene
from fourreal.rendering import render, render_path

from .dense_twin import HEIGHT, WIDTH, camera, cloud


def dynamic_scene():
    extrinsics, intrinsics = camera()
    moving = [cloud(30, 1, seed=5), cloud(0), cloud(20, 0, seed=6)]
    return GaussianScene(cloud(50, seed=4), moving, extrinsics, intrinsics, WIDTH, HEIGHT)


def test_a_path_shows_each_camera_at_its_time():
    scene = dynamic_scene()
    extrinsics = scene.extrinsics.repeat(5, 1, 1)
    extrinsics[:, 0, 3] += torch.linspace(0, 0.5, 5)
    times = torch.tensor([0, 2, 2, 1, 0])
    path = CameraPath(extrinsics, scene.intrinsics.expand(5, 3, 3), times, WIDTH, HEIGHT)
    calls = []
    background = torch.tensor([0.1, 0.2, 0.3])
    color, alpha, depth = render_path(
        scene, path, background=background, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(k, 5) for k in range(1, 6)]
    for k, time in enumerate(times.tolist()):
        frame = render(
            scene.at(time),
            extrinsics[k : k + 1],
            scene.intrinsics,
            WIDTH,
            HEIGHT,
            background=background,
        )
        torch.testing.assert_close(color[k : k + 1], frame.color)
        torch.testing.assert_close(alpha[k : k + 1], frame.alpha)
        torch.testing.assert_close(depth[k : k + 1], frame.depth)


def test_a_path_outside_the_scene_is_refused():
    scene = dynamic_scene()
    path = CameraPath(scene.extrinsics, scene.intrinsics, torch.tensor([3]), WIDTH, HEIGHT)
    with pytest.raises(ValueError, match="times 0 to 2"):
        render_path(scene, path)


def test_progress_can_end_the_work():
    scene = dynamic_scene()
    path = CameraPath(scene.extrinsics, scene.intrinsics, torch.tensor([0]), WIDTH, HEIGHT)

    def cancel(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_path(scene, path, progress=cancel)
