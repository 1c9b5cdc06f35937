"""The scene of what is given of a grid, a video of one view or photos of one time, by its predicted
depth.

It is made to be warped into other views (scene_from_depth): surfaces in place of the network's own
Gaussians, and nothing that hangs in a jump of depth.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fourreal.gaussians import GaussianScene
from fourreal.grid import check_shared_cell
from fourreal.reconstruction.from_depth import scene_from_depth
from fourreal.reconstruction.reconstructor import Reconstruction


def predicted_scene(
    reconstruct: Callable[..., Reconstruction],
    *,
    fixed_view: Tensor | None = None,
    freeze_time: Tensor | None = None,
    fps: float = 8.0,
    **options: Any,
) -> GaussianScene:
    """The scene of a fixed-view video [T, 3, H, W], of photos [V, 3, H, W] of one time, or of both.

    Frames are in [0, 1]; at least one of the two is given. Of both, the video shows the first
    photo's view and begins when the photos were taken: the animated real scene. reconstruct: a
    Reconstructor, with its options. The world is the first view's camera. Raises ValueError as the
    reconstructor does, and where the first photo is not the video's first frame.
    """
    if freeze_time is None:
        assert fixed_view is not None
        row = reconstruct(fixed_view[None], fps=fps, **options)
        cameras = row.extrinsics, row.intrinsics
        sure = row.depth_confidence
        return scene_from_depth(fixed_view[None], row.depth, *cameras, confidence=sure, fps=fps)
    if fixed_view is not None:
        check_shared_cell(fixed_view, freeze_time)
    photos = reconstruct(freeze_time[:, None], **options)
    cameras = photos.extrinsics, photos.intrinsics
    if fixed_view is None:
        return scene_from_depth(freeze_time[:, None], photos.depth, *cameras, fps=fps)

    row = reconstruct(fixed_view[None], **options)
    unit = (photos.depth[0, 0] / row.depth[0, 0]).median()
    shape = len(freeze_time), len(fixed_view)
    frames = freeze_time[:, None].repeat(1, shape[1], 1, 1, 1)
    depth, sure = (x.repeat(1, shape[1], 1, 1) for x in (photos.depth, photos.depth_confidence))
    frames[0], depth[0], sure[0] = fixed_view, unit * row.depth[0], row.depth_confidence[0]
    cells = torch.zeros(shape, dtype=torch.bool)
    cells[0], cells[:, 0] = True, True
    return scene_from_depth(frames, depth, *cameras, cells=cells, confidence=sure, fps=fps)
