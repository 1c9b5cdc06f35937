"""Which splats touch which 4 x 4 pixel tile of the image, each tile's list sorted near to far."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .projection import Splats

TILE = 4  # pixels


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


@torch.no_grad()
def list_tiles(splats: Splats, width: int, height: int) -> TileLists:
    """Sort the splats into the tiles that their bounding boxes touch."""
    tiles_x, tiles_y = -(-width // TILE), -(-height // TILE)
    device = splats.depth.device
    center = splats.geometry[:2]
    limit = torch.tensor([[tiles_x], [tiles_y]], device=device)
    # First and last tile with a pixel centre inside the box; clamped before the cast to integers.
    first = ((center - splats.radius - 0.5).ceil() / TILE).floor()
    last = ((center + splats.radius - 0.5).floor() / TILE).floor()
    first = first.clamp_min(0).minimum(limit).int()
    last = last.clamp_min(-1).minimum(limit - 1).int()
    span = (last - first + 1).clamp_min(0)
    touched = span[0] * span[1] * splats.visible

    drawn = touched.nonzero()[:, 0].int()
    # Positive floats sort like their bits, and integers have the faster (radix) sort.
    bits = splats.depth.detach().index_select(0, drawn).view(torch.int32)
    drawn = drawn.index_select(0, bits.sort(stable=True).indices)
    counts = touched.index_select(0, drawn)
    ends = counts.cumsum(0)
    pairs = int(ends[-1]) if len(ends) else 0
    columns = span[0].index_select(0, drawn)
    origin = (first[1] * tiles_x + first[0]).index_select(0, drawn)
    owner = torch.repeat_interleave(counts, output_size=pairs).int()
    within = torch.arange(pairs, device=device, dtype=torch.int32)
    within -= (ends - counts).int().index_select(0, owner)
    columns = columns.index_select(0, owner)
    row = torch.div(within, columns, rounding_mode="floor")
    tile = origin.index_select(0, owner) + row * (tiles_x - columns) + within

    per_tile = torch.bincount(tile, minlength=tiles_x * tiles_y)
    per_tile, tiles = per_tile.sort(descending=True, stable=True)
    rank = torch.empty_like(tiles, dtype=torch.int32)
    rank[tiles] = torch.arange(len(tiles), device=device, dtype=torch.int32)
    order = rank.index_select(0, tile).sort(stable=True).indices
    return TileLists(
        drawn.index_select(0, owner.index_select(0, order)),
        per_tile.cumsum(0) - per_tile,
        per_tile,
        tiles,
        tiles_x,
        tiles_y,
    )
