"""One rule for numbers that are not finite: single Gaussians with them are left out, and told."""

import logging
import os

import torch
from torch import Tensor

from fourreal.gaussians import Gaussians

logger = logging.getLogger(__name__)


def finite_rows(gaussians: Gaussians) -> Tensor:
    """Boolean mask [N] of the Gaussians all of whose values are finite, and no scale negative."""
    rows = [x[..., None].isfinite().flatten(1).all(1) for x in vars(gaussians).values()]
    return torch.stack([*rows, (gaussians.scales >= 0).all(1)]).all(0)


def report_left_out(count: int, total: int, path: str | os.PathLike) -> None:
    """One warning that `count` of a file's `total` Gaussians are left out.

    Raises ValueError where more than half are: then the file is damaged, or of another format.
    """
    if 2 * count > total:
        raise ValueError(
            f"{path} is damaged or another format: {count} of its {total} Gaussians have numbers "
            "that are not finite or scales below 0."
        )
    if count:
        logger.warning(
            "%s: %d of %d Gaussians are left out, for they have numbers that are not finite or "
            "scales below 0.",
            *(path, count, total),
        )


def only_finite(gaussians: Gaussians, path: str | os.PathLike) -> Gaussians:
    """What can be drawn of Gaussians that come from or go to `path`, on the CPU in float32.

    Raises ValueError as report_left_out does.
    """
    g = gaussians.map(lambda x: x.detach().cpu().float())
    good = finite_rows(g)
    left_out = len(g) - int(good.sum())
    report_left_out(left_out, len(g), path)
    return g[good] if left_out else g
