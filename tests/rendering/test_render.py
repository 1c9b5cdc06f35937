"""`render`: background, cameras, times, depth, and what it refuses."""

import pytest
import torch

from fourreal.gaussians import Gaussians, rgb_to_harmonics
from fourreal.rendering import available_backends, render

from .dense_twin import HEIGHT, WIDTH, camera, cloud


def test_no_gaussians_give_the_background():
    result = render(
        Gaussians.empty(), *camera(), WIDTH, HEIGHT, background=torch.tensor([0.2, 0.4, 0.6])
    )
    assert result.color.shape == (1, HEIGHT, WIDTH, 3)
    assert torch.equal(result.color[0, 3, 4], torch.tensor([0.2, 0.4, 0.6]))
    assert not result.alpha.any() and not result.depth.any()


def test_background_fills_what_alpha_leaves():
    extrinsics, intrinsics = (x.expand(2, -1, -1) for x in camera())
    colors = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]])
    black = render(cloud(40), extrinsics, intrinsics, WIDTH, HEIGHT)
    filled = render(cloud(40), extrinsics, intrinsics, WIDTH, HEIGHT, background=colors)
    expected = black.color + (1 - black.alpha) * colors[:, None, None]
    torch.testing.assert_close(filled.color, expected)


def test_each_camera_gets_its_own_image():
    extrinsics, intrinsics = camera()
    other = extrinsics.clone()
    other[0, 0, 3] += 0.4
    both = render(
        cloud(40), torch.cat([extrinsics, other]), intrinsics.expand(2, 3, 3), WIDTH, HEIGHT
    )
    for i, view in enumerate((extrinsics, other)):
        single = render(cloud(40), view, intrinsics, WIDTH, HEIGHT)
        assert torch.equal(both.color[i : i + 1], single.color)


def test_times_and_cameras_come_in_one_call():
    extrinsics, intrinsics = (x.expand(2, -1, -1) for x in camera())
    times = [cloud(20), Gaussians.empty(), cloud(30, seed=2)]
    result = render(times, extrinsics, intrinsics, WIDTH, HEIGHT)
    assert result.color.shape == (3, 2, HEIGHT, WIDTH, 3)
    assert result.depth.shape == (3, 2, HEIGHT, WIDTH, 1)
    for time, g in enumerate(times):
        single = render(g, extrinsics, intrinsics, WIDTH, HEIGHT)
        assert torch.equal(result.color[time], single.color)
        assert torch.equal(result.alpha[time], single.alpha)


def test_depth_of_an_opaque_wall_is_its_distance():
    y, x = torch.meshgrid(torch.linspace(-3, 3, 40), torch.linspace(-3, 3, 40), indexing="ij")
    means = torch.stack([x, y, torch.full_like(x, 2.5)], -1).view(-1, 3)
    wall = Gaussians(
        means,
        torch.tensor([[1.0, 0, 0, 0]]).expand(1600, 4),
        torch.tensor([[0.2, 0.2, 1e-4]]).expand(1600, 3),
        torch.full((1600,), 0.9),
        rgb_to_harmonics(torch.tensor([[0.25, 0.5, 0.75]])).expand(1600, 1, 3),
    )
    intrinsics = torch.tensor([[[30.0, 0, 16], [0, 30, 16], [0, 0, 1]]])
    result = render(wall, torch.eye(3, 4)[None], intrinsics, 32, 32)
    torch.testing.assert_close(result.depth, torch.full_like(result.depth, 2.5))
    torch.testing.assert_close(
        result.color[0, 16, 16], torch.tensor([0.25, 0.5, 0.75]), atol=1e-3, rtol=0
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="checks machines without CUDA")
def test_without_cuda_only_the_torch_backend_works():
    assert available_backends() == ("torch",)
    with pytest.raises(ValueError, match="CUDA"):
        render(cloud(1), *camera(), WIDTH, HEIGHT, backend="gsplat")


def test_wrong_backends_degrees_shapes_and_sizes_are_named():
    extrinsics, intrinsics = camera()
    with pytest.raises(ValueError, match="auto, torch, gsplat"):
        render(cloud(1), extrinsics, intrinsics, 8, 8, backend="magic")
    with pytest.raises(ValueError, match="1, 4, 9, 16 or 25"):
        broken = cloud(3)
        broken.harmonics = torch.zeros(3, 2, 3)
        render(broken, extrinsics, intrinsics, 8, 8)
    with pytest.raises(ValueError, match=r"\[C, 3, 4\]"):
        render(cloud(1), extrinsics[0], intrinsics, 8, 8)
    with pytest.raises(ValueError, match="0 x 8"):
        render(cloud(1), extrinsics, intrinsics, 0, 8)
