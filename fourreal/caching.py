"""A cache for functions that make tables of tensors, such as positions and masks of attention."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def cached_tables(maxsize: int) -> Callable[[Function], Function]:
    """A decorator: lru_cache of `maxsize` entries, whose tensors serve training, too.

    They are made outside inference mode, in which ComfyUI runs: autograd refuses tensors made in
    it, and training may come after in the same process.
    """

    def decorate(function: Function) -> Function:
        return cast(Function, lru_cache(maxsize)(torch.inference_mode(False)(function)))

    return decorate
