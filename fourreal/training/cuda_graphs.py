"""A small transformer's forward and backward as CUDA graphs, which a GPU is given whole.

Such a model has thousands of operations of some microseconds, so that a step waits for Python; a
graph, recorded once for each shape of the inputs, is launched at once.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

AGREE = 0.05  # relative difference of a graph's answer and gradients from those without, bfloat16
WARM_UP = 3  # calls before a graph is recorded
CAPTURED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class _InGraph(nn.Module):
    """A transformer as a graph is recorded of it: autocast may keep nothing from call to call."""

    def __init__(self, transformer: nn.Module, dtype: torch.dtype | None):
        super().__init__()
        self.transformer, self.dtype = transformer, dtype

    def forward(self, inputs: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        with torch.autocast(
            inputs.device.type, self.dtype, enabled=self.dtype is not None, cache_enabled=False
        ):
            return self.transformer(inputs, timesteps, text, return_dict=False)[0]


class TrainingGraphs:
    """Calls a transformer that is trained, by a graph for each grid and shape of its inputs.

    The transformer is to be set up for the grid of each call (apply_view_time). Gradients are in
    the graph's memory until the next call, so they cannot be accumulated.
    """

    def __init__(self, transformer: nn.Module):
        self.transformer = transformer
        self.graphs: dict[Any, Any] = {}
        # A graph reads by address: what it was recorded with, such as the positions of its grid,
        # must not be freed when the transformer is set up for another.
        self.kept: list[list[nn.Module]] = []
        self.compared: dict[Any, int] = {}  # how many graphs there were when each was, last

    def __call__(self, grid: Any, inputs: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """The transformer's answer for inputs [B, C, N, h, w], timesteps [B] or [B, tokens], and
        text [B, L, D], whose gradients reach text and the transformer.

        Raises RuntimeError where a graph answers otherwise than the transformer, when it is
        recorded, and when it is called again after another was.
        """
        given = inputs.float(), timesteps.float(), text.float()
        key = (grid, *(x.shape for x in given))
        if self.compared.get(key) != len(self.graphs):
            device = inputs.device.type
            dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
            own = inputs.clone(), timesteps.clone(), text.detach().clone().requires_grad_()
            with torch.autocast(device, enabled=False), sdpa_kernel(CAPTURED):
                expected = self._answer(_InGraph(self.transformer, dtype), own)
                if key not in self.graphs:
                    self.graphs[key] = self._record(dtype, own)
                self._compare(self._answer(self.graphs[key], own), expected)
            self.compared[key] = len(self.graphs)
        return self.graphs[key](*given)

    def _record(self, dtype: torch.dtype | None, own: tuple[Tensor, ...]) -> Any:
        self.kept.append(list(self.transformer.modules()))
        # It is given a callable of the same parameters, as it exchanges the module's forward.
        return torch.cuda.make_graphed_callables(
            _InGraph(self.transformer, dtype),
            tuple(x.clone().detach().requires_grad_(x.requires_grad) for x in own),
            num_warmup_iters=WARM_UP,
            allow_unused_input=True,
        )

    def _compare(self, found: list[Tensor], expected: list[Tensor]) -> None:
        for a, b in zip(found, expected):
            if not (a - b).norm() <= AGREE * b.norm():
                raise RuntimeError(
                    f"a CUDA graph is off by {float((a - b).norm() / b.norm()):.0%} here; leave "
                    "out --cuda-graphs."
                )

    def _answer(self, call: Any, given: tuple[Tensor, ...]) -> list[Tensor]:
        """What a call answers, and the gradients of the text and of all parameters, as vectors."""
        answer = call(*given)
        sources = [given[2], *(p for p in self.transformer.parameters() if p.requires_grad)]
        gradients = torch.autograd.grad(answer.float().square().mean(), sources, allow_unused=True)
        pulled = [g.float().flatten() for g in gradients[1:] if g is not None]
        text = gradients[0] if gradients[0] is not None else torch.zeros_like(given[2])
        # Copies: the next call writes over a graph's own.
        return [answer.detach().float().clone(), text.float().clone(), torch.cat(pulled)]
