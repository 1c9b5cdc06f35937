"""Whether cameras that stand still started at one moment, told from tracks.

Two still cameras have one fundamental matrix F for all times: a point at x in the one and at y in
the other at the same moment has y^T F x = 0. What stands still gives F whenever it was seen. What
moves fits it only if frame t of the one view is held against frame t + d of the other that shows
the same moment; so d is the offset at which the moving points agree best.
"""

import torch
from torch import Tensor

from fourreal.reconstruction.tracking import Tracks

SEEN, TRUSTED = 0.5, 0.2  # visibility and confidence from which on a position counts
MOVED = 0.02  # parts of the frame's shorter side: what moves less stands still
NOISE = 0.001  # least error of a position, in the same parts
NEEDED = 30  # points that stand still, and pairs of moving points at an offset
CLEAR = 0.3  # nats per pair by which an offset must agree better than none
TRIES = 500  # of eight points each


def frame_offsets(tracks: Tracks, size: int) -> list[int | None]:
    """By how many frames each view shows the same moments later than the first view.

    tracks: of many points, still and moving ones, of a frame of the first view. size: the frames'
    shorter side in pixels. An offset is 0 where no other agrees clearly better, and None where too
    few points are seen in both views to tell; at most half of the times are tried.
    """
    offsets: list[int | None] = [0]
    for view in range(1, len(tracks.positions)):
        costs = offset_costs(Tracks(*(part[[0, view]] for part in tracks)), size)
        if 0 not in costs:
            offsets.append(None)
            continue
        best = best_offset(costs)
        offsets.append(best if costs[0] - costs[best] > CLEAR else 0)
    return offsets


def best_offset(costs: dict[int, float]) -> int:
    """The offset of the lowest cost; of several valleys about as deep, as motion that repeats
    itself has them, that of the smallest offset."""
    bound = min(costs.values()) + CLEAR / 2
    valleys = [
        offset
        for offset, cost in costs.items()
        if cost <= min(bound, *(costs.get(offset + side, cost) for side in (-1, 1)))
    ]
    return min(valleys, key=abs)


def offset_costs(tracks: Tracks, size: int) -> dict[int, float]:
    """How badly the moving points of two views agree at each offset d, frame t of the first against
    t + d of the second: the mean negative log-likelihood (Cauchy) of their distances from the
    epipolar lines. Offsets with too few pairs are left out."""
    points = tracks.positions.double() / size - 0.5
    seen = (tracks.visibility >= SEEN) & (tracks.confidence >= TRUSTED)
    moved = travel(points, seen)
    moving, still = (moved > MOVED).all(0), (moved <= MOVED).all(0) & (seen.sum(1) >= 3).all(0)
    if still.sum() < NEEDED:
        return {}
    at = torch.where(seen[..., None], points, torch.nan)[:, :, still]
    rest = at.nanmedian(dim=1).values  # [2, still, 2]
    noise = max(NOISE, 1.4826 * float((at - rest[:, None]).abs().nanmedian()))
    fundamental = fit_fundamental(rest[0], rest[1], noise)

    num_times, half = points.shape[1], points.shape[1] // 2
    costs = {}
    for offset in range(-half, half + 1):
        first = torch.arange(max(0, -offset), min(num_times, num_times - offset))
        second = first + offset
        both = seen[0, first] & seen[1, second] & moving
        if both.sum() < NEEDED:
            continue
        here, there = points[0, first][both], points[1, second][both]
        # Still points that lie in a plane leave F open; the moving ones then decide it.
        joint = torch.cat([rest[0], here]), torch.cat([rest[1], there])
        distance, _ = line_distances(refined(fundamental, *joint, noise, 3), here, there)
        costs[offset] = float((distance / noise).square().log1p().mean())
    return costs


def travel(points: Tensor, seen: Tensor) -> Tensor:
    """How far points [2, T, N, 2] move while they are seen: the diagonal between the first and the
    last fifth of their x and y, [2, N]; a few wild positions do not count. NaN where never seen."""
    there = torch.where(seen[..., None], points, torch.nan)
    ends = torch.nanquantile(there, points.new_tensor([0.2, 0.8]), dim=1)
    return (ends[1] - ends[0]).norm(dim=-1)


def homogeneous(points: Tensor) -> Tensor:
    return torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)


def line_distances(fundamental: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Sampson's distance [.., P] of pairs [P, 2] from the epipolar lines of matrices [.., 3, 3],
    and the squared gradient that it is made with."""
    x, y = homogeneous(first), homogeneous(second)
    lines, lines_back = x @ fundamental.mT, y @ fundamental
    gradient = lines[..., :2].square().sum(-1) + lines_back[..., :2].square().sum(-1)
    gradient = gradient.clamp_min(1e-24)
    return (y * lines).sum(-1).abs() / gradient.sqrt(), gradient


def solved(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """Fundamental matrices [.., 3, 3] of pairs [.., P, 2] with weights [.., P]: least squares, made
    singular (the eight-point algorithm; the points are near the unit square already)."""
    rows = (homogeneous(second)[..., :, None] * homogeneous(first)[..., None, :]).flatten(-2)
    _, vectors = torch.linalg.eigh(rows.mT @ (rows * weights[..., None]))
    left, values, right = torch.linalg.svd(vectors[..., 0].unflatten(-1, (3, 3)))
    return left @ torch.diag_embed(values * values.new_tensor([1, 1, 0])) @ right


def refined(matrix: Tensor, first: Tensor, second: Tensor, noise: float, steps: int) -> Tensor:
    """A fundamental matrix fitted to pairs [P, 2] with Cauchy's weights, from a first guess. noise:
    the distance at which a pair's weight is a half."""
    for _ in range(steps):
        distance, gradient = line_distances(matrix, first, second)
        weights = 1 / (1 + (distance / noise).square()) / gradient
        matrix = solved(first, second, weights / weights.sum())
    return matrix


def fit_fundamental(first: Tensor, second: Tensor, noise: float) -> Tensor:
    """The fundamental matrix [3, 3] of pairs [P, 2], of which up to half may be wrong: the best of
    many made of eight pairs by its median distance, then refined."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(TRIES, len(first), generator=generator).topk(8, dim=1).indices
    guesses = solved(first[drawn], second[drawn], first.new_ones(TRIES, 8))
    distances, _ = line_distances(guesses, first, second)
    return refined(guesses[distances.median(-1).values.argmin()], first, second, noise, 5)
