"""Gaussians of the three heads against their formulas."""

import torch

from fourreal.cameras import matrix_to_quaternion, pixel_grid, project
from fourreal.reconstruction import (
    decode_gaussians,
    gaussians_from_depth,
    pose_encoding_to_cameras,
)


def two_cameras():
    encoding = torch.tensor([[0, 0, 0, 0, 0, 0, 1, 0.9, 1.1], [0.3, 0, 0.1, 0, 0.2, 0.1, 1, 1, 1]])
    return pose_encoding_to_cameras(encoding, 6, 8)


def test_the_papers_channels_follow_their_formulas():
    torch.manual_seed(1)
    raw = torch.randn(2, 14, 6, 8)
    raw[:, :3] *= 2
    images, depth = torch.rand(2, 3, 6, 8), torch.rand(2, 6, 8) + 1
    extrinsics, intrinsics = two_cameras()
    gaussians = decode_gaussians(raw, images, depth, extrinsics, intrinsics)
    view, y, x = 1, 4, 2
    n, p = (view * 6 + y) * 8 + x, raw[view, :, y, x].double()
    world = extrinsics[view].double()
    focal = intrinsics[view].double()
    z = depth[view, y, x].double()
    # Splatt3R: offset of length e^(n - 6) - e^(-6) along its direction; here n nears 4.5 at most.
    length = p[:3].norm()
    assert 1 < length < 6
    held = 4.5 * torch.tanh(length / 4.5)
    offset = p[:3] / length * ((held - 6).exp() - torch.tensor(-6.0).double().exp()) * z
    ray = torch.stack(
        [(x + 0.5 - focal[0, 2]) / focal[0, 0], (y + 0.5 - focal[1, 2]) / focal[1, 1], z / z]
    )
    camera = ray * z + offset
    mean = world[:, :3].T @ (camera - world[:, 3])
    assert torch.allclose(gaussians.means[n].double(), mean, atol=1e-5)
    assert torch.allclose(gaussians.opacities[n].double(), 1 / (1 + (-p[3]).exp()), atol=1e-6)
    # Log scale in pixels, which nears 3 at most: a smooth minimum, p - log(1 + e^(p - 3)).
    scales = p[4:7].exp() / (1 + (p[4:7] - 3).exp()) * z / focal[0, 0]
    assert torch.allclose(gaussians.scales[n].double(), scales, atol=1e-5)
    color = gaussians.harmonics[n, 0] * 0.28209479 + 0.5
    wanted = images[view, :, y, x] + 0.28209479 * p[11:].float()
    assert torch.allclose(color, wanted, atol=1e-5)
    # The rotation of a camera-aligned Gaussian is the camera's.
    raw[:, 7:11] = torch.tensor([1.0, 0, 0, 0])[:, None, None]
    turned = decode_gaussians(raw, images, depth, extrinsics, intrinsics).quaternions[n]
    assert torch.allclose(turned, matrix_to_quaternion(extrinsics[view, :, :3].T), atol=1e-6)


def test_the_papers_gaussians_have_finite_gradients_at_a_zero_offset():
    raw = torch.zeros(2, 14, 6, 8, requires_grad=True)
    gaussians = decode_gaussians(raw, torch.rand(2, 3, 6, 8), torch.ones(2, 6, 8), *two_cameras())
    sum(v.square().sum() for v in vars(gaussians).values()).backward()
    assert torch.isfinite(raw.grad).all()
    assert (raw.grad[:, :3].abs().sum() + raw.grad[:, 11:].abs().sum()) > 0


def test_no_head_throws_gaussians_far_or_blows_them_up_for_good():
    """Whatever a head says, a Gaussian stays near its pixel, and a gradient can lead it back."""
    images, depth = torch.rand(2, 3, 6, 8), torch.rand(2, 6, 8) + 1
    cameras = two_cameras()
    home = gaussians_from_depth(images, depth, torch.ones_like(depth), *cameras).means
    footprint = (depth / cameras[1][:, 0, 0, None, None]).flatten()
    wild = (20 * torch.randn(2, 14, 6, 8)).requires_grad_()
    gaussians = decode_gaussians(wild, images, depth, *cameras)
    assert ((gaussians.means - home).norm(dim=-1) < 0.23 * depth.flatten()).all()
    assert (gaussians.scales.amax(-1) < 20.1 * footprint).all()
    far = (3 * torch.randn(2, 14, 6, 8)).abs().add(6).requires_grad_()
    gaussians = decode_gaussians(far, images, depth, *cameras)
    (gaussians.means.square().sum() + gaussians.scales.sum()).backward()
    assert (far.grad[:, :3].abs().amax(1) > 0).all() and (far.grad[:, 4:7] > 0).all()


def test_gaussians_grow_and_move_with_the_unit_of_depth():
    raw = torch.randn(2, 14, 6, 8)
    images, depth = torch.rand(2, 3, 6, 8), torch.rand(2, 6, 8) + 1
    extrinsics, intrinsics = two_cameras()
    once = decode_gaussians(raw, images, depth, extrinsics, intrinsics)
    larger = torch.cat([extrinsics[..., :3], 3 * extrinsics[..., 3:]], dim=-1)
    thrice = decode_gaussians(raw, images, 3 * depth, larger, intrinsics)
    assert torch.allclose(thrice.means, 3 * once.means, atol=1e-4)
    assert torch.allclose(thrice.scales, 3 * once.scales, rtol=1e-4)
    assert torch.allclose(thrice.quaternions, once.quaternions)


def test_the_decoder_without_weights_puts_each_pixel_back_in_place():
    images, depth = torch.rand(2, 3, 6, 8), torch.rand(2, 6, 8) + 1
    confidence = torch.linspace(1, 9, 96).view(2, 6, 8)
    cameras = two_cameras()
    gaussians = gaussians_from_depth(images, depth, confidence, *cameras)
    pixels, distance = project(gaussians.means.view(2, 48, 3), *cameras)
    assert torch.allclose(
        pixels.view(2, 6, 8, 2), pixel_grid(6, 8).expand(2, -1, -1, -1), atol=1e-4
    )
    assert torch.allclose(distance.view(2, 6, 8), depth, atol=1e-5)
    assert torch.allclose(
        gaussians.harmonics[:, 0] * 0.28209479 + 0.5,
        images.movedim(1, -1).reshape(-1, 3),
        atol=1e-5,
    )
    order = gaussians.opacities
    assert order[0] < order[20] < order[47] <= order[60] == order[95] <= 1
