"""Which splats touch which 4 x 4 pixel tile of the image, each tile's list sorted near to far."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fourreal.rendering.projection import Splats

TILE = 4  # pixels
MARGIN = 1e-3  # pixels around an ellipse, more than its coordinates are rounded by


@dataclass
class TileLists:
    """Which splats each tile draws, near to far; tiles are ranked, longest list first.

    splats [I]: splat of every (tile, splat) pair; starts, counts [R]: each ranked tile's slice of
    it; tiles [R]: the index y * tiles_x + x of each ranked tile; tiles_x, tiles_y: the grid.
    """

    splats: Tensor
    starts: Tensor
    counts: Tensor
    tiles: Tensor
    tiles_x: int
    tiles_y: int

    def centers(self) -> Tensor:
        """Centres of the ranked tiles [R, 2] in pixels."""
        xy = torch.stack([self.tiles % self.tiles_x, self.tiles // self.tiles_x], dim=-1)
        return TILE * xy.float() + 0.5 * TILE


def touched_tiles(low: Tensor, high: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """First tile, and number of tiles, with a pixel centre in [low, high] (pixels), in a line of
    `count` tiles; int32."""
    # Clamped before the cast to integers.
    first = ((low - 0.5).ceil_() / TILE).floor_().clamp_(0, count).int()
    last = ((high - 0.5).floor_() / TILE).floor_().clamp_(-1, count - 1).int()
    return first, last.sub_(first).add_(1).clamp_min_(0)


def expand_runs(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Expand run lengths (int32 [N]): the owner of every element [sum], int32, and the offset where
    each owner's run starts [N]."""
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    return torch.repeat_interleave(counts, output_size=total).int(), (ends - counts).int()


def count_up(starts: Tensor, begins: Tensor, owners: Tensor) -> Tensor:
    """The runs starts[o], starts[o] + 1, .. of all owners o, one after another; owners and begins
    (the runs' offsets) as `expand_runs` gives them."""
    steps = torch.arange(len(owners), device=owners.device, dtype=torch.int32)
    return steps.add_((starts - begins).index_select(0, owners))


def row_bounds(ellipses: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Leftmost and rightmost x that ellipses [7, N] reach between the first and the last pixel
    centre of a row of tiles [N].

    At dy from its centre an ellipse spans dx = slope dy -+ half_width (1 - (dy / ry)^2)^1/2, within
    -+ rx; it reaches rx at dy = turn and -rx at -turn.
    """
    x, y, rx, slope, half_width, inverse_ry, turn = ellipses
    top = rows * float(TILE) + 0.5 - y
    bottom = top + (TILE - 1)
    bounds = []
    for side in (-1.0, 1.0):
        dy = torch.minimum(torch.maximum(turn * side, top), bottom)
        reach = (1.0 - (dy * inverse_ry).square_()).clamp_min_(0.0).sqrt_().mul_(half_width)
        bounds.append(torch.addcmul(x, slope, dy).add_(reach, alpha=side))
    # The larger or smaller one that is a number: numbers of enormous splats overflow.
    return torch.fmax(bounds[0], x - rx), torch.fmin(bounds[1], x + rx)


@torch.no_grad()
def list_tiles(splats: Splats, width: int, height: int) -> TileLists:
    """Sort the splats into the tiles in which their ellipse of alpha 1/255 holds a pixel centre."""
    tiles_x, tiles_y = -(-width // TILE), -(-height // TILE)
    device = splats.depth.device
    x, y, p, h, q, _ = splats.geometry
    rx, ry = splats.radius + MARGIN
    _, columns = touched_tiles(x - rx, x + rx, tiles_x)
    top, rows = touched_tiles(y - ry, y + ry, tiles_y)
    drawn = (splats.visible & (columns > 0) & (rows > 0)).nonzero()[:, 0].int()
    # Positive floats sort like their bits, and integers have the faster (radix) sort.
    bits = splats.depth.index_select(0, drawn).view(torch.int32)
    drawn = drawn.index_select(0, bits.sort(stable=True).indices)

    # On (p dx)^2 + (q dy - h dx)^2 = (p rx)^2, which has its extremes at dx = rx and dy = ry.
    square = p.square().addcmul_(h, h).reciprocal_()
    slope = h * q * square
    half_width = rx * p * square.sqrt_()
    ellipses = torch.stack([x, y, rx, slope, half_width, ry.reciprocal(), slope * ry * ry / rx])
    ellipses = ellipses.index_select(1, drawn)
    owner, begins = expand_runs(rows.index_select(0, drawn))
    row = count_up(top.index_select(0, drawn), begins, owner)
    first, spans = touched_tiles(*row_bounds(ellipses.index_select(1, owner), row), tiles_x)
    first += row * tiles_x

    row_owner, begins = expand_runs(spans)
    tile = count_up(first, begins, row_owner)
    per_tile = torch.bincount(tile, minlength=tiles_x * tiles_y)
    per_tile, tiles = per_tile.sort(descending=True, stable=True)
    rank = torch.empty_like(tiles, dtype=torch.int32)
    rank[tiles] = torch.arange(len(tiles), device=device, dtype=torch.int32)
    order = rank.index_select(0, tile).sort(stable=True).indices
    splat_of_row = drawn.index_select(0, owner)
    return TileLists(
        splat_of_row.index_select(0, row_owner.index_select(0, order)),
        per_tile.cumsum(0) - per_tile,
        per_tile,
        tiles,
        tiles_x,
        tiles_y,
    )
