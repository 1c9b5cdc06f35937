"""Descent: a few parameters moved to where errors are small, of which large ones count little."""

from collections.abc import Callable

import torch
from torch import Tensor


def soft(errors: Tensor, softness: float) -> Tensor:
    """Errors >= 0 between 0 and 1, which large ones come near to."""
    return errors / (errors + softness)


def descend(parts: list[Tensor], loss: Callable[[], Tensor], rate: float, steps: int) -> None:
    """Move the parts for so many steps of Adam to where the loss is smaller."""
    for part in parts:
        part.requires_grad_(True)
    optimizer = torch.optim.Adam(parts, lr=rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()
