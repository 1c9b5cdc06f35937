"""What the page's camera turns about, and the part of the sphere around it that the inputs saw."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fourreal.cameras import Coverage
from fourreal.gaussians import GaussianScene

LEVEL = 1e-3  # spread of the cameras' x axes, of 1, from which on they say what is vertical


def orbit(scene: GaussianScene, distance: float, center: Sequence[float] = (0.0, 0.0, 0.0)) -> dict:
    """Numbers for scene.json: `target` [3], relative to center; `up` [3]; `seen`, the views that
    looked at the scene; and `limits`, the angles that these cover: `axes` [3, 3], `low` and `high`
    [3] as in fourreal.cameras.Coverage. limits is None where no view looked at it, as for a file
    of Gaussians without cameras.

    distance: to the target, in world units, for views whose axes do not meet.
    """
    looked = (
        torch.ones(scene.num_views, dtype=torch.bool)
        if scene.observed is None
        else scene.observed.cpu().any(1)
    )
    cameras = scene.extrinsics.detach().cpu().double()
    seeing = cameras[looked] if looked.any() else cameras
    coverage = Coverage.of(seeing, distance)
    limits = {name: getattr(coverage, name).tolist() for name in ("axes", "low", "high")}
    return {
        "target": (coverage.target - coverage.target.new_tensor(center)).tolist(),
        "up": upward(seeing).tolist(),
        "seen": looked.nonzero()[:, 0].tolist(),
        "limits": limits if looked.any() else None,
    }


def upward(extrinsics: Tensor) -> Tensor:
    """The direction [3] that is up for cameras [V, 3, 4] held level: across all their x axes.

    Where these say nothing of it, for one camera or parallel ones, it is the cameras' own up.
    """
    across, own = extrinsics[:, 0, :3], -extrinsics[:, 1, :3].mean(0)
    spread, directions = torch.linalg.eigh(across.mT @ across / len(across))
    if spread[1] < LEVEL:
        return own / own.norm()
    return directions[:, 0] * (directions[:, 0] @ own).sign()
