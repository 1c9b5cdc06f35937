"""Front-to-back compositing of the tiles' sorted splats, with its gradient.

Per splat i and pixel: alpha_i = min(0.999, opacity exp(-sigma)), dropped below 1/255;
transmittance T_i = prod_{j<i} (1 - alpha_j); weight w_i = alpha_i T_i; a pixel is finished before
its T would fall to 1e-4 (3DGS, Kerbl et al. 2023; the constants are gsplat's classic mode).

What makes it fast with plain tensor operations: within a tile, log alpha is a quadratic polynomial
of the pixel, so all exponents of a tile are one small matrix product; lists are sorted once;
tiles with lists of similar length are processed together, 64 splats at a time, in blocks that
stay in the processor's cache, and a tile is left as soon as its pixels are finished.
"""

import math
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .projection import ALPHA_CUT
from .tiles import TILE, TileLists

PIXELS = TILE * TILE
CHUNK = 64  # splats of a tile composited at a time
MAX_ALPHA = 0.999
MIN_TRANSMITTANCE = 1e-4
LOG2_E = math.log2(math.e)
GEOMETRY = 6  # numbers that place a splat, and coefficients of its polynomial
BLOCK_ELEMENTS_CPU = 2**19  # splats x pixels per step: 2 MB, so that its tensors stay in cache
BLOCK_ELEMENTS_GPU = 2**23
GROUP_PAIRS = 2**20  # (splat, tile) pairs expanded at a time, which bounds the memory


def pixel_basis(device) -> Tensor:
    """1, x, y, x^2, xy, y^2 at the pixel centres of a tile, from its centre: [6, PIXELS]."""
    offset = torch.arange(TILE, device=device, dtype=torch.float32) + 0.5 - 0.5 * TILE
    y, x = (a.reshape(-1) for a in torch.meshgrid(offset, offset, indexing="ij"))
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y])


def tile_polynomials(splats: Tensor, centers: Tensor) -> Tensor:
    """Coefficients [6, I] of log2 alpha around tile centres [I, 2] for splats [I, 6 + C].

    log alpha = log opacity - ((u0 + p x)^2 + (v0 + q y - h x)^2) / 2; base 2 because exp2 is
    faster than exp, several times for large negative numbers.
    """
    mean_x, mean_y, p, h, q, log_opacity = splats[:, :GEOMETRY].T
    x, y = centers[:, 0] - mean_x, centers[:, 1] - mean_y
    u0, v0 = p * x, q * y - h * x
    constant = log_opacity - 0.5 * (u0 * u0 + v0 * v0)
    square_x = -0.5 * (p * p + h * h)
    rows = [constant, h * v0 - p * u0, -q * v0, square_x, h * q, -0.5 * q * q]
    return torch.stack(rows) * LOG2_E


@contextmanager
def exact_products():
    """Full float32 matrix products: TF32 would round the exponents to a few percent."""
    before = torch.get_float32_matmul_precision()
    if before != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if before != "highest":
            torch.set_float32_matmul_precision(before)


def groups(lists: TileLists) -> list[tuple[int, int]]:
    """Slices [begin, end) of ranked tiles with about GROUP_PAIRS pairs each."""
    counts = lists.counts.tolist()
    result, begin, pairs = [], 0, 0
    for rank, count in enumerate(counts):
        if count == 0:
            break
        if pairs and pairs + count > GROUP_PAIRS:
            result.append((begin, rank))
            begin, pairs = rank, 0
        pairs += count
    else:
        rank = len(counts)
    return [*result, (begin, rank)] if pairs else result


class Group:
    """The expanded pairs of some ranked tiles: a table of polynomials and features per pair.

    table [I + 1, 6 + C]; its last row is an empty splat, which fills up short lists.
    """

    def __init__(self, splats: Tensor, lists: TileLists, begin: int, end: int):
        first = int(lists.starts[begin])
        self.starts = lists.starts[begin:end] - first
        self.counts = lists.counts[begin:end]
        self.pairs = int(self.counts.sum())
        self.owners = lists.splats[first : first + self.pairs]
        self.centers = lists.centers()[begin:end].repeat_interleave(
            self.counts, dim=0, output_size=self.pairs
        )
        self.table = splats.new_empty(self.pairs + 1, splats.shape[1])
        torch.index_select(splats, 0, self.owners, out=self.table[:-1])
        self.table[:-1, :GEOMETRY] = tile_polynomials(self.table[:-1], self.centers).T
        self.table[-1] = 0.0
        self.table[-1, 0] = -1e4  # log2 alpha

    def blocks(self) -> list[slice]:
        """Tiles processed together, as slices of this group."""
        on_cpu = self.table.device.type == "cpu"
        size = (BLOCK_ELEMENTS_CPU if on_cpu else BLOCK_ELEMENTS_GPU) // (CHUNK * PIXELS)
        count = len(self.counts)
        return [slice(i, min(i + size, count)) for i in range(0, count, size)]

    def chunk(self, tiles: Tensor, offset: int, length: int) -> Tensor:
        """Rows [B * length] of the table: splats offset.. of the given tiles [B]."""
        steps = torch.arange(offset, offset + length, device=tiles.device)
        rows = self.starts[tiles][:, None] + steps
        return rows.masked_fill_(steps >= self.counts[tiles][:, None], self.pairs).view(-1)

    def rows(self, index: Tensor, length: int) -> Tensor:
        """The rows [B, length, 6 + C] of an index [B * length]."""
        return self.table.index_select(0, index).view(-1, length, self.table.shape[1])


class Workspace:
    """Memory for the tensors of one step, used again and again: fresh pages cost more than the
    arithmetic on them."""

    def __init__(self, count: int, blocks: list[slice], like: Tensor):
        size = max(block.stop - block.start for block in blocks) * CHUNK * PIXELS
        self.memory = like.new_empty(count, size)

    def tensors(self, batch: int, length: int) -> list[Tensor]:
        """Uninitialised tensors [batch, PIXELS, length]."""
        return list(self.memory[:, : batch * PIXELS * length].view(-1, batch, PIXELS, length))


def alphas(rows: Tensor, basis: Tensor, out: Tensor) -> Tensor:
    """Opacities [B, PIXELS, K] of table rows [B, K, 6 + C], before the upper limit."""
    exponent = torch.matmul(basis.T, rows[..., :GEOMETRY].transpose(1, 2), out=out)
    return F.threshold_(exponent.exp2_(), ALPHA_CUT, 0.0)


class Composite(torch.autograd.Function):
    """Splats [N, 6 + C], geometry then features, to sums sum_i w_i f_i [tiles, C, PIXELS].

    Only the lists' effective length is kept for the backward, which computes alphas again.
    """

    @staticmethod
    def forward(ctx, splats: Tensor, lists: TileLists) -> Tensor:
        image = splats.new_zeros(len(lists.tiles), splats.shape[1] - GEOMETRY, PIXELS)
        used = torch.zeros_like(lists.counts)
        basis = pixel_basis(splats.device)
        for begin, end in groups(lists):
            group = Group(splats, lists, begin, end)
            blocks = group.blocks()
            work = Workspace(2, blocks, splats)
            for block in blocks:
                composite_block(group, block, work, basis, image[begin:end], used[begin:end])
        ctx.lists, ctx.used = lists, used
        ctx.save_for_backward(splats, image)
        result = torch.empty_like(image)
        result[lists.tiles] = image
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_result: Tensor):
        splats, image = ctx.saved_tensors
        lists = ctx.lists
        grad_image = grad_result.index_select(0, lists.tiles)
        # sum_i w_i (f_i . g): what lies behind a splat is this less what lies before it.
        total = (grad_image * image).sum(1)
        grads = torch.zeros_like(splats)
        basis = pixel_basis(splats.device)
        with exact_products():
            for begin, end in groups(lists):
                group = Group(splats, lists, begin, end)
                grad_table = torch.zeros_like(group.table)
                blocks = group.blocks()
                work = Workspace(5, blocks, splats)
                for block in blocks:
                    part = slice(begin + block.start, begin + block.stop)
                    backward_block(
                        group, block, work, basis, grad_image[part], total[part], ctx.used[part],
                        grad_table,
                    )  # fmt: skip
                grads += sum_per_splat(splats, group, grad_table[: group.pairs])
        return grads, None


def composite_block(
    group: Group, block: slice, work: Workspace, basis: Tensor, image: Tensor, used: Tensor
) -> None:
    """Composite a block of a group into its image [R, C, PIXELS] and record the lengths used."""
    tiles = torch.arange(block.start, block.stop, device=basis.device)
    transmittance = basis.new_ones(len(tiles), PIXELS)
    longest = int(group.counts[block.start])
    for offset in range(0, longest, CHUNK):
        length = min(CHUNK, longest - offset)
        rows = group.rows(group.chunk(tiles, offset, length), length)
        alpha, after = work.tensors(len(tiles), length)
        alphas(rows, basis, out=alpha).clamp_max_(MAX_ALPHA)
        transmit(alpha, transmittance, out=after)
        weights = alpha.mul_(after)
        image[tiles] += rows[..., GEOMETRY:].transpose(1, 2) @ weights.transpose(1, 2)
        used[tiles] = offset + length
        transmittance = after[..., -1].clone()
        alive = (transmittance.amax(1) > 0.0) & (group.counts[tiles] > offset + length)
        keep = alive.nonzero()[:, 0]
        if len(keep) == 0:
            return
        if len(keep) < len(tiles):
            tiles, transmittance = tiles[keep], transmittance[keep]


def transmit(alpha: Tensor, transmittance: Tensor, out: Tensor) -> None:
    """Turn alpha [B, PIXELS, K] into odds alpha / (1 - alpha), and write into `out` what is left
    of the light, transmittance [B, PIXELS], after each splat: 0 from where a pixel is finished.

    The weight alpha T of a splat is its odds times what is left after it.
    """
    torch.sub(1.0, alpha, out=out)
    alpha.div_(out)
    out[..., 0] *= transmittance
    torch.cumprod(out, dim=-1, out=out)
    F.threshold_(out, MIN_TRANSMITTANCE, 0.0)


def backward_block(
    group: Group,
    block: slice,
    work: Workspace,
    basis: Tensor,
    grad_image: Tensor,
    total: Tensor,
    used: Tensor,
    grad_table: Tensor,
) -> None:
    """Gradient of a block's tiles (grad_image [B, C, PIXELS]) into the rows of grad_table.

    With g_i = f_i . grad and S_i the sum of w_j g_j behind i:
    d/d log alpha_i = alpha_i / (1 - alpha_i) * (T_{i+1} g_i - S_i).
    """
    tiles = torch.arange(block.start, block.stop, device=basis.device)
    transmittance = basis.new_ones(len(tiles), PIXELS)
    longest = int(used.max())
    for offset in range(0, longest, CHUNK):
        length = min(CHUNK, longest - offset)
        index = group.chunk(tiles, offset, length)
        rows = group.rows(index, length)
        free, odds, after, toward, passed = work.tensors(len(tiles), length)
        alphas(rows, basis, out=free)
        torch.clamp(free, max=MAX_ALPHA, out=odds)
        transmit(odds, transmittance, out=after)
        transmittance = after[..., -1].clone()
        features = rows[..., GEOMETRY:].transpose(1, 2)
        torch.matmul(grad_image.transpose(1, 2), features, out=toward)  # g, [B, PIXELS, K]
        grad_rows = torch.empty_like(rows)
        weights = torch.mul(after, odds, out=passed)
        grad_rows[..., GEOMETRY:] = (grad_image @ weights).transpose(1, 2)
        passed.mul_(toward)
        torch.cumsum(passed, dim=-1, out=passed)
        # A finished or saturated splat has no gradient: its odds become 0.
        unsaturated = F.threshold_(free.neg_(), -MAX_ALPHA, 0.0).sign_()  # -1, else 0
        grad_exponent = toward.mul_(after).add_(passed).sub_(total[..., None])  # T g - S
        grad_exponent.mul_(odds.mul_(after.sign_()).mul_(unsaturated))
        total = total - passed[..., -1]
        grad_rows[..., :GEOMETRY] = -(basis @ grad_exponent).transpose(1, 2)
        grad_table[index] = grad_rows.view(len(index), -1)
        keep = (used > offset + length).nonzero()[:, 0]
        if len(keep) < len(tiles):
            tiles, transmittance, total = tiles[keep], transmittance[keep], total[keep]
            grad_image, used = grad_image[keep], used[keep]


def sum_per_splat(splats: Tensor, group: Group, grad_table: Tensor) -> Tensor:
    """Chain the pairs' gradients [I, 6 + C] to the splats' own and sum them up: [N, 6 + C].

    grad_table's first columns are the gradient by the coefficients of log alpha (base e).
    """
    pairs = splats.index_select(0, group.owners)[:, :GEOMETRY]
    with torch.enable_grad():
        polynomials = tile_polynomials(pairs.requires_grad_(), group.centers)
    chained = grad_table[:, :GEOMETRY].T / LOG2_E
    (grad_table[:, :GEOMETRY],) = torch.autograd.grad(polynomials, pairs, chained)
    if splats.device.type != "cpu":
        return torch.zeros_like(splats).index_add_(0, group.owners, grad_table)
    # On the CPU index_add_ is ten times slower than sorting and adding up runs.
    order = group.owners.sort(stable=True).indices
    ends = torch.bincount(group.owners, minlength=len(splats)).cumsum(0)
    return F.embedding_bag(
        order, grad_table, F.pad(ends, (1, 0)), mode="sum", include_last_offset=True
    )
