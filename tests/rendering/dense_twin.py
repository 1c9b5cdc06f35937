"""The rasterizer's slow twin: every splat on every pixel, one after another, in float64.

With it come the camera and the Gaussians that the tests of the rasterizers share.
"""

import math

import torch

from fourreal.cameras import look_at
from fourreal.gaussians import Gaussians

FIELDS = ("means", "quaternions", "scales", "opacities", "harmonics")
WIDTH, HEIGHT = 37, 29  # not multiples of a tile


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
