"""Cameras of one prediction in the world of another, which shares some of the cameras."""

import torch
from torch import Tensor

from fourreal.cameras.pinhole import camera_centers, extrinsics_at


def aligned_cameras(extrinsics: Tensor, shared: Tensor, wanted: Tensor) -> Tensor:
    """Extrinsics [N, 3, 4] brought into another world by the cameras that both worlds have.

    shared [V, 3, 4] are in the world of `extrinsics`, wanted [V, 3, 4] the same cameras in the
    other one. The similarity is that of Umeyama (1991), but for its rotation, which is the mean of
    those of the cameras: their centres may lie on a line. Without distance between them the unit of
    length stays as it is.
    """
    turns = wanted[..., :3].transpose(-1, -2) @ shared[..., :3]
    left, _, right = torch.linalg.svd(turns.double().sum(0))
    sign = torch.linalg.det(left @ right).sign()
    flip = torch.diag(torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign]))
    turn = (left @ flip @ right).to(extrinsics)
    own, others = camera_centers(shared), camera_centers(wanted)
    middle, other_middle = own.mean(0), others.mean(0)
    turned = (own - middle) @ turn.T
    spread = turned.square().sum()
    unit = (turned * (others - other_middle)).sum() / spread if spread > 1e-12 else 1.0
    centers = unit * (camera_centers(extrinsics) - middle) @ turn.T + other_middle
    return extrinsics_at(centers, extrinsics[..., :3] @ turn.T)
