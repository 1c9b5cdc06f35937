"""A stand-in for gsplat 1.5.3's CUDA rasterization: its signature, and its own torch formulas.

Projection, compensation and harmonics come from the package (gsplat/cuda/_torch_impl.py); the sums
over a pixel's splats, which only its CUDA kernel does at this size, are a plain loop from front to
back: alpha at most 0.999, none below 1/255, stop when less than 1e-4 of the light is left.
"""

import sys
from types import ModuleType

import torch
from gsplat.cuda._torch_impl import (
    _fully_fused_projection,
    _quat_scale_to_covar_preci,
    _spherical_harmonics,
)
from torch import Tensor

calls: list[dict] = []  # the arguments of each call, by name


def colors_with_depth(means, harmonics, viewmats, depths, degree) -> Tensor:
    """[C, N, 4]: colours as seen from each camera, and z-depth."""
    directions = means[None] - torch.linalg.inv(viewmats)[:, None, :3, 3]
    bases = harmonics[None].expand(len(viewmats), -1, -1, -1)
    colors = (_spherical_harmonics(degree, directions, bases) + 0.5).clamp_min(0.0)
    return torch.cat([colors, depths[..., None]], -1)


def composite(order, means2d, conics, opacities, features, pixels) -> tuple[Tensor, Tensor]:
    """Sums [P, 4] and alpha [P, 1] of pixels [P, 2], splats from front to back."""
    sums = features.new_zeros(len(pixels), features.shape[-1])
    light = features.new_ones(len(pixels))
    running = torch.ones_like(light, dtype=torch.bool)
    for i in order:
        d = pixels - means2d[i]
        a, b, c = conics[i]
        sigma = 0.5 * (a * d[:, 0] ** 2 + c * d[:, 1] ** 2) + b * d[:, 0] * d[:, 1]
        alpha = (opacities[i] * torch.exp(-sigma)).clamp_max(0.999)
        alpha = torch.where((sigma >= 0) & (alpha >= 1 / 255), alpha, torch.zeros_like(alpha))
        after = light * (1 - alpha)
        running = running & ~((alpha > 0) & (after <= 1e-4))
        drawn = torch.where(running, alpha * light, torch.zeros_like(light))
        sums = sums + drawn[:, None] * features[i]
        light = torch.where(running, after, light)
    return sums, 1 - light[:, None]


def rasterization(
    means,
    quats,
    scales,
    opacities,
    colors,
    viewmats,
    Ks,
    width,
    height,
    near_plane=0.01,
    far_plane=1e10,
    radius_clip=0.0,
    eps2d=0.3,
    sh_degree=None,
    packed=True,
    tile_size=16,
    backgrounds=None,
    render_mode="RGB",
    sparse_grad=False,
    absgrad=False,
    rasterize_mode="classic",
    channel_chunk=32,
    distributed=False,
    camera_model="pinhole",
    segmented=False,
    covars=None,
    with_ut=False,
    with_eval3d=False,
    radial_coeffs=None,
    tangential_coeffs=None,
    thin_prism_coeffs=None,
    ftheta_coeffs=None,
    rolling_shutter=None,
    viewmats_rs=None,
):
    """Images [C, H, W, 4] (colour and depth sums), alphas [C, H, W, 1] and meta."""
    calls.append(dict(locals()))
    count, cameras = len(means), len(viewmats)
    assert means.shape == (count, 3) and quats.shape == (count, 4) and scales.shape == (count, 3)
    assert opacities.shape == (count,) and colors.shape[::2] == (count, 3) and sh_degree is not None
    assert viewmats.shape == (cameras, 4, 4) and Ks.shape == (cameras, 3, 3)
    assert render_mode == "RGB+D" and backgrounds is None and rolling_shutter is None
    assert {x.dtype for x in (means, quats, scales, opacities, colors, viewmats, Ks)} == {
        torch.float32
    }
    covariances, _ = _quat_scale_to_covar_preci(quats, scales, True, False)
    antialiased = rasterize_mode == "antialiased"
    radii, means2d, depths, conics, compensations = _fully_fused_projection(
        means, covariances, viewmats, Ks, width, height, eps2d, near_plane, far_plane, antialiased
    )
    opacities = opacities[None].expand(cameras, -1)
    if compensations is not None:
        opacities = opacities * compensations
    features = colors_with_depth(means, colors, viewmats, depths, sh_degree)
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = (torch.stack([xs, ys], -1).view(-1, 2) + 0.5).to(means)
    images, alphas = [], []
    for camera in range(cameras):
        seen = (radii[camera] > 0).all(-1).tolist()
        order = [i for i in depths[camera].argsort().tolist() if seen[i]]
        parts = (means2d[camera], conics[camera], opacities[camera], features[camera])
        image, alpha = composite(order, *parts, pixels)
        images.append(image.view(height, width, -1))
        alphas.append(alpha.view(height, width, 1))
    return torch.stack(images), torch.stack(alphas), {}


def install(monkeypatch) -> list[dict]:
    """Make `import gsplat` find this one, with a compiled extension; returns the list of calls."""
    package, backend = ModuleType("gsplat"), ModuleType("gsplat.cuda._backend")
    package.rasterization = rasterization
    backend._C = object()
    monkeypatch.setitem(sys.modules, "gsplat", package)
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", backend)
    calls.clear()
    return calls
