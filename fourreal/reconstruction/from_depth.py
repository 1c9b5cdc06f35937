"""A dynamic scene from depth maps of any origin: exact ones, a network's, a depth camera's.

Every pixel becomes a Gaussian that covers its share of the surface. Pixels beside a jump in depth
are dropped, because their colours and depths mix two things. What stands still is stored once (see
split.py), so that background uncovered at one time is there at all times.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.cameras import matrix_to_quaternion, project, unproject
from fourreal.gaussians import Gaussians, GaussianScene, rgb_to_harmonics
from fourreal.neighborhoods import beside_jumps, grown, within_reach
from fourreal.reconstruction.alignment import scale_between
from fourreal.reconstruction.filters import SAME
from fourreal.reconstruction.gaussian_head import FOOTPRINT, FULL_OPACITY
from fourreal.reconstruction.split import SplitMasks, StaticSplit, median_where, split_view

SKY = 100.0  # depth of the sky, of the median depth of everything else
LONGEST = 6.0  # of a Gaussian on a slanted surface, in pixels across at its depth
THIN = 0.1  # of a Gaussian across its surface, likewise
EVEN = 0.1  # range of a colour channel over 3 x 3 pixels of an even surface


def surface_gaussians(
    image: Tensor, depth: Tensor, extrinsics: Tensor, intrinsics: Tensor, keep: Tensor
) -> Gaussians:
    """The pixels in keep [H, W] as flat Gaussians that cover their shares of the surface.

    image [3, H, W] in [0, 1], depth [H, W], extrinsics [3, 4], intrinsics [3, 3]. The covariance is
    FOOTPRINT^2 (u u^T + v v^T), where u and v lead to the next pixels' points in the row and in the
    column, on the side where depth changes less: no holes open when a slanted surface is seen from
    a steeper angle, as they would between round Gaussians.
    """
    points = unproject(depth, extrinsics, intrinsics)
    pixel = (depth / intrinsics[0, 0])[keep][:, None]
    u, v = (surface_steps(points, depth, dim)[keep] for dim in (1, 0))
    u, v = (s * (LONGEST * pixel / s.norm(dim=-1, keepdim=True)).clamp_max(1) for s in (u, v))
    normal = F.normalize(torch.linalg.cross(u, v), dim=-1)
    # The axes of the ellipse: eigenvectors of u u^T + v v^T, by those of [[uu, uv], [uv, vv]].
    uu, uv, vv = (u * u).sum(-1), (u * v).sum(-1), (v * v).sum(-1)
    angle = 0.5 * torch.atan2(2 * uv, uu - vv)[:, None]
    long = F.normalize(angle.cos() * u + angle.sin() * v, dim=-1)
    axes = torch.stack([long, torch.linalg.cross(normal, long), normal], dim=-1)
    mean, spread = (uu + vv) / 2, ((uu - vv).square() / 4 + uv.square()).sqrt()
    squares = torch.stack([mean + spread, (mean - spread).clamp_min(0)], dim=-1)
    scales = torch.cat([squares.sqrt().maximum(THIN * pixel), THIN * pixel], dim=-1)
    return Gaussians(
        points[keep],
        matrix_to_quaternion(axes),
        FOOTPRINT * scales,
        torch.full_like(pixel[:, 0], FULL_OPACITY),
        rgb_to_harmonics(image.movedim(0, -1)[keep]),
    )


def surface_steps(points: Tensor, depth: Tensor, dim: int) -> Tensor:
    """From each point of a map [H, W, 3] to the next one along dim, on the side (turned round where
    it is the one before) where disparity changes less."""
    steps, changes = points.diff(dim=dim), (1 / depth).diff(dim=dim).abs()
    edge = points.narrow(dim, 0, 1) * 0
    none = torch.full_like(depth.narrow(dim, 0, 1), torch.inf)
    after, before = torch.cat([steps, edge], dim), torch.cat([edge, steps], dim)
    nearer = torch.cat([changes, none], dim) <= torch.cat([none, changes], dim)
    return torch.where(nearer[..., None], after, before)


@dataclass
class DepthView:
    """One input view at the N times at which it was there: times (N numbers), frames [N, 3, H, W],
    depth [N, H, W], extrinsics [3, 4], intrinsics [3, 3], what in it stands still, and the depth's
    confidence [N, H, W] where there is one."""

    times: list[int]
    frames: Tensor
    depth: Tensor
    extrinsics: Tensor
    intrinsics: Tensor
    split: SplitMasks
    confidence: Tensor | None = None

    def gaussians(self, image: Tensor, depth: Tensor, keep: Tensor) -> Gaussians:
        return surface_gaussians(image, depth, self.extrinsics, self.intrinsics, keep)


@torch.no_grad()
def scene_from_depth(
    frames: Tensor,
    depth: Tensor,
    extrinsics: Tensor,
    intrinsics: Tensor,
    *,
    moving: Tensor | None = None,
    sky: Tensor | None = None,
    cells: Tensor | None = None,
    confidence: Tensor | None = None,
    split: StaticSplit = StaticSplit(),  # noqa: B008 (frozen)
    fps: float = 8.0,
) -> GaussianScene:
    """The scene that frames [V, T, 3, H, W] in [0, 1] and their depth [V, T, H, W] show.

    A fixed-view video is V = 1, photos of a still scene T = 1; for both at once `cells` says which
    frames there are. Depth is z in the unit of the cameras, extrinsics [V, 3, 4] and intrinsics
    [V, 3, 3] in pixels of the frames; the depth of each later time is brought to the scale of its
    view's first time.

    Args:
        moving: pixels [V, T, H, W] that show something that moves; it is also seen from changes.
        sky: pixels [V, T, H, W] of the sky, whose depth is not read: far away and still.
        cells: the frames that are given [V, T], all by default; the others are not read.
        confidence: of a network in its depth [V, T, H, W]; warp_grid leaves out what moves at a
            depth of which the network is not sure.
        split: how static pixels are found.

    Raises ValueError in one sentence for maps of other sizes, depth that is not positive and
    finite, and views that are not given at any time.
    """
    num_views, num_times = frames.shape[:2]
    cells = torch.ones(num_views, num_times, dtype=torch.bool) if cells is None else cells.bool()
    sky = torch.zeros_like(depth, dtype=torch.bool) if sky is None else sky.bool()
    moving = torch.zeros_like(sky) if moving is None else moving.bool()
    maps = {"depth": depth, "sky mask": sky, "moving mask": moving}
    check_maps(frames, maps if confidence is None else maps | {"confidence": confidence}, cells)
    check_depth(depth, sky, cells)
    if extrinsics.shape != (num_views, 3, 4) or intrinsics.shape != (num_views, 3, 3):
        raise ValueError(
            f"the cameras have the shapes {tuple(extrinsics.shape)} and {tuple(intrinsics.shape)}, "
            f"but ({num_views}, 3, 4) and ({num_views}, 3, 3) are needed for {num_views} views."
        )
    views = []
    for v in range(num_views):
        there = cells[v].to(depth.device)
        seen, far, moves = frames[v][there], sky[v][there], moving[v][there]
        at_scale = in_one_unit(seen, depth[v][there], far)
        masks = split_with_sky(seen, at_scale, far, moves, split)
        times = cells[v].nonzero()[:, 0].tolist()
        sure = None if confidence is None else confidence[v][there]
        views.append(DepthView(times, seen, at_scale, extrinsics[v], intrinsics[v], masks, sure))
    for view in views:
        moves = moves_while_hidden(view) if len(view.times) > 1 else moves_elsewhere(view, views)
        if moves.any():
            there = (view.depth / view.split.depth - 1).abs() < SAME
            view.split.static &= ~moves
            view.split.dynamic |= moves & there & ~beside_jumps(view.depth)
    return assemble(views, num_times, fps, cells)


def check_maps(frames: Tensor, maps: dict[str, Tensor], cells: Tensor) -> None:
    """Raise ValueError unless the maps [V, T, H, W] are those of the frames, and every view is
    given at some time."""
    num_views, num_times, _, height, width = frames.shape
    for name, values in maps.items():
        if tuple(values.shape) != (num_views, num_times, height, width):
            raise ValueError(
                f"the {name} has the shape {tuple(values.shape)}, but the frames need "
                f"({num_views}, {num_times}, {height}, {width}): views, times, height, width."
            )
    if tuple(cells.shape) != (num_views, num_times) or not cells.any(dim=1).all():
        raise ValueError(
            f"cells has the shape {tuple(cells.shape)} with {int(cells.sum())} frames given, but "
            f"({num_views}, {num_times}) with at least one frame of each view is needed."
        )


def check_depth(depth: Tensor, sky: Tensor, cells: Tensor) -> None:
    """Raise ValueError where depth outside the sky is not a positive, finite number."""
    ground = ~sky & cells[..., None, None].to(sky.device)
    wrong = ~(depth.isfinite() & (depth > 0)) & ground
    if wrong.any():
        raise ValueError(
            f"the depth has {int(wrong.sum())} pixels that are not positive, finite numbers; mark "
            "them as sky, or repair the depth."
        )
    if not ground.flatten(1).any(dim=1).all():
        raise ValueError("the sky mask covers all of a view, so that no depth is left in it.")


def in_one_unit(frames: Tensor, depth: Tensor, sky: Tensor) -> Tensor:
    """Depth [N, H, W] of one view's frames [N, 3, H, W], each brought to the scale of the first by
    what stands still; the sky [N, H, W], which has none, is put far behind everything."""
    depth = depth.clone()
    for i in range(1, len(depth)):
        both = ~sky[0] & ~sky[i]
        if both.any():
            change = (frames[i] - frames[0]).abs().amax(dim=0)[both]
            sure = torch.ones_like(change)
            depth[i] *= scale_between(depth[0][both], depth[i][both], (sure, sure), change)
    if sky.any():
        depth[sky] = SKY * depth[~sky].median()
    return depth


def split_with_sky(
    frames: Tensor,
    depth: Tensor,
    sky: Tensor,
    moving: Tensor,
    options: StaticSplit,
) -> SplitMasks:
    """What stands still in one view's frames [N, 3, H, W], with depth, sky and moving pixels
    [N, H, W]; the sky does, though clouds drift and its colour changes: it is the farthest layer.
    """
    masks = split_view(frames, depth, ~beside_jumps(depth), options, moving & ~sky)
    if sky.any():
        over = sky.any(dim=0)
        color = median_where(frames, sky[:, None].expand_as(frames))
        masks.color = torch.where(over, color, masks.color)
        masks.depth = torch.where(over, depth.amax(dim=0), masks.depth)
        masks.static = masks.static | over
        masks.dynamic = masks.dynamic & ~sky
    return masks


def moves_elsewhere(view: DepthView, views: list[DepthView]) -> Tensor:
    """Static pixels [H, W] of a view that was there at one time only, which show something that
    moves, as another view knows: it sees that very surface move, or sees through it at other times
    (but not at this one, which would be an error of depth). So do the pixels of the same even
    surface that no other view sees."""
    static = view.split.static
    moves, alone = torch.zeros_like(static), static.clone()
    if len(view.times) > 1:
        return moves
    points = unproject(view.depth[0], view.extrinsics, view.intrinsics)[static][None]
    for other in views:
        if len(other.times) == 1 or view.times[0] not in other.times:
            continue
        pixels, distance = project(points, other.extrinsics[None], other.intrinsics[None])
        height, width = other.depth.shape[-2:]
        x, y = pixels[0].floor().long().unbind(-1)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (distance[0] > 0)
        x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
        ahead = other.depth[:, y, x] / distance[0] - 1  # [N, points]: how far behind them it sees
        now = other.times.index(view.times[0])
        through = (ahead > SAME).any(dim=0) & (ahead[now] < SAME)
        there = inside & (ahead[now].abs() < SAME)
        moves[static] |= (inside & through) | (there & other.split.dynamic[now, y, x])
        alone[static] &= ~there
    if not moves.any():
        return moves
    surface = alone & even_surface(view.frames[0], view.depth[0])
    return (moves | spread(moves, surface)) & static


def moves_while_hidden(view: DepthView) -> Tensor:
    """Static pixels [H, W] that show something that moves: they are seen before something nearer
    covers them or after, never both, and at that time their surface goes on into one that moves (a
    shadow moves too, but at the depth that is seen there at other times)."""
    masks, moves = view.split, torch.zeros_like(view.split.static)
    seen = ~masks.dynamic & ((view.depth / masks.depth - 1).abs() < SAME)
    covered = view.depth < masks.depth * (1 - SAME)
    before, after = (x.int().cummax(dim=0).values.bool() for x in (seen, seen.flip(0)))
    back = (covered & before & after.flip(0)).any(dim=0)
    doubtful = masks.static & covered.any(dim=0) & ~back
    moving = masks.dynamic & (view.depth < view.depth.amax(dim=0) * (1 - SAME))
    for i in range(len(view.times)):
        shown = doubtful & seen[i]
        if shown.any():
            surface = shown & even_surface(view.frames[i], view.depth[i])
            moves |= spread(moving[i], surface) & shown
    return moves


def even_surface(image: Tensor, depth: Tensor) -> Tensor:
    """Pixels [H, W] around which neither colour, image [3, H, W], nor depth changes abruptly."""
    least, most = within_reach(image, 1)
    return ((most - least).amax(dim=0) < EVEN) & ~beside_jumps(depth[None])[0]


def spread(seeds: Tensor, ground: Tensor) -> Tensor:
    """The part of `ground` [H, W] that is connected to seeds [H, W], and one pixel around it."""
    reached, size = seeds, -1
    while int(reached.sum()) > size:
        size = int(reached.sum())
        reached = reached | (grown(reached[None], 1)[0] & ground)
    return grown((reached & ground)[None], 1)[0]


def assemble(views: list[DepthView], num_times: int, fps: float, cells: Tensor) -> GaussianScene:
    """The Gaussians of all views, what stands still once and what moves at its times."""
    device = views[0].depth.device
    static, dynamic = [], [[Gaussians.empty(device=device)] for _ in range(num_times)]
    for view in views:
        masks = view.split
        static.append(view.gaussians(masks.color, masks.depth, masks.static))
        for i, time in enumerate(view.times):
            dynamic[time].append(view.gaussians(view.frames[i], view.depth[i], masks.dynamic[i]))
    height, width = views[0].depth.shape[-2:]
    sure = confidences(views, num_times)
    return GaussianScene(
        Gaussians.concatenate(static),
        [Gaussians.concatenate(parts) for parts in dynamic],
        torch.stack([v.extrinsics for v in views]),
        torch.stack([v.intrinsics for v in views]),
        width,
        height,
        fps,
        observed=cells,
        confidences=sure,
    )


def confidences(views: list[DepthView], num_times: int) -> list[Tensor] | None:
    """How sure the network was of each Gaussian of `assemble`, as GaussianScene keeps it."""
    sure = [[torch.zeros(0, device=views[0].depth.device)] for _ in range(1 + num_times)]
    for view in views:
        if view.confidence is None:
            return None
        masks = view.split
        sure[0].append(view.confidence.gather(0, masks.time[None])[0][masks.static])
        for i, time in enumerate(view.times):
            sure[1 + time].append(view.confidence[i][masks.dynamic[i]])
    return [torch.cat(parts) for parts in sure]
