"""Reading Gaussians block by block, so that a file takes little more memory than it holds."""

from collections.abc import Callable
from dataclasses import fields

import torch

from fourreal.gaussians import Gaussians

BLOCK = 2**18  # bytes of the wider of a file's rows and their Gaussians, converted at a time


def in_blocks(
    count: int, num_harmonics: int, row: int, convert: Callable[[int, int], Gaussians]
) -> Gaussians:
    """`count` Gaussians, put together from convert(begin, end), called in order of the rows.

    row: bytes per Gaussian in the file.
    """
    result = Gaussians(
        torch.empty(count, 3),
        torch.empty(count, 4),
        torch.empty(count, 3),
        torch.empty(count),
        torch.empty(count, num_harmonics, 3),
    )
    rows = max(1, BLOCK // max(row, 4 * (11 + 3 * num_harmonics)))
    for begin in range(0, count, rows):
        end = min(begin + rows, count)
        block = convert(begin, end)
        for field in fields(block):
            getattr(result, field.name)[begin:end] = getattr(block, field.name)
    return result
