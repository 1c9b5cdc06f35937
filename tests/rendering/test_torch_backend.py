"""The torch rasterizer's images and gradients against a plain float64 twin, and what it skips."""

import subprocess
import sys

import pytest
import torch

from fourreal.gaussians import Gaussians
from fourreal.rendering import composite, render
from fourreal.rendering.harmonics import harmonic_basis
from fourreal.rendering.projection import View, project_gaussians
from fourreal.rendering.tiles import TILE, list_tiles

from .dense_twin import FIELDS, HEIGHT, WIDTH, camera, cloud, one, twin, twin_basis

SPECIAL = {
    "one": one((0.1, 0.2, 0.3), (0.1, 0.2, 0.15)),
    "tiny": one((0.1, 0.2, 0.3), (1e-5, 1e-5, 1e-5)),
    "huge": one((0.3, -0.1, 1.0), (50.0, 40.0, 30.0)),
    "needle": one((0.0, 0.0, 0.0), (2.0, 1e-4, 1e-4), quaternion=(0.9, 0.1, 0.2, 0.4)),
    "long needle from outside": one(
        (3.0, 2.2, 0.0), (6.0, 1e-3, 1e-3), quaternion=(0.945, 0.0, 0.0, 0.327)
    ),
    "saturated": one((0.0, 0.0, 0.0), (5.0, 4.0, 6.0), opacity=1.0),
    "just in front of the near plane": one((0.3, -0.2, -2.98), (0.01, 0.02, 0.01)),
    "beside the camera": one((2.5, -0.2, -2.8), (0.3, 0.3, 0.3)),
    "behind the near plane": one((0.3, -0.2, -2.995), (0.1, 0.1, 0.1)),
    "off screen": one((9.0, 0.0, 0.0), (0.1, 0.1, 0.1)),
    "zero opacity": one((0.1, 0.2, 0.3), (0.1, 0.2, 0.15), opacity=0.0),
    "none": Gaussians.empty(),
}


UNSEEN = ("behind the near plane", "off screen", "zero opacity", "none")


def assert_close_to_the_twin(gaussians, extrinsics, intrinsics, antialiased=False):
    """Compare images (1e-4) and gradients of a random objective (1e-3, relative)."""
    single = gaussians.map(lambda x: x.clone().requires_grad_())
    double = gaussians.map(lambda x: x.clone().double().requires_grad_())
    result = render(single, extrinsics, intrinsics, WIDTH, HEIGHT, antialiased=antialiased)
    camera = extrinsics[0].double(), intrinsics[0].double()
    expected = twin(double, *camera, WIDTH, HEIGHT, antialiased)
    r = torch.Generator().manual_seed(1)
    # Where nothing is drawn the twin's images depend on nothing.
    objective, reference = 0.0, sum(0 * getattr(double, name).sum() for name in FIELDS)
    for image, truth in zip((result.color, result.alpha, result.depth), expected):
        torch.testing.assert_close(image[0].double(), truth, atol=1e-4, rtol=1e-5)
        weights = torch.randn(truth.shape, generator=r, dtype=torch.float64)
        objective = objective + (image[0] * weights.float()).sum()
        reference = reference + (truth * weights).sum()
    objective.backward()
    reference.backward()
    largest = max(getattr(double, name).grad.norm() for name in FIELDS)
    for name in FIELDS:
        value, truth = getattr(single, name).grad.double(), getattr(double, name).grad
        # The second term is for gradients that are zero, as that of a sphere's rotation.
        error, limit = (value - truth).norm(), 1e-3 * truth.norm() + 1e-6 * largest
        assert error <= limit, f"{name}: {error} of {truth.norm()}"
    return result


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("degree", range(5))
def test_images_and_gradients_are_those_of_the_dense_twin(degree, antialiased):
    g = cloud(120, degree, seed=degree)
    assert_close_to_the_twin(g, *camera(), antialiased)


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("name", SPECIAL)
def test_extreme_gaussians_are_those_of_the_dense_twin(name, antialiased):
    result = assert_close_to_the_twin(SPECIAL[name], *camera(), antialiased)
    if name in UNSEEN:
        assert not result.alpha.any()
    elif not antialiased and name not in ("tiny", "beside the camera"):
        assert result.alpha.max() > 0.3


def test_long_lists_stop_where_the_light_is_used_up():
    g = cloud(500, seed=3)
    g.means *= 0.3  # several chunks per tile
    g.opacities = 0.5 + 0.5 * g.opacities
    result = assert_close_to_the_twin(g, *camera())
    assert result.alpha.max() > 0.9999 - 1e-3
    assert result.alpha.max() <= 1 + 1e-6


def test_a_tile_lists_the_splats_that_it_shows_and_hardly_more():
    extrinsics, intrinsics = camera()
    gaussians = cloud(400)
    gaussians.scales[:, 0] *= 6  # long ones in every direction
    splats = project_gaussians(gaussians, View(extrinsics[0], intrinsics[0], WIDTH, HEIGHT))
    lists = list_tiles(splats, WIDTH, HEIGHT)
    owners = torch.repeat_interleave(lists.tiles, lists.counts)
    listed = torch.zeros(lists.tiles_x * lists.tiles_y, len(gaussians), dtype=torch.bool)
    order = torch.cat([torch.arange(s, s + n) for s, n in zip(lists.starts, lists.counts)])
    listed[owners, lists.splats[order].long()] = True

    centers = [torch.arange(TILE * n) + 0.5 for n in (lists.tiles_y, lists.tiles_x)]
    y, x = torch.meshgrid(*centers, indexing="ij")
    mean_x, mean_y, p, h, q, log_opacity = splats.geometry.double()[..., None, None]
    dx, dy = x - mean_x, y - mean_y
    alpha = (log_opacity - ((p * dx) ** 2 + (q * dy - h * dx) ** 2) / 2).exp()
    seen = (alpha >= 1 / 255).unflatten(2, (-1, TILE)).unflatten(1, (-1, TILE)).any(-1).any(2)
    seen = seen.flatten(1).T
    assert not (seen & ~listed).any()
    assert listed.sum() < 1.1 * seen.sum()


def test_what_is_hidden_gets_no_gradient():
    wall = cloud(40, seed=8)
    wall.scales = wall.scales + 1.0
    wall.opacities[:] = 0.998
    wall.means[20:, 2] += 20.0  # far behind the others, in the same chunk
    wall = wall.map(lambda x: x.requires_grad_())
    (100 * render(wall, *camera(), WIDTH, HEIGHT).color).sum().backward()
    for name in FIELDS:
        assert getattr(wall, name).grad[:20].any()
        assert not getattr(wall, name).grad[20:].any()


def test_small_blocks_give_the_same_image_and_gradient(monkeypatch):
    g = cloud(300, 1)
    for name, value in {"BLOCK_ELEMENTS_CPU": 2**14, "CHUNK": 16}.items():
        monkeypatch.setattr(composite, name, value)
    assert_close_to_the_twin(g[:150], *camera())


def test_what_cannot_be_seen_changes_nothing():
    g, (extrinsics, intrinsics) = cloud(40), camera()
    hidden = Gaussians.concatenate(
        [
            one((0.3, -0.2, -3.2), (0.5, 0.5, 0.5)),  # behind the camera
            one((0.3, -0.2, -2.995), (0.1, 0.1, 0.1)),  # nearer than the near plane
            one((9.0, 0.0, 0.0), (0.1, 0.1, 0.1)),  # off screen
            one((0.0, 0.0, 0.0), (0.1, 0.1, 0.1), opacity=0.0),
            one((float("nan"), 0.0, 0.0), (0.1, 0.1, 0.1)),
            one((0.0, 0.0, 0.0), (float("inf"), 0.1, 0.1)),
        ]
    )
    alone = render(g, extrinsics, intrinsics, WIDTH, HEIGHT)
    both = Gaussians.concatenate([hidden, g])
    both = render(both, extrinsics, intrinsics, WIDTH, HEIGHT)
    assert torch.equal(alone.color, both.color)
    assert torch.equal(alone.depth, both.depth)


def test_invisible_gaussians_get_zero_gradients_that_are_finite():
    g = Gaussians.concatenate(
        [
            one((0.3, -0.2, -3.2), (0.5, 0.5, 0.5)),
            one((0.0, 0.0, 0.0), (0.1, 0.1, 0.1), opacity=0.0),
            one((0.0, 0.0, 0.5), (0.1, 0.1, 0.1)),
        ]
    ).map(lambda x: x.requires_grad_())
    result = render(g, *camera(), WIDTH, HEIGHT, antialiased=True)
    (result.color.sum() + result.depth.sum()).backward()
    for name in FIELDS:
        grad = getattr(g, name).grad
        assert grad.isfinite().all()
        assert not grad[:2].any()
        assert grad[2].any()


def test_reduced_matrix_precision_does_not_reach_the_exponents():
    g, view = cloud(40), camera()
    expected = render(g, *view, WIDTH, HEIGHT).color
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            result = render(g, *view, WIDTH, HEIGHT).color
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)


def test_harmonics_are_the_real_spherical_harmonics():
    directions = torch.nn.functional.normalize(torch.randn(3, 50, dtype=torch.float64), dim=0)
    torch.testing.assert_close(
        harmonic_basis(directions, 4), twin_basis(directions, 4), atol=1e-9, rtol=1e-9
    )


MEMORY = """
import torch

requests, empty = [], torch.empty
torch.empty = lambda *a, **k: requests.append(a[0]) or empty(*a, **k)
from fourreal.gaussians import Gaussians
from fourreal.rendering import composite, render

large = lambda: [n for n in requests if isinstance(n, int) and n > 2**20]
assert not large(), "at import"
for _ in range(2):
    render(Gaussians.empty(), torch.eye(3, 4)[None], torch.eye(3)[None], 4, 4)
assert large() == [31 * 2**20], "at the first image, and only then"
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have another allocator")
def test_the_allocator_is_set_at_the_first_image_and_not_at_import():
    subprocess.run([sys.executable, "-c", MEMORY], check=True)
