"""A scene with fewer Gaussians, and its still and moving parts, without a run of the network."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fourreal.gaussians import Gaussians, GaussianScene
from fourreal.reconstruction.alignment import quantile
from fourreal.reconstruction.filters import Filters, merge_voxels


def prune_scene(
    scene: GaussianScene,
    *,
    min_opacity: float = 0.0,
    confidence_percentile: float = 0.0,
    voxel_size: float = 0.0,
) -> GaussianScene:
    """The scene without Gaussians fainter than min_opacity and without the least certain ones, this
    percentage of all; those in one voxel become one, its edge in pixels of the first view at the
    median depth. A value of 0 turns a filter off.

    Voxels are merged within the static part and within each time, weighted by confidence where the
    scene has it, else by opacity. Raises ValueError for values that Filters refuses, for a
    percentage of a scene without confidences, and where nothing would be left.
    """
    Filters(
        confidence_percentile=confidence_percentile, min_opacity=min_opacity, voxel_size=voxel_size
    )
    if not scene.num_gaussians:
        return scene
    parts, sure = [scene.static, *scene.dynamic], scene.confidences
    least = -torch.inf
    if confidence_percentile:
        if sure is None:
            raise ValueError(
                f"confidence_percentile is {confidence_percentile}, but this scene does not say "
                "how certain its Gaussians are, as a reconstruction does; set it to 0."
            )
        least = quantile(torch.cat(sure), confidence_percentile / 100).item()
    edge = 0.0
    if voxel_size:
        distance = scene.at(0).viewing_distance(scene.extrinsics[0])
        edge = voxel_size * distance / scene.intrinsics[0, 0, 0].item()

    def pruned(part: Gaussians, own: Tensor | None) -> tuple[Gaussians, Tensor]:
        keep = part.opacities >= min_opacity
        if own is not None:
            keep &= own >= least
        kept, weights = part[keep], (part.opacities if own is None else own)[keep]
        return merge_voxels(kept, edge, weights) if edge else (kept, weights)

    certain: Sequence[Tensor | None] = [None] * len(parts) if sure is None else sure
    done = [pruned(part, own) for part, own in zip(parts, certain)]
    (static, *dynamic), weights = [part for part, _ in done], [own for _, own in done]
    if not any(map(len, (static, *dynamic))):
        raise ValueError(
            f"none of the {scene.num_gaussians} Gaussians would be left with min_opacity "
            f"{min_opacity}; use a smaller one."
        )
    confidences = None if sure is None else weights
    return replace(scene, static=static, dynamic=dynamic, confidences=confidences)


def static_and_dynamic(scene: GaussianScene) -> tuple[GaussianScene, GaussianScene]:
    """What stands still and what moves, as scenes of the same times and cameras."""
    nothing = Gaussians.empty(scene.num_harmonics, scene.static.means.device)
    sure = scene.confidences
    still = moving = None
    if sure is not None:
        still = [sure[0], *[nothing.opacities] * scene.num_frames]
        moving = [nothing.opacities, *sure[1:]]
    return (
        replace(scene, dynamic=[nothing] * scene.num_frames, confidences=still),
        replace(scene, static=nothing, confidences=moving),
    )
