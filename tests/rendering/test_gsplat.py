"""gsplat without a GPU: its signature, its own torch formulas, and the way our backend calls it."""

import inspect
import math

import pytest
import torch

from fourreal.cameras import look_at
from fourreal.gaussians import Gaussians
from fourreal.rendering import gsplat_backend, render

from ..pretend_cuda import PretendCuda

pytest.importorskip("gsplat", reason="gsplat is not installed (extra `test`)")
from . import gsplat_stand_in

WIDTH, HEIGHT = 40, 30


def splats(degree: int, count: int = 60) -> Gaussians:
    r = torch.Generator().manual_seed(degree)
    return Gaussians(
        torch.randn(count, 3, generator=r) * 0.7,
        torch.randn(count, 4, generator=r),
        torch.rand(count, 3, generator=r) * 0.12 + 0.01,
        torch.rand(count, generator=r) * 0.94 + 0.05,
        torch.randn(count, (degree + 1) ** 2, 3, generator=r) * 0.4,
    )


def cameras() -> tuple[torch.Tensor, torch.Tensor]:
    up = torch.tensor([0.1, -1.0, 0.0])
    eyes = torch.tensor([[0.3, -0.2, -3.0], [-1.5, 0.4, -2.5]])
    extrinsics = torch.stack([look_at(eye, torch.zeros(3), up) for eye in eyes])
    intrinsics = torch.tensor([[44.0, 0, 21.3], [0, 38.0, 14.2], [0, 0, 1]])
    return extrinsics, intrinsics.expand(2, 3, 3)


def decibel(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * math.log10(float((a - b).square().mean()) + 1e-20)


def test_the_stand_in_has_the_signature_of_the_package():
    import gsplat

    own = inspect.signature(gsplat_stand_in.rasterization).parameters
    real = inspect.signature(gsplat.rendering.rasterization).parameters
    assert list(own) == list(real)
    for name, parameter in real.items():
        if name != "rolling_shutter":  # its default is an enumeration of the compiled extension
            assert own[name].default == parameter.default, name


@pytest.mark.parametrize("antialiased", [False, True], ids=["classic", "antialiased"])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_the_torch_rasterizer_equals_gsplats_own_formulas(degree, antialiased):
    g, (extrinsics, intrinsics) = splats(degree), cameras()
    own = render(g, extrinsics, intrinsics, WIDTH, HEIGHT, antialiased=antialiased, backend="torch")
    homogeneous = torch.cat([extrinsics, torch.tensor([[[0, 0, 0, 1.0]]]).expand(2, 1, 4)], 1)
    sums, alpha, _ = gsplat_stand_in.rasterization(
        g.means,
        g.quaternions,
        g.scales,
        g.opacities,
        g.harmonics,
        homogeneous,
        intrinsics,
        WIDTH,
        HEIGHT,
        sh_degree=degree,
        render_mode="RGB+D",
        rasterize_mode="antialiased" if antialiased else "classic",
    )
    assert float(alpha.mean()) > 0.1  # enough is drawn
    assert (own.color - sums[..., :3]).abs().max() < 1e-5
    assert (own.alpha - alpha).abs().max() < 1e-5
    assert (own.depth * own.alpha - sums[..., 3:]).abs().max() < 1e-4


@pytest.mark.parametrize("antialiased", [False, True], ids=["classic", "antialiased"])
def test_render_takes_gsplat_for_tensors_on_cuda_and_gives_torchs_image(antialiased, monkeypatch):
    g, (extrinsics, intrinsics) = splats(2), cameras()
    plain = render(g, extrinsics, intrinsics, WIDTH, HEIGHT, antialiased=antialiased)
    calls = gsplat_stand_in.install(monkeypatch)
    gsplat_backend.why_not.cache_clear()
    try:
        with PretendCuda():
            on_device = g.map(lambda x: x.to("cuda"))
            options = {"antialiased": antialiased, "background": torch.tensor([0.2, 0.4, 0.6])}
            image = render(on_device, extrinsics, intrinsics, WIDTH, HEIGHT, **options)
            assert {x.device.type for x in vars(image).values()} == {"cuda"}
            color, depth = image.color.cpu(), image.depth.cpu()
    finally:
        gsplat_backend.why_not.cache_clear()
    assert len(calls) == 1 and calls[0]["sh_degree"] == 2 and calls[0]["near_plane"] > 0
    over = plain.color + (1 - plain.alpha) * torch.tensor([0.2, 0.4, 0.6])
    assert decibel(color, over) > 60
    assert (depth - plain.depth).abs().max() < 1e-3


def test_nothing_to_draw_is_not_sent_to_gsplat(monkeypatch):
    calls = gsplat_stand_in.install(monkeypatch)
    gsplat_backend.why_not.cache_clear()
    try:
        with PretendCuda():
            empty = splats(0, 0).map(lambda x: x.to("cuda"))
            image = render(empty, *cameras(), WIDTH, HEIGHT, background=torch.ones(3))
            assert float(image.color.cpu().mean()) == 1.0 and not calls
    finally:
        gsplat_backend.why_not.cache_clear()
