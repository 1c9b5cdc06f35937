"""Gaussians moved, turned and scaled as a whole, with their harmonics."""

from pathlib import Path

import torch
from torch import Tensor

from fourreal.cameras.pinhole import matrix_to_quaternion
from fourreal.gaussians import Gaussians, turn_about_x
from fourreal.rendering.harmonics import harmonic_basis, harmonic_degree

TOLERANCE = 1e-4  # of a rotation's matrix, relative to the scale


def similarity_parts(matrix: Tensor) -> tuple[float, Tensor, Tensor] | None:
    """(scale, rotation [3, 3], translation [3]) of an affine matrix [4, 4] of column vectors.

    None when it is no similarity: it shears, mirrors, or stretches the axes differently.
    """
    linear = matrix[:3, :3]
    determinant = float(torch.linalg.det(linear))
    if not matrix.isfinite().all() or determinant <= 0:
        return None
    scale = determinant ** (1 / 3)
    rotation = linear / scale
    if not torch.allclose(rotation @ rotation.mT, torch.eye(3).to(matrix), atol=TOLERANCE):
        return None
    return scale, rotation, matrix[:3, 3]


def moved(gaussians: Gaussians, scale: float, rotation: Tensor, translation: Tensor) -> Gaussians:
    """The same Gaussians after x -> scale * rotation @ x + translation."""
    w, x, y, z = matrix_to_quaternion(rotation[None])[0].to(gaussians.quaternions).unbind()
    left = torch.stack(  # the matrix of the product with a quaternion on its left
        [
            torch.stack([w, -x, -y, -z]),
            torch.stack([x, w, -z, y]),
            torch.stack([y, z, w, -x]),
            torch.stack([z, -y, x, w]),
        ]
    )
    turn = rotation.to(gaussians.means)
    return Gaussians(
        scale * gaussians.means @ turn.mT + translation.to(gaussians.means),
        gaussians.quaternions @ left.mT,
        scale * gaussians.scales,
        gaussians.opacities,
        turned_harmonics(gaussians.harmonics, rotation),
    )


def placed(g: Gaussians, matrix: Tensor, part: str, path: Path) -> Gaussians:
    """Gaussians after a transformation [4, 4]. Raises ValueError, naming the file and its part, for
    other than similarities."""
    for plain, signs in ((g, [1.0, 1, 1, 1]), (turn_about_x(g), [1.0, -1, -1, 1])):
        if torch.allclose(matrix, torch.diag(matrix.new_tensor(signs)), atol=1e-6):
            return plain  # exactly as it was stored
    found = similarity_parts(matrix)
    if found is None:
        raise ValueError(
            f"{path} shears, mirrors or stretches {part}, but only splats that are moved, turned "
            "and scaled evenly are read."
        )
    return moved(g, *found)


def turned_harmonics(harmonics: Tensor, rotation: Tensor) -> Tensor:
    """Harmonics [N, K, 3] whose colour at R d is what these have at d.

    Each order is turned by itself: its matrix is that of the basis at some directions and at the
    turned ones, solved by least squares.
    """
    degree = harmonic_degree(harmonics)
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(3, 64, generator=generator, dtype=torch.float64)
    directions = directions / directions.norm(dim=0)
    before = harmonic_basis(directions, degree)
    after = harmonic_basis(rotation.double() @ directions, degree)
    turned = [harmonics[:, :1]]
    for order in range(1, degree + 1):
        part = slice(order**2, (order + 1) ** 2)
        # new^T after = old^T before for every old: new = solve(after^T, before^T) old.
        matrix = torch.linalg.lstsq(after[part].mT, before[part].mT).solution
        turned.append(matrix.to(harmonics) @ harmonics[:, part])
    return torch.cat(turned, dim=1)
