"""The rasterizer against a plain float64 twin, camera paths, and video files."""

import math
import os
import sys
import types

import pytest
import torch
from PIL import Image

from fourreal.cameras import CameraPath, look_at, quaternion_to_matrix
from fourreal.files.media import (
    read_depth,
    read_images,
    read_video,
    write_depth,
    write_image,
    write_images,
    write_video,
)
from fourreal.formats import load_scene
from fourreal.gaussians import Gaussians, GaussianScene, rgb_to_harmonics
from fourreal.rendering import available_backends, render, render_path, scene_path
from fourreal.rendering.harmonics import harmonic_basis
from fourreal.rendering.projection import project_gaussians
from fourreal.rendering.tiles import TILE, list_tiles

FIELDS = ("means", "quaternions", "scales", "opacities", "harmonics")
WIDTH, HEIGHT = 37, 29  # not multiples of a tile


# --- the twin: every splat on every pixel, one after another, in float64 ---------------------


def legendre(order: int, m: int, x):
    """Associated Legendre polynomial with the Condon-Shortley phase, by recursion."""
    value = (-1) ** m * math.prod(range(1, 2 * m, 2)) * (1 - x * x).clamp_min(0) ** (m / 2)
    if order == m:
        return value
    before, value = value, x * (2 * m + 1) * value
    for n in range(m + 2, order + 1):
        before, value = value, ((2 * n - 1) * x * value - (n + m - 1) * before) / (n - m)
    return value


def twin_basis(directions, degree):
    """Real spherical harmonics [K, N] from their definition."""
    x, y, z = directions
    azimuth = torch.atan2(y, x)
    rows = []
    for order in range(degree + 1):
        for m in range(-order, order + 1):
            k = abs(m)
            norm = (2 * order + 1) / (4 * math.pi)
            norm = math.sqrt(norm * math.factorial(order - k) / math.factorial(order + k))
            wave = torch.cos(k * azimuth) if m >= 0 else torch.sin(k * azimuth)
            rows.append((math.sqrt(2) if m else 1) * norm * legendre(order, k, z) * wave)
    return torch.stack(rows)


def twin(g: Gaussians, extrinsics, intrinsics, width, height, antialiased=False):
    """Colour [H, W, 3], alpha and depth [H, W, 1] of one camera, with gsplat's classic formula."""
    w, x, y, z = (g.quaternions / g.quaternions.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]
    rows += [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]
    rows += [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]
    axes = torch.stack(rows, -1).view(-1, 3, 3) * g.scales[:, None]
    covariance = axes @ axes.transpose(1, 2)
    rotation, translation = extrinsics[:, :3], extrinsics[:, 3]
    camera = g.means @ rotation.T + translation
    directions = g.means + rotation.T @ translation
    directions = directions / directions.norm(dim=-1, keepdim=True)
    degree = math.isqrt(g.harmonics.shape[1]) - 1
    color = (twin_basis(directions.T, degree).T[..., None] * g.harmonics).sum(1) + 0.5

    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    ys, xs = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([xs, ys], -1).view(-1, 2).double()
    sums = torch.zeros(height * width, 5, dtype=torch.float64)
    light = torch.ones(height * width, dtype=torch.float64)
    running = torch.ones(height * width, dtype=torch.bool)
    for i in camera[:, 2].argsort(stable=True).tolist():
        px, py, pz = camera[i]
        if pz < 0.01:
            continue
        margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
        tx = pz * (px / pz).clamp(-cx / fx - margin_x, (width - cx) / fx + margin_x)
        ty = pz * (py / pz).clamp(-cy / fy - margin_y, (height - cy) / fy + margin_y)
        zero = torch.zeros_like(pz)
        jacobian = torch.stack([fx / pz, zero, -fx * tx / pz**2, zero, fy / pz, -fy * ty / pz**2])
        jacobian = jacobian.view(2, 3) @ rotation
        flat = jacobian @ covariance[i] @ jacobian.T
        blurred = flat + 0.3 * torch.eye(2, dtype=torch.float64)
        opacity = g.opacities[i]
        if antialiased:
            opacity = opacity * (flat.det() / blurred.det()).clamp_min(1e-30).sqrt()
        d = pixels - torch.stack([fx * px / pz + cx, fy * py / pz + cy])
        exponent = 0.5 * ((d @ torch.linalg.inv(blurred)) * d).sum(-1)
        alpha = (opacity * torch.exp(-exponent)).clamp_max(0.999)
        alpha = alpha * (alpha >= 1 / 255)
        after = light * (1 - alpha)
        running = running & ~((alpha > 0) & (after <= 1e-4))
        features = torch.cat([color[i].clamp_min(0), pz[None], torch.ones_like(pz)[None]])
        sums = sums + (alpha * light * running)[:, None] * features
        light = torch.where(running, after, light)
    color, depth, alpha = sums.view(height, width, 5).split([3, 1, 1], -1)
    return color, alpha, depth / alpha.clamp_min(1e-6)


# --- scenes -----------------------------------------------------------------------------------


def camera(width=WIDTH, height=HEIGHT):
    """A turned and shifted camera with an off-centre principal point."""
    extrinsics = look_at(
        torch.tensor([0.3, -0.2, -3.0]), torch.tensor([0.1, 0.0, 0.0]), torch.tensor([0.1, -1, 0])
    )
    focal = 1.1 * width
    intrinsics = torch.tensor(
        [[focal, 0, 0.5 * width + 2.3], [0, 0.9 * focal, 0.5 * height - 1.7], [0, 0, 1]]
    )
    return extrinsics[None], intrinsics[None]


def cloud(count, degree=0, seed=0):
    r = torch.Generator().manual_seed(seed)
    return Gaussians(
        torch.randn(count, 3, generator=r) * 0.8,
        torch.randn(count, 4, generator=r),
        torch.rand(count, 3, generator=r) * 0.12 + 0.01,
        torch.rand(count, generator=r) * 0.94 + 0.05,
        torch.randn(count, (degree + 1) ** 2, 3, generator=r) * 0.4,
    )


def one(mean, scale, opacity=0.8, quaternion=(1.0, 0.3, -0.4, 0.2)):
    return Gaussians(
        torch.tensor([mean]),
        torch.tensor([quaternion]),
        torch.tensor([scale]),
        torch.tensor([opacity]),
        torch.tensor([[[0.9, -0.3, 0.5]]]),
    )


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


def close(ours, theirs, extrinsics, intrinsics, antialiased=False, size=(WIDTH, HEIGHT)):
    """Compare images (1e-4) and gradients of a random objective (1e-3, relative)."""
    single = ours.map(lambda x: x.clone().requires_grad_())
    double = theirs.map(lambda x: x.clone().double().requires_grad_())
    result = render(single, extrinsics, intrinsics, *size, antialiased=antialiased)
    expected = twin(double, extrinsics[0].double(), intrinsics[0].double(), *size, antialiased)
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
    close(g, g, *camera(), antialiased)


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("name", SPECIAL)
def test_extreme_gaussians_are_those_of_the_dense_twin(name, antialiased):
    result = close(SPECIAL[name], SPECIAL[name], *camera(), antialiased)
    if name in UNSEEN:
        assert not result.alpha.any()
    elif not antialiased and name not in ("tiny", "beside the camera"):
        assert result.alpha.max() > 0.3


def test_long_lists_stop_where_the_light_is_used_up():
    g = cloud(500, seed=3)
    g.means *= 0.3  # several chunks per tile
    g.opacities = 0.5 + 0.5 * g.opacities
    result = close(g, g, *camera())
    assert result.alpha.max() > 0.9999 - 1e-3
    assert result.alpha.max() <= 1 + 1e-6


def test_a_tile_lists_the_splats_that_it_shows_and_hardly_more():
    extrinsics, intrinsics = camera()
    gaussians = cloud(400)
    gaussians.scales[:, 0] *= 6  # long ones in every direction
    splats = project_gaussians(gaussians, extrinsics[0], intrinsics[0], WIDTH, HEIGHT, False)
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
    from fourreal.rendering import composite

    g = cloud(300, 1)
    for name, value in {"BLOCK_ELEMENTS_CPU": 2**14, "CHUNK": 16}.items():
        monkeypatch.setattr(composite, name, value)
    close(g[:150], g[:150], *camera())


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


@pytest.mark.skipif(torch.cuda.is_available(), reason="checks machines without CUDA")
def test_without_cuda_only_the_torch_backend_works():
    assert available_backends() == ("torch",)
    with pytest.raises(ValueError, match="CUDA"):
        render(cloud(1), *camera(), WIDTH, HEIGHT, backend="gsplat")


def test_wrong_input_is_refused_in_one_sentence():
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


# --- camera paths -----------------------------------------------------------------------------


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


# --- video and images -------------------------------------------------------------------------


def smooth_frames(count=9, height=44, width=60):
    y, x = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 4, width), indexing="ij")
    t = torch.linspace(0, 1, count)[:, None, None]
    channels = [0.5 + 0.4 * torch.sin(k * t + a * x + b * y) for k, a, b in ((3, 1, 0), (2, 0, 1))]
    return torch.stack([*channels, channels[0] * channels[1]], dim=1)


def test_a_video_comes_back(tmp_path):
    frames = smooth_frames()
    write_video(tmp_path / "new folder" / "clip.mp4", frames, 12.5)
    result, fps = read_video(tmp_path / "new folder" / "clip.mp4")
    assert fps == 12.5
    assert result.shape == frames.shape
    assert (result - frames).square().mean() < 1e-4  # 40 dB
    assert os.listdir(tmp_path / "new folder") == ["clip.mp4"]
    first, _ = read_video(tmp_path / "new folder" / "clip.mp4", max_frames=3)
    assert torch.equal(first, result[:3])


def test_odd_sizes_repeat_their_border(tmp_path):
    frames = smooth_frames(2, 33, 47)
    write_video(tmp_path / "odd.mp4", frames, 8)
    result, _ = read_video(tmp_path / "odd.mp4")
    assert result.shape == (2, 3, 34, 48)
    assert (result[:, :, 33, :47] - frames[:, :, 32]).abs().mean() < 0.02
    assert (result[:, :, :33, 47] - frames[..., 46]).abs().mean() < 0.02


def test_what_is_not_a_video_is_refused_by_name(tmp_path):
    for name, content in {"text.mp4": b"hello", "empty.mp4": b"", "noise.mkv": bytes(5000)}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            read_video(tmp_path / name)
    write_video(tmp_path / "whole.mp4", smooth_frames(), 8)
    whole = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half\.mp4"):
        read_video(tmp_path / "half.mp4")
    with pytest.raises(ValueError, match="frames"):
        write_video(tmp_path / "wrong.mp4", torch.rand(4, 5, 6), 8)


def test_an_interrupted_video_leaves_nothing(tmp_path, monkeypatch):
    from fourreal.files import media as video

    def interrupt(image):
        raise KeyboardInterrupt

    monkeypatch.setattr(video, "to_uint8", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "clip.mp4", smooth_frames(), 8)
    assert os.listdir(tmp_path) == []


def test_images_of_a_folder_come_in_natural_order(tmp_path):
    for i in (10, 2, 1):
        write_image(tmp_path / f"view_{i}.png", torch.full((3, 4, 6), i / 255))
    (tmp_path / "notes.txt").write_text("not an image")
    images = read_images(tmp_path)
    assert torch.equal(images[:, 0, 0, 0] * 255, torch.tensor([1.0, 2.0, 10.0]))
    write_image(tmp_path / "view_3.png", torch.zeros(3, 5, 6))
    with pytest.raises(ValueError, match=r"view_3\.png is 6 x 5"):
        read_images(tmp_path)
    (tmp_path / "view_3.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(ValueError, match=r"view_3\.png"):
        read_images(tmp_path)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no images"):
        read_images(tmp_path)


def test_quaternions_of_any_length_turn_alike():
    q = torch.randn(20, 4)
    torch.testing.assert_close(quaternion_to_matrix(q), quaternion_to_matrix(37 * q))


def test_depth_comes_back_exactly_or_within_half_a_step(tmp_path):
    depth = torch.rand(3, 5, 7) * 20
    depth[0, 0] = 0
    write_depth(tmp_path / "depth.npz", depth)
    assert torch.equal(read_depth(tmp_path / "depth.npz"), depth)
    write_depth(tmp_path / "depth", depth)
    assert [p.name for p in sorted((tmp_path / "depth").iterdir())] == [
        *(f"frame_000{i}.png" for i in (1, 2, 3))
    ]
    with Image.open(tmp_path / "depth" / "frame_0001.png") as image:
        assert image.mode == "I;16"
    result = read_depth(tmp_path / "depth")
    step = float(depth.max()) / 65535
    torch.testing.assert_close(result, depth, atol=0.5 * step + 1e-6, rtol=0)
    assert not result[0, 0].any()
    with pytest.raises(ValueError, match=r"\[T, H, W\]"):
        write_depth(tmp_path / "bad.npz", depth - 1)
    write_image(tmp_path / "photos" / "a.png", torch.zeros(3, 2, 2))
    (tmp_path / "text.npz").write_text("hello")
    for name in ("photos", "text.npz"):
        with pytest.raises(ValueError, match=name.split(".")[0]):
            read_depth(tmp_path / name)


def test_frames_as_images_replace_a_longer_sequence(tmp_path):
    frames = (torch.rand(3, 3, 4, 6) * 255).round() / 255
    write_images(tmp_path / "out", frames)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    write_images(tmp_path / "out", frames[:2])
    assert sorted(os.listdir(tmp_path / "out")) == ["frame_0001.png", "frame_0002.png", "notes.txt"]
    torch.testing.assert_close(read_images(tmp_path / "out"), frames[:2])


def test_the_render_command_follows_a_path_and_writes_depth(tmp_path, capsys):
    from fourreal.cli import main
    from fourreal.formats import save_scene

    save_scene(dynamic_scene(), tmp_path / "s.safetensors")
    (tmp_path / "keys.json").write_text('[{"view": 0, "time": 2}, {"view": 0, "time": 0}]')
    arguments = ["render", str(tmp_path / "s.safetensors"), "--height", "16"]
    arguments += [
        "--num-frames",
        "3",
        "--out",
        str(tmp_path / "images"),
        "--depth",
        str(tmp_path / "d.npz"),
    ]
    assert main([*arguments, "--keyframes", str(tmp_path / "keys.json")]) == 0
    images = read_images(tmp_path / "images")
    scene = load_scene(tmp_path / "s.safetensors")
    expected, _, depth = render_path(
        scene, scene_path(scene, 16, num_frames=3, kind="fixed_view", time="ping_pong")
    )
    assert images.shape == (3, 3, 16, 20)
    torch.testing.assert_close(images[2], expected[0].movedim(-1, 0).clamp(0, 1), atol=3e-3, rtol=0)
    torch.testing.assert_close(
        read_depth(tmp_path / "d.npz")[2], depth[0, ..., 0], atol=1e-4, rtol=0
    )
    (tmp_path / "keys.json").write_text('[{"view": 9}, {"view": 0}]')
    assert main([*arguments, "--keyframes", str(tmp_path / "keys.json")]) == 2
    assert "views 0 to 0" in capsys.readouterr().err


def test_a_missing_gsplat_is_reported_once_with_the_remedy(monkeypatch, caplog):
    from fourreal.rendering import gsplat_backend

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", None)
    gsplat_backend.why_not.cache_clear()
    try:
        assert not gsplat_backend.is_available() and not gsplat_backend.is_available()
    finally:
        gsplat_backend.why_not.cache_clear()
    assert len(caplog.records) == 1
    assert "pip install" in caplog.text and "rendering with torch" in caplog.text


def test_gsplat_is_called_with_what_its_versions_share(monkeypatch):
    """The keywords of gsplat 1.5.3's rasterization, which 1.6 still has."""
    from fourreal.rendering import gsplat_backend

    seen = {}

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
        eps2d=0.3,
        sh_degree=None,
        render_mode="RGB",
        rasterize_mode="classic",
    ):
        seen.update(viewmats=viewmats, mode=render_mode, degree=sh_degree)
        return torch.ones(1, height, width, 4), torch.ones(1, height, width, 1), {}

    fake = types.SimpleNamespace(rasterization=rasterization)
    monkeypatch.setitem(sys.modules, "gsplat", fake)
    parts = gsplat_backend.rasterize(cloud(5, 2), *camera(), 8, 6, False)
    assert [tuple(x.shape) for x in parts] == [(1, 6, 8, 3), (1, 6, 8, 1), (1, 6, 8, 1)]
    assert seen["mode"] == "RGB+D" and seen["degree"] == 2
    assert seen["viewmats"][0, 3].tolist() == [0, 0, 0, 1]
