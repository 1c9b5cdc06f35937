"""One scale for all times, and one camera per view.

Every run of VGGT chooses its own unit of length. Where no trained temporal layers agree on one, the
depth of each time is multiplied by one robust factor that matches it to the first time.
"""

import torch
from torch import Tensor

from ..cameras import camera_centers

CONFIDENT = 0.3  # pixels below this quantile of confidence do not vote
STILL = 0.2  # of the voters, this share whose colour changes least


def scale_between(
    reference: Tensor, depth: Tensor, confidences: tuple[Tensor, Tensor], change: Tensor
) -> float:
    """The factor that brings `depth` to the scale of `reference`.

    All are maps of the same pixels, any shape: two depths (> 0), their confidences, and the
    absolute change of colour between the two times. The median of the log ratio over confident
    pixels that stand still, which neither moving objects nor outliers shift.
    """
    votes = torch.ones_like(depth, dtype=torch.bool)
    for confidence in confidences:
        votes &= confidence >= quantile(confidence, CONFIDENT)
    if not votes.any():
        votes[:] = True
    votes &= change <= quantile(change[votes], STILL)
    return (reference[votes].log() - depth[votes].log()).median().exp().item()


def quantile(values: Tensor, q: float) -> Tensor:
    """The q-quantile of any number of values (torch.quantile refuses more than 16 million)."""
    flat = values.flatten()
    return flat.kthvalue(1 + round(q * (flat.numel() - 1))).values


def combine_pose_encodings(encodings: Tensor, how: str) -> Tensor:
    """One pose encoding per view [V, 9] of those of all times [T, V, 9] in one unit of length.

    how: "first", "mean" or "median" over time.
    """
    if how == "first":
        return encodings[0]
    sign = (encodings[..., 3:7] * encodings[:1, :, 3:7]).sum(-1, keepdim=True).sign()
    encodings = torch.cat([encodings[..., :3], encodings[..., 3:7] * sign, encodings[..., 7:]], -1)
    return encodings.mean(0) if how == "mean" else encodings.median(0).values


def baseline_scale(given: Tensor, predicted: Tensor) -> float:
    """The unit of given cameras [V, 3, 4] in the unit of predicted ones: median of the distances
    to the first camera. 1 for a single view or cameras in one place."""
    distance, own = (
        (camera_centers(e)[1:] - camera_centers(e)[:1]).norm(dim=-1) for e in (given, predicted)
    )
    ratios = distance[own > 1e-6] / own[own > 1e-6]
    ratios = ratios[ratios > 0]
    return ratios.median().item() if len(ratios) else 1.0
