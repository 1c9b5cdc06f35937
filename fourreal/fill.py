"""A warped grid filled by a VACE: all views at once, or its first time before that as one clip; and
grids that are made at a smaller size and enlarged."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.cameras import clip_through
from fourreal.gaussians import GaussianScene
from fourreal.grid import shrunk
from fourreal.paste import paste_known
from fourreal.warp import WarpedGrid, warp_grid

LINES_PER_FEATHER = 32  # of a frame's height: 15 pixels of 480
Pipeline = Callable[..., Any]  # a ViewTimePipeline, whose result has the frames


def feather_of(grid: WarpedGrid) -> int:
    """Pixels over which known pixels fade into made ones, for frames of this size."""
    return round(grid.frames.shape[-2] / LINES_PER_FEATHER)


def fill_holes(
    pipeline: Pipeline,
    warped: WarpedGrid,
    *,
    scale: int = 1,
    feather: int | None = None,
    **options: Any,
) -> Tensor:
    """The frames [V, T, 3, H, W] of a warped grid with what is missing generated.

    scale: generate at 1/scale of the height and width, and enlarge: most of a view is known, and
    known pixels are pasted at their full size. feather: see paste_known (default: feather_of).
    options: those of the pipeline's call, without sizes.
    """
    shown = warped.shrunk(scale)
    (num_views, num_frames), (height, width) = shown.frames.shape[:2], shown.frames.shape[-2:]
    size = {"num_views": num_views, "num_frames": num_frames, "height": height, "width": width}
    made = pipeline(**options | size | {"video": shown.frames, "mask": shown.missing}).frames
    feather = feather_of(warped) if feather is None else feather
    return paste_known(enlarged(made, scale), warped, feather=feather)


def generate_smaller(generate: Callable[..., Tensor], scale: int, **options: Any) -> Tensor:
    """The frames [V, T, 3, H, W] of generate(**options), made at 1/scale of the options' height and
    width and enlarged to these. The references among the options are shrunk, too."""
    if scale == 1:
        return generate(**options)
    sizes = {name: options[name] // scale for name in ("height", "width")}
    shown = {
        name: shrunk(options[name], scale)
        for name in ("fixed_view", "freeze_time", "image")
        if options.get(name) is not None
    }
    return enlarged(generate(**options | sizes | shown), scale)


def enlarged(frames: Tensor, scale: int) -> Tensor:
    """Frames [V, T, 3, H, W] in [0, 1] at a multiple of their height and width, bicubic."""
    if scale == 1:
        return frames
    larger = F.interpolate(frames.flatten(0, 1), scale_factor=scale, mode="bicubic")
    return larger.clamp(0, 1).unflatten(0, frames.shape[:2])


def fill_column(
    pipeline: Pipeline,
    scene: GaussianScene,
    warped: WarpedGrid,
    cameras: tuple[Tensor, Tensor],
    device: torch.device,
    **options: Any,
) -> WarpedGrid:
    """The warped grid of a scene and its cameras, with the first time known in all views: filled as
    one clip, of a camera that moves through the views while time stands still, which video models
    know. options: those of fill_holes."""
    extrinsics, intrinsics, kept = clip_through(*cameras)
    height, width = warped.frames.shape[-2:]
    moment = scene.first_times(1).to(device)
    frames = torch.zeros(len(extrinsics), 1, 3, height, width)
    cells = torch.zeros(frames.shape[:2], dtype=torch.bool)
    frames[kept], cells[kept, 0] = warped.frames[:, :1], ~warped.missing[:, 0].flatten(1).any(dim=1)
    clip = warp_grid(moment, extrinsics, intrinsics, width, height, references=(frames, cells))
    clip.frames[kept], clip.missing[kept] = warped.frames[:, :1], warped.missing[:, :1]
    along = WarpedGrid(clip.frames.transpose(0, 1), clip.missing.transpose(0, 1))
    filled = WarpedGrid(warped.frames.clone(), warped.missing.clone())
    filled.frames[:, 0] = fill_holes(pipeline, along, **options)[0, kept]
    filled.missing[:, :1] = 0
    return filled
