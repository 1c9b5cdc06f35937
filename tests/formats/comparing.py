"""What the tests of several formats share."""

import torch

from fourreal.gaussians import Gaussians, GaussianScene

from ..tiny import cloud

FIELDS = ("means", "quaternions", "scales", "opacities", "harmonics")


def scene():
    r = torch.Generator().manual_seed(3)
    return GaussianScene(
        cloud(20, 2),
        [cloud(7, 1, 1), Gaussians.empty(1), cloud(3, 0, 2)],
        torch.randn(4, 3, 4, generator=r),
        torch.randn(4, 3, 3, generator=r),
        64,
        48,
        12.5,
        {"prompt": "a käse", "seed": "7"},
    )


def assert_same(result, expected, **tolerance):
    for name in FIELDS:
        torch.testing.assert_close(
            getattr(result, name),
            getattr(expected, name),
            msg=lambda m, n=name: f"{n}: {m}",
            **tolerance,
        )


def same_rotation(q, other):
    return (q * other).sum(-1).abs()
