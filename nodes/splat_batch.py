"""SPLAT, core's Gaussians, from and to scenes: one batch item per time, padded to one length.

Core's fields are this project's in other shapes, with the same axes and units.
"""

from collections.abc import Iterable

import torch
from comfy_api.latest import Types
from torch import Tensor

from fourreal.cameras import CameraPath
from fourreal.gaussians import Gaussians, GaussianScene

from . import types

FPS = 24.0  # of a SPLAT, which does not say its own


def scene_to_splat(scene: GaussianScene, times: Iterable[int]) -> Types.SPLAT:
    """The static and dynamic Gaussians of each of the times as an item of the batch."""
    parts = [scene.at(t) for t in times]

    def padded(name: str) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence([getattr(p, name) for p in parts], True)

    counts = torch.tensor([len(p) for p in parts])
    return Types.SPLAT(
        padded("means"),
        padded("scales"),
        padded("quaternions"),
        padded("opacities")[..., None],
        padded("harmonics"),
        counts if len(parts) > 1 else None,
    )


def splat_times(splat: Types.SPLAT) -> list[Gaussians]:
    """The Gaussians of each item of a SPLAT's batch, which are times."""
    items = len(splat.positions)
    counts = splat.counts if splat.counts is not None else [splat.positions.shape[1]] * items
    fields = (splat.positions, splat.rotations, splat.scales, splat.opacities[..., 0], splat.sh)
    return [Gaussians(*(f[i, : int(counts[i])].float() for f in fields)) for i in range(items)]


def as_scene(given: GaussianScene | Types.SPLAT) -> types.CachedScene:
    """A SCENE as it is; a SPLAT, of this pack or any other, as a scene with one time per item of
    its batch and one camera before it. One item stands still."""
    if isinstance(given, GaussianScene):
        return given
    from fourreal.formats import framed_scene  # slow to import

    times = splat_times(given)
    nothing = Gaussians.empty(given.sh.shape[2])
    still, moving = (times[0], [nothing]) if len(times) == 1 else (nothing, times)
    return types.CachedScene(**vars(framed_scene(still, moving, FPS, "the SPLAT")))


def splat_to_scene(splat: Types.SPLAT, path: CameraPath) -> GaussianScene:
    """A scene with one time per item of a SPLAT's batch, and the cameras of a path."""
    return GaussianScene(
        Gaussians.empty(splat.sh.shape[2]),
        splat_times(splat),
        path.extrinsics,
        path.intrinsics,
        path.width,
        path.height,
    )
