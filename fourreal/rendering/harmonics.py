"""View-dependent colour from real spherical harmonics, degrees 0 to 4.

The basis and its signs are those of 3D Gaussian splatting (Kerbl et al. 2023), which come from
Plenoctrees: order l, then m = -l..l, with the Condon-Shortley phase.
"""

import torch
from torch import Tensor

from fourreal.gaussians import SH_C0, harmonics_to_rgb

MAX_DEGREE = 4


def harmonic_degree(harmonics: Tensor) -> int:
    """The degree of harmonics [N, K, 3]. Raises ValueError unless K is 1, 4, 9, 16 or 25."""
    count = harmonics.shape[1]
    for degree in range(MAX_DEGREE + 1):
        if count == (degree + 1) ** 2:
            return degree
    raise ValueError(
        f"the harmonics have {count} coefficients per channel, but 1, 4, 9, 16 or 25 are needed "
        "(degrees 0 to 4)."
    )


def harmonic_basis(directions: Tensor, degree: int) -> Tensor:
    """The basis functions [K, N] at unit directions [3, N], K = (degree + 1)^2."""
    x, y, z = directions
    basis = [torch.full_like(x, SH_C0)]
    if degree >= 1:
        basis += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        difference = xx - yy
        basis += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2 * zz - xx - yy),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * difference,
        ]
    if degree >= 3:
        basis += [
            -0.5900435899266435 * y * (3 * xx - yy),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * zz - xx - yy),
            0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
            -0.4570457994644658 * x * (4 * zz - xx - yy),
            1.445305721320277 * z * difference,
            -0.5900435899266435 * x * (xx - 3 * yy),
        ]
    if degree >= 4:
        basis += [
            2.5033429417967046 * x * y * difference,
            -1.7701307697799304 * y * z * (3 * xx - yy),
            0.9461746957575601 * x * y * (7 * zz - 1),
            -0.6690465435572892 * y * z * (7 * zz - 3),
            0.10578554691520431 * (zz * (35 * zz - 30) + 3),
            -0.6690465435572892 * x * z * (7 * zz - 3),
            0.47308734787878004 * difference * (7 * zz - 1),
            -1.7701307697799304 * x * z * (xx - 3 * yy),
            0.6258357354491761 * (xx * (xx - 3 * yy) - yy * (3 * xx - yy)),
        ]
    return torch.stack(basis)


def view_colors(harmonics: Tensor, means: Tensor, center: Tensor) -> Tensor:
    """Colours [N, 3], at least 0, of harmonics [N, K, 3] at means [N, 3] seen from center [3]."""
    degree = harmonic_degree(harmonics)
    if degree == 0:
        return harmonics_to_rgb(harmonics).clamp_min(0.0)
    directions = torch.nn.functional.normalize(means.T - center[:, None], dim=0)
    basis = harmonic_basis(directions, degree)
    return ((basis.T[:, None, :] @ harmonics)[:, 0] + 0.5).clamp_min(0.0)
