"""The same work for several things at a time, on the cores of a CPU."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST = 8  # at a time, as each needs its own memory


def on_each(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    device: torch.device,
    tell: Callable[[int], None] = lambda done: None,
) -> list[Result]:
    """function(item) of all items, in their order.

    For work of many small operations, as on the frames of one time, which gain little from a second
    core: on the CPU several items go at a time, each on a core of its own, in the caller's grad and
    inference modes; a GPU takes one after the other. tell(done) is called after each item. What it
    or the function raises comes up here, and then no further item is begun.
    """
    results: list[Result] = []

    def keep(result: Result) -> None:
        results.append(result)
        tell(len(results))

    cores = torch.get_num_threads()
    workers = min(cores, len(items), MOST)
    if device.type != "cpu" or workers < 2:
        for item in items:
            keep(function(item))
        return results

    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def work(item: Item) -> Result:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):
            return function(item)

    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        begun: deque[Future[Result]] = deque()
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) > workers:
                keep(begun.popleft().result())
        while begun:
            keep(begun.popleft().result())
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)  # the workers set it for libraries that have one number
    return results
