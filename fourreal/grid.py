"""The V x T grid of frames: index maths, layouts, references and contact sheets.

A grid holds V synchronised views of T times (paper, section 3). A row is one view over all times
(a *fixed-view video*), a column is one time over all views (a *freeze-time video*). Order is
view-major everywhere.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

TEMPORAL_STRIDE = 4  # pixel frames per latent frame of Wan's VAE, after the first
GAP = 2  # pixels between the cells of a contact sheet
COMPARED = 64  # pixels of the longer side at which the references' shared cell is compared
# Of two pictures of one cell. First frames of 32 validation scenes: other scenes have at most 0.69
# and 19 dB; the same frame has at least 0.91 and 25 dB after H.264 at CRF 45, and 0.97 with 1.3
# times the light (but 14 dB); the next moment, an eighth of a second later, 0.89 and 24 dB.
ONE_PICTURE = 0.7, 22.0  # correlation, or PSNR in dB where both are nearly of one colour


def num_latent_frames(num_frames: int) -> int:
    """Latent frames F of T pixel frames, T = 4 (F - 1) + 1. Raises ValueError for any other T."""
    if num_frames < 1 or (num_frames - 1) % TEMPORAL_STRIDE:
        below = max(num_frames - 1, 0) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1
        raise ValueError(
            f"num_frames is {num_frames}, but the video autoencoder needs 4k + 1 frames; "
            f"use {below} or {below + TEMPORAL_STRIDE}."
        )
    return (num_frames - 1) // TEMPORAL_STRIDE + 1


def check_size(height: int, width: int, multiple: int) -> None:
    """Raise ValueError unless height and width (pixels) are positive multiples of `multiple`."""
    for name, value in (("height", height), ("width", width)):
        if value < multiple or value % multiple:
            below = max(value // multiple, 1) * multiple
            raise ValueError(
                f"{name} is {value}, but this model needs a multiple of {multiple}; "
                f"use {below} or {below + multiple}."
            )


def check_shared_cell(fixed_view: Tensor, freeze_time: Tensor) -> None:
    """Raise ValueError unless both references show one picture in the cell that they share.

    fixed_view [T, 3, H, W] and freeze_time [V, 3, H, W] in [0, 1]: the first frame of each. Codecs,
    other light and small shifts pass; another moment or another scene does not.
    """
    size = fixed_view.shape[-2:]
    factor = min(1.0, COMPARED / max(size))
    small = [max(round(n * factor), 1) for n in size]
    cells = [F.interpolate(r[:1].float(), small, mode="area") for r in (fixed_view, freeze_time)]
    psnr = float(-10 * (cells[0] - cells[1]).square().mean().log10())
    row, column = (cell - cell.mean((-1, -2), keepdim=True) for cell in cells)
    correlation = float((row * column).sum() / (row.norm() * column.norm()).clamp_min(1e-9))
    if correlation < ONE_PICTURE[0] and psnr < ONE_PICTURE[1]:
        raise ValueError(
            "the first frame of fixed_view and the first picture of freeze_time are one cell of "
            f"the grid, but show different things (correlation {correlation:.2f}, PSNR {psnr:.0f} "
            "dB); give photos of the moment at which the video begins, the first of them from the "
            "video's camera, or leave one of the two out."
        )


def shrunk(values: Tensor, factor: int) -> Tensor:
    """Images or masks [..., C, H, W] at 1/factor of their height and width, pixels averaged."""
    if factor == 1:
        return values
    return F.avg_pool2d(values.flatten(0, -3), factor).unflatten(0, values.shape[:-2])


def frames_to_images(frames: Tensor) -> Tensor:
    """Grid frames [V, T, 3, H, W] to ComfyUI's IMAGE [V*T, H, W, 3], index v*T + t."""
    return rearrange(frames, "v t c h w -> (v t) h w c")


def images_to_frames(images: Tensor, num_views: int) -> Tensor:
    """ComfyUI's IMAGE [V*T, H, W, 3] to grid frames [V, T, 3, H, W].

    Raises ValueError when the batch is not a multiple of num_views.
    """
    if num_views < 1 or images.shape[0] % num_views:
        raise ValueError(
            f"{images.shape[0]} images cannot be split into {num_views} views of equal length; "
            "the batch must hold V x T images, all times of the first view first."
        )
    return rearrange(images[..., :3], "(v t) h w c -> v t c h w", v=num_views)


def grid_to_sequence(latents: Tensor) -> Tensor:
    """Grid latents [V, C, F, h, w] (a ComfyUI LATENT) to one sequence [1, C, V*F, h, w]."""
    return rearrange(latents, "v c f h w -> 1 c (v f) h w")


def sequence_to_grid(latents: Tensor, num_views: int) -> Tensor:
    """Sequences [B, C, V*F, h, w] to grid latents [B*V, C, F, h, w]."""
    return rearrange(latents, "b c (v f) h w -> (b v) c f h w", v=num_views)


def reference_mask(num_views: int, num_frames: int, fixed_view: bool, columns: int) -> Tensor:
    """Boolean [V, F]: the cells known from references, row 0 and (or) the first `columns` columns:
    1 of a freeze-time reference, more of the window before in a longer video."""
    mask = torch.zeros(num_views, num_frames, dtype=torch.bool)
    if fixed_view:
        mask[0] = True
    mask[:, :columns] = True
    return mask


def sampling_stages(known: Tensor) -> list[tuple[int, int]]:
    """Sizes (views, frames) of the grids to sample one after the other where the cells in `known`
    [V, F] are given: the first column, the first row, then all, each as far as it is not known.

    The first two are the references that the last one then has (paper, section 3): a freeze-time
    and a fixed-view video.
    """
    num_views, num_frames = known.shape
    sizes = [(num_views, 1), (1, num_frames), (num_views, num_frames)]
    sizes = sizes if min(num_views, num_frames) > 1 else sizes[2:]
    return [(v, f) for v, f in sizes if not known[:v, :f].all()] or sizes[-1:]


def tile_views(frames: Tensor) -> Tensor:
    """All views as tiles of one video: [V, T, 3, H, W] to [T, 3, rows*H, columns*W].

    Views run left to right, top to bottom, on rather more columns than rows; missing tiles are
    black.
    """
    num_views = frames.shape[0]
    columns = -(-num_views // max(1, round(num_views**0.5 * 0.75)))
    rows = -(-num_views // columns)
    tiles = frames.new_zeros(rows * columns, *frames.shape[1:])
    tiles[:num_views] = frames
    return rearrange(tiles, "(r k) t c h w -> t c (r h) (k w)", r=rows)


def spaced_times(count: int, num_times: int) -> list[int]:
    """At most `count` evenly spaced times of num_times, the first and the last among them."""
    return torch.linspace(0, num_times - 1, min(count, num_times)).round().long().tolist()


def contact_sheet(frames: Tensor, max_times: int = 8) -> Tensor:
    """Views down, times across: [V, T, 3, H, W] in [0, 1] to one image [3, h, w], gaps white.

    At most max_times evenly spaced times are shown, the first and the last among them.
    """
    num_views, num_times, _, height, width = frames.shape
    shown = spaced_times(max_times, num_times)
    cells = frames[:, shown]
    sheet = frames.new_ones(3, num_views * (height + GAP) - GAP, len(shown) * (width + GAP) - GAP)
    for v in range(num_views):
        for k in range(len(shown)):
            top, left = v * (height + GAP), k * (width + GAP)
            sheet[:, top : top + height, left : left + width] = cells[v, k]
    return sheet
