"""Front-to-back compositing of the tiles' sorted splats, with its gradient.

Per splat i and pixel: alpha_i = min(0.999, opacity exp(-sigma)), dropped below 1/255;
transmittance T_i = prod_{j<i} (1 - alpha_j); weight w_i = alpha_i T_i; a pixel is finished before
its T would fall to 1e-4 (3DGS, Kerbl et al. 2023; the constants are gsplat's classic mode).

What makes it fast with plain tensor operations: within a tile, log alpha is a quadratic polynomial
of the pixel, so all exponents of a tile are one small matrix product; lists are sorted once;
tiles with lists of similar length are processed together, 64 splats at a time, in blocks that
stay in the processor's cache from the gathering of the splats to their gradient, and a tile is
left as soon as its pixels are finished.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fourreal.rendering.projection import ALPHA_CUT
from fourreal.rendering.tiles import TILE, TileLists

PIXELS = TILE * TILE
CHUNK = 64  # splats of a tile composited at a time
MAX_ALPHA = 0.999
MIN_TRANSMITTANCE = 1e-4
LOG2_E = math.log2(math.e)
GEOMETRY = 6  # numbers that place a splat, and coefficients of its polynomial
LOG_OPACITY = 5  # the last of them
BLOCK_ELEMENTS_CPU = 2**20  # splats x pixels per step: 4 MB, so that its tensors stay in cache
BLOCK_ELEMENTS_GPU = 2**23


def pixel_basis(device: torch.device) -> Tensor:
    """1, x, -y, -x^2 / 2, xy, -y^2 / 2 at the pixels of a tile, from its centre: [PIXELS, 6].

    The signs and halves are those of the splats' polynomials, applied here once for all.
    """
    offset = torch.arange(TILE, device=device, dtype=torch.float32) + 0.5 - 0.5 * TILE
    y, x = (a.reshape(-1) for a in torch.meshgrid(offset, offset, indexing="ij"))
    return torch.stack([torch.ones_like(x), x, -y, -0.5 * x * x, x * y, -0.5 * y * y], dim=1)


def base_two(splats: Tensor) -> Tensor:
    """Scale the geometry of splats [6 + C, N] so that the formula for log alpha gives log2 alpha:
    exp2 is faster than exp, several times for large negative numbers. For gradients, too."""
    scale = splats.new_ones(len(splats), 1)
    scale[2:LOG_OPACITY] = LOG2_E**0.5
    scale[LOG_OPACITY] = LOG2_E
    return splats * scale


def from_means(geometry: Tensor, centers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tile centres [B, 2] from the means of geometry [6, B, K]: x, y and, with the splats' forms
    applied, u0 = p x, v0 = q y - h x, each [B, K]."""
    x, y = centers.T[:, :, None] - geometry[:2]
    p, h, q = geometry[2:LOG_OPACITY]
    return x, y, p * x, (q * y).addcmul_(h, x, value=-1.0)


def tile_polynomials(geometry: Tensor, centers: Tensor) -> Tensor:
    """Coefficients [B, 6, K] of log alpha in `pixel_basis` around tile centres [B, 2], for geometry
    [6, B, K].

    log alpha = log opacity - ((u0 + p x)^2 + (v0 + q y - h x)^2) / 2.
    """
    p, h, q, log_opacity = geometry[2:]
    _, _, u0, v0 = from_means(geometry, centers)
    rows = geometry.new_empty(u0.shape[0], 6, u0.shape[1])
    constant, linear_x, linear_y, square_x, product, square_y = rows.unbind(1)
    torch.addcmul(log_opacity, u0, u0, value=-0.5, out=constant).addcmul_(v0, v0, value=-0.5)
    torch.mul(h, v0, out=linear_x).addcmul_(p, u0, value=-1.0)
    torch.mul(q, v0, out=linear_y)
    torch.mul(p, p, out=square_x).addcmul_(h, h)
    torch.mul(h, q, out=product)
    torch.mul(q, q, out=square_y)
    return rows


@contextmanager
def exact_products() -> Iterator[None]:
    """Full float32 matrix products: TF32 would round the exponents to a few percent.

    PyTorch has this setting for the whole process alone, not for a product; it is given back at the
    end, whatever happens. Work in other threads meanwhile is more exact, if anything.
    """
    before = torch.get_float32_matmul_precision()
    if before != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if before != "highest":
            torch.set_float32_matmul_precision(before)


class Chunks:
    """The tiles' lists in blocks of tiles, and the splats of a block CHUNK by CHUNK.

    table [6 + C, N + 1]: the splats, and an empty one that fills up short lists.
    """

    def __init__(self, splats: Tensor, lists: TileLists):
        self.lists = lists
        self.table = F.pad(base_two(splats), (0, 1))
        self.table[LOG_OPACITY, -1] = -1e4
        self.owners = F.pad(lists.splats, (0, 1), value=splats.shape[1])
        self.centers = lists.centers()
        self.basis = pixel_basis(splats.device)
        # Only then can an alpha be limited, which costs three passes over all pixels.
        self.saturated = bool((splats[LOG_OPACITY] > math.log(MAX_ALPHA)).any())

    def blocks(self) -> list[slice]:
        """Ranked tiles processed together; those without splats are left out."""
        on_cpu = self.table.device.type == "cpu"
        size = (BLOCK_ELEMENTS_CPU if on_cpu else BLOCK_ELEMENTS_GPU) // (CHUNK * PIXELS)
        count = int((self.lists.counts > 0).sum())
        return [slice(i, min(i + size, count)) for i in range(0, count, size)]

    def gather(self, tiles: Tensor, offset: int, length: int) -> tuple[Tensor, Tensor]:
        """Splats offset.. of the lists of tiles [B]: indices [B * K], values [6 + C, B, K]."""
        steps = torch.arange(offset, offset + length, device=tiles.device)
        pairs = self.lists.starts[tiles][:, None] + steps
        pairs.masked_fill_(steps >= self.lists.counts[tiles][:, None], len(self.owners) - 1)
        index = self.owners.index_select(0, pairs.view(-1)).long()  # the faster kind
        # The same as index_select, but on all cores.
        splats = self.table.gather(1, index.expand(len(self.table), -1))
        return index, splats.view(-1, len(tiles), length)

    def alphas(self, splats: Tensor, tiles: Tensor, out: Tensor) -> Tensor:
        """Opacities [B, PIXELS, K] of splats [6 + C, B, K], before the upper limit."""
        polynomials = tile_polynomials(splats[:GEOMETRY], self.centers[tiles])
        torch.matmul(self.basis, polynomials, out=out)
        return torch.threshold_(out.exp2_(), ALPHA_CUT, 0.0)


class Workspace:
    """Memory for the tensors of one step, used again and again: fresh pages cost more than the
    arithmetic on them."""

    def __init__(self, count: int, blocks: list[slice], like: Tensor):
        size = max((block.stop - block.start for block in blocks), default=0) * CHUNK * PIXELS
        self.memory = like.new_empty(count, size)

    def tensors(self, batch: int, length: int) -> list[Tensor]:
        """Uninitialised tensors [batch, PIXELS, length]."""
        return list(self.memory[:, : batch * PIXELS * length].view(-1, batch, PIXELS, length))


class Composite(torch.autograd.Function):
    """Splats [6 + C, N], geometry then features, to sums sum_i w_i f_i [tiles, C, PIXELS].

    Only the lists' effective length is kept for the backward, which computes alphas again.
    """

    @staticmethod
    def forward(ctx: Any, splats: Tensor, lists: TileLists) -> Tensor:
        image = splats.new_zeros(len(lists.tiles), len(splats) - GEOMETRY, PIXELS)
        used = torch.zeros_like(lists.counts)
        chunks = Chunks(splats, lists)
        blocks = chunks.blocks()
        work = Workspace(2, blocks, splats)
        for block in blocks:
            composite_block(chunks, block, work, image, used)
        ctx.lists, ctx.used = lists, used
        ctx.save_for_backward(splats, image)
        result = torch.empty_like(image)
        result[lists.tiles] = image
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_result: Tensor) -> tuple[Tensor, None]:
        splats, image = ctx.saved_tensors
        grad_image = grad_result.index_select(0, ctx.lists.tiles)
        # sum_i w_i (f_i . g): what lies behind a splat is this less what lies before it.
        total = (grad_image * image).sum(1)
        with exact_products():
            chunks = Chunks(splats, ctx.lists)
            grad_table = torch.zeros_like(chunks.table)
            blocks = chunks.blocks()
            work = Workspace(4 + chunks.saturated, blocks, splats)
            for block in blocks:
                backward_block(
                    chunks,
                    block,
                    work,
                    grad_image[block],
                    total[block],
                    ctx.used[block],
                    grad_table,
                )
        grad_table[:GEOMETRY] /= LOG2_E  # d log alpha / d log2 alpha
        return base_two(grad_table[:, :-1]), None


def composite_block(
    chunks: Chunks, block: slice, work: Workspace, image: Tensor, used: Tensor
) -> None:
    """Composite a block of ranked tiles into image [R, C, PIXELS]; record the lengths used [R]."""
    counts = chunks.lists.counts
    tiles = torch.arange(block.start, block.stop, device=image.device)
    transmittance = image.new_ones(len(tiles), PIXELS)
    longest = int(counts[block.start])
    for offset in range(0, longest, CHUNK):
        length = min(CHUNK, longest - offset)
        _, splats = chunks.gather(tiles, offset, length)
        alpha, after = work.tensors(len(tiles), length)
        chunks.alphas(splats, tiles, out=alpha)
        if chunks.saturated:
            alpha.clamp_max_(MAX_ALPHA)
        transmittance = transmit(alpha, transmittance, out=after)
        weights = alpha.mul_(after)
        image[tiles] += splats[GEOMETRY:].transpose(0, 1) @ weights.transpose(1, 2)
        used[tiles] = offset + length
        alive = (transmittance.amax(1) > 0.0) & (counts[tiles] > offset + length)
        keep = alive.nonzero()[:, 0]
        if len(keep) == 0:
            return
        if len(keep) < len(tiles):
            tiles, transmittance = tiles[keep], transmittance[keep]


def transmit(alpha: Tensor, transmittance: Tensor, out: Tensor) -> Tensor:
    """Turn alpha [B, PIXELS, K] into odds alpha / (1 - alpha), and write into `out` what is left
    of the light, transmittance [B, PIXELS], after each splat: 0 from where a pixel is finished.

    The weight alpha T of a splat is its odds times what is left after it. Returns what is left in
    the end [B, PIXELS].
    """
    torch.sub(1.0, alpha, out=out)
    alpha.div_(out)
    out[..., 0] *= transmittance
    torch.cumprod(out, dim=-1, out=out)
    torch.threshold_(out, MIN_TRANSMITTANCE, 0.0)
    return out[..., -1].clone()


def backward_block(
    chunks: Chunks,
    block: slice,
    work: Workspace,
    grad_image: Tensor,
    total: Tensor,
    used: Tensor,
    grad_table: Tensor,
) -> None:
    """Add the gradient of a block's tiles (grad_image [B, C, PIXELS]) to grad_table [6 + C, N + 1].

    With g_i = f_i . grad and S_i the sum of w_j g_j behind i:
    d/d log alpha_i = alpha_i / (1 - alpha_i) * (T_{i+1} g_i - S_i).
    """
    tiles = torch.arange(block.start, block.stop, device=grad_image.device)
    transmittance = grad_image.new_ones(len(tiles), PIXELS)
    longest = int(used.max())
    for offset in range(0, longest, CHUNK):
        length = min(CHUNK, longest - offset)
        index, splats = chunks.gather(tiles, offset, length)
        odds, after, toward, passed, *limited = work.tensors(len(tiles), length)
        chunks.alphas(splats, tiles, out=odds)
        if chunks.saturated:
            torch.le(odds, MAX_ALPHA, out=limited[0])
            odds.clamp_max_(MAX_ALPHA)
        transmittance = transmit(odds, transmittance, out=after)
        features = splats[GEOMETRY:].transpose(0, 1)
        torch.matmul(grad_image.transpose(1, 2), features, out=toward)  # g, [B, PIXELS, K]
        weights = torch.mul(after, odds, out=passed)
        grad_features = grad_image @ weights
        passed.mul_(toward)
        passed[..., 0] -= total
        torch.cumsum(passed, dim=-1, out=passed)  # -S
        total = -passed[..., -1]
        grad_exponent = torch.addcmul(passed, toward, after, out=toward)  # T g - S
        # A finished or saturated splat has no gradient: its odds become 0.
        if not transmittance.all():
            odds.mul_(after.sign_())
        if chunks.saturated:
            odds.mul_(limited[0])
        grad_exponent.mul_(odds)
        grad_polynomials = chunks.basis.T @ grad_exponent
        grads = torch.empty_like(splats)
        chain(splats[:GEOMETRY], chunks.centers[tiles], grad_polynomials, out=grads[:GEOMETRY])
        grads[GEOMETRY:] = grad_features.transpose(0, 1)
        grad_table.scatter_add_(1, index.expand(len(grads), -1), grads.flatten(1))
        keep = (used > offset + length).nonzero()[:, 0]
        if len(keep) < len(tiles):
            tiles, transmittance, total = tiles[keep], transmittance[keep], total[keep]
            grad_image, used = grad_image[keep], used[keep]


def chain(geometry: Tensor, centers: Tensor, grad: Tensor, out: Tensor) -> None:
    """Write to `out` the gradient [6, B, K] by the geometry, from that by tile_polynomials' result
    [B, 6, K]."""
    p, h, q, _ = geometry[2:]
    constant, linear_x, linear_y, square_x, product, square_y = grad.unbind(1)
    x, y, u0, v0 = from_means(geometry, centers)
    minus_grad_u0 = (constant * u0).addcmul_(linear_x, p)
    grad_v0 = (linear_x * h).addcmul_(constant, v0, value=-1.0).addcmul_(linear_y, q)
    mean_x, mean_y, grad_p, grad_h, grad_q, log_opacity = out
    torch.mul(minus_grad_u0, p, out=mean_x).addcmul_(grad_v0, h)
    torch.mul(grad_v0, q, out=mean_y).neg_()
    torch.mul(square_x, p, out=grad_p).mul_(2.0)
    grad_p.addcmul_(minus_grad_u0, x, value=-1.0).addcmul_(linear_x, u0, value=-1.0)
    torch.mul(square_x, h, out=grad_h).mul_(2.0)
    grad_h.addcmul_(product, q).addcmul_(linear_x, v0).addcmul_(grad_v0, x, value=-1.0)
    torch.mul(square_y, q, out=grad_q).mul_(2.0)
    grad_q.addcmul_(product, h).addcmul_(linear_y, v0).addcmul_(grad_v0, y)
    log_opacity.copy_(constant)
