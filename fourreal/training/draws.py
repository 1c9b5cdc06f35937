"""What a step is trained on, drawn ahead of it by worker processes.

All that is random in a step comes from one generator, which follows from the seed, the number of
the draw and the process alone. A worker begins with it, to choose and read the examples; the step
goes on with it. So a run is the same with any number of workers, and after an interruption.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Draw = Callable[[torch.Generator, float], Any]  # (generator, progress of the run) to a batch


def step_generator(seed: int, number: int, process: int = 0) -> torch.Generator:
    """The source of all randomness of one draw in one of several processes."""
    # The generator uses 32 bits; the odd factor spreads processes over them.
    mixed = seed * 1_000_003 + number + process * 0x9E3779B1
    return torch.Generator().manual_seed(mixed % 2**32)


def draw_shrink(half_size: float, generator: torch.Generator) -> int:
    """What a step divides height and width by: 2 as often as half_size says, else 1. Nothing is
    drawn from the generator where that is never."""
    return 2 if half_size and torch.rand((), generator=generator) < half_size else 1


class Draws(Dataset):
    """For a draw's (number, progress): its batch, and the state of the generator after it."""

    def __init__(self, draw: Draw, seed: int, process: int):
        self.draw, self.seed, self.process = draw, seed, process

    def __getitem__(self, item: tuple[int, float]) -> tuple[Any, Tensor]:
        number, progress = item
        generator = step_generator(self.seed, number, self.process)
        try:
            return self.draw(generator, progress), generator.get_state()
        except (ValueError, OSError) as error:
            # As an answer it keeps its one sentence; raised here it would come as a traceback.
            return error, generator.get_state()


def as_drawn(item: Any) -> Any:
    """A batch is complete when it is drawn; there is nothing to collate."""
    return item


def draw_ahead(
    draws: Draws, items: Iterable[tuple[int, float]], workers: int
) -> Iterator[tuple[Any, torch.Generator]]:
    """(batch, generator) of the items' draws, in order, read by so many processes (0: by this one).

    `items` is read as far ahead as the workers are. Raises what a draw raised.
    """
    loader = DataLoader(
        draws,
        batch_size=None,
        sampler=items,
        num_workers=workers,
        collate_fn=as_drawn,
        generator=torch.Generator(),  # which seeds the workers; by default the global one would
    )
    for batch, state in loader:
        if isinstance(batch, Exception):
            raise batch
        generator = torch.Generator()
        generator.set_state(state)
        yield batch, generator
