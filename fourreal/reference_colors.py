"""Colours of warped pixels from the reference frames themselves.

Gaussians that are drawn into another camera are blurred, by their own footprint and by the
rasterizer's; a frame that is looked up by the depth that was drawn there (backward warping) is not.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.cameras import camera_centers, project, unproject
from fourreal.neighborhoods import grown, within_reach

SAME = 0.03  # a surface is seen where its depth is the one that is drawn there, up to this share
ALIKE = 0.1  # of colours in [0, 1]: a frame shows what is drawn, up to this difference


def reference_colors(
    colors: Tensor,
    depth: Tensor,
    cameras: tuple[Tensor, Tensor],
    references: Tensor,
    given: list[int],
) -> Tensor:
    """The colours of V views drawn at one time, where a reference frame shows the same surface
    those of that frame.

    Args:
        colors: [V, 3, H, W] in [0, 1].
        depth: of the drawn surfaces, [V, H, W].
        cameras: extrinsics [V, 3, 4] and intrinsics [V, 3, 3] in pixels of H x W.
        references: frames [V, 3, H, W] in [0, 1] of the same cameras, of which those of the views
            in `given` are known at this time; these views' own colours stay as drawn.

    A surface point is seen by a reference where the depth drawn at all four pixels around it is
    its own, and the frame shows what is drawn there. At the rims of things it does not: their
    depth is not sure, so they have no Gaussians, and the wall behind them is drawn. Of several
    references the one that looks from nearest by has it. Between pixels colours are bicubic,
    without leaving the range of those four.
    """
    extrinsics, intrinsics = cameras
    centers = camera_centers(extrinsics)
    drawn = {view: agrees_with_drawn(references[view], colors[view]) for view in given}
    points = unproject(depth, extrinsics, intrinsics)
    result = colors.clone()
    for view in set(range(len(colors))) - set(given):
        for source in nearest_last(given, centers, view):
            camera = extrinsics[source : source + 1], intrinsics[source : source + 1]
            surface = depth[source].masked_fill(~drawn[source], torch.nan)  # of no depth
            found, off = looked_up(points[view], camera, surface, references[source])
            result[view] = torch.where(off < SAME, found, result[view])
    return result


def nearest_last(given: list[int], centers: Tensor, view: int) -> list[int]:
    """The views in `given` by how far their cameras' centers [V, 3] are from that of a view."""
    ways = (centers[given] - centers[view]).norm(dim=-1)
    return [given[i] for i in ways.argsort(descending=True).tolist()]


def agrees_with_drawn(frame: Tensor, drawn: Tensor) -> Tensor:
    """Pixels [H, W] of a frame [3, H, W] whose colours, and those of the pixels around, are of
    something drawn within one pixel; what is drawn is softer."""
    least, most = within_reach(drawn, 1)
    unlike = ((frame > most + ALIKE) | (frame < least - ALIKE)).any(dim=0)
    return ~grown(unlike[None], 1)[0]


def looked_up(
    points: Tensor, camera: tuple[Tensor, Tensor], depth: Tensor, frame: Tensor
) -> tuple[Tensor, Tensor]:
    """Colours [3, H, W] of points [H, W, 3] in a frame [3, h, w] of a camera whose depth [h, w] is
    known, and how far that depth is from theirs, [H, W]: the greatest share of the four pixels
    around, which is small where the camera sees them, and infinite beside the frame."""
    height, width = depth.shape
    pixels, distance = project(points.flatten(0, 1)[None], *camera)
    pixels, distance = pixels[0].unflatten(0, points.shape[:2]), distance[0].view(points.shape[:2])
    x, y = pixels.unbind(-1)
    inside = (distance > 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    off, around = torch.where(inside, 0, torch.inf).to(depth), []
    for right in (-0.5, 0.5):
        for down in (-0.5, 0.5):
            column = (x + right).nan_to_num(-1).floor().long().clamp(0, width - 1)
            row = (y + down).nan_to_num(-1).floor().long().clamp(0, height - 1)
            off = off.maximum((depth[row, column] / distance - 1).abs())
            around.append(frame[:, row, column])
    where = 2 * pixels / pixels.new_tensor([width, height]) - 1
    colors = F.grid_sample(
        frame[None], where[None], mode="bicubic", padding_mode="border", align_corners=False
    )
    corners = torch.stack(around)
    return colors[0].maximum(corners.amin(dim=0)).minimum(corners.amax(dim=0)), off
