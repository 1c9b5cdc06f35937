"""Reading Gaussians block by block, so that a file takes little more memory than it holds."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import torch

from fourreal.formats.finite import finite_rows, report_left_out
from fourreal.gaussians import Gaussians

BLOCK = 2**18  # bytes of the wider of a file's rows and their Gaussians, converted at a time


def bytes_of(count: int, num_harmonics: int) -> int:
    """Of `count` Gaussians in float32."""
    return 4 * count * (11 + 3 * num_harmonics)


def largest_result(path: Path) -> int:
    """Most bytes that are unfolded of a file, which may be made to unfold without end."""
    return max(2**26, 32 * path.stat().st_size)


def in_blocks(
    count: int, num_harmonics: int, row: int, convert: Callable[[int, int], Gaussians], path: Path
) -> Gaussians:
    """`count` Gaussians, put together from convert(begin, end), called in order of the rows.

    row: bytes per Gaussian in the file. Gaussians that are not finite are left out, with a warning
    that names path. Raises ValueError where these are more than half.
    """
    result = Gaussians(
        torch.empty(count, 3),
        torch.empty(count, 4),
        torch.empty(count, 3),
        torch.empty(count),
        torch.empty(count, num_harmonics, 3),
    )
    rows = max(1, BLOCK // max(row, 4 * (11 + 3 * num_harmonics)))
    kept = 0
    for begin in range(0, count, rows):
        block = convert(begin, min(begin + rows, count))
        good = finite_rows(block)
        if not good.all():
            block = block[good]
        for field in fields(block):
            getattr(result, field.name)[kept : kept + len(block)] = getattr(block, field.name)
        kept += len(block)
    report_left_out(count - kept, count, path)
    return result.map(lambda x: x[:kept]) if kept < count else result
