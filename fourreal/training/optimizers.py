"""Muon and AdamW for the trained parameters of a model, and the schedule of their learning rate."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from fourreal.devices import has_bfloat16

OptimizerName = Literal["muon", "adamw"]
LEAST_RATE = 0.02  # of the learning rate, at the end of a run


class StackedMuon(torch.optim.Muon):
    """torch.optim.Muon, with Nesterov's momentum, that takes all matrices of one shape together: a
    GPU waits for fewer, longer operations."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step on the gradients that are there."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in shapes.items():
                gradients = [p.grad for p in parameters if p.grad is not None]
                for p in parameters:
                    if "momentum_buffer" not in self.state[p]:
                        self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                buffers = [self.state[p]["momentum_buffer"] for p in parameters]
                torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
                moved = torch._foreach_lerp(gradients, buffers, group["momentum"])
                updates = orthogonalised(
                    torch.stack(moved), group["ns_coefficients"], group["ns_steps"], group["eps"]
                )
                rate = group["lr"]
                torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
                # match_rms_adamw
                step = 0.2 * math.sqrt(max(shape)) * rate
                torch._foreach_add_(parameters, list(updates.to(parameters[0].dtype)), alpha=-step)


def orthogonalised(
    matrices: Tensor, coefficients: tuple[float, float, float], steps: int, least: float
) -> Tensor:
    """Matrices [N, rows, columns], their singular values near 1 (Newton and Schulz's iteration, as
    torch.optim.Muon has it), in bfloat16 where that is as fast as float32, else in float32."""
    a, b, c = coefficients
    x = matrices.bfloat16() if has_bfloat16(matrices.device) else matrices.float()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(least)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def make_optimizers(
    model: nn.Module, name: OptimizerName, learning_rate: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """The optimisers of the trained parameters of a model.

    Muon (Jordan et al. 2024, with the step size of arXiv 2502.16982, which lets it share AdamW's
    learning rate) orthogonalises the updates of the linear layers inside numbered blocks; AdamW
    has the rest: embeddings, heads, norms, biases.
    """
    matrices = [
        module.weight
        for path, module in model.named_modules()
        if name == "muon"
        and isinstance(module, nn.Linear)
        and module.weight.requires_grad
        and any(part.isdigit() for part in path.split("."))
    ]
    taken = {id(p) for p in matrices}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    # Vectors (norms, biases, gates) are not decayed.
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))
    if not matrices:
        return [adamw]
    muon = StackedMuon(
        matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [adamw, muon]


def rate_factor(step: int, warmup_steps: int, progress: float) -> float:
    """The factor of the learning rate at a step: a linear warm-up, then half a cosine over the
    run's progress (0 to 1), from 1 down to LEAST_RATE."""
    warmup = min(1.0, (step + 1) / max(warmup_steps, 1))
    return warmup * max(0.5 + 0.5 * math.cos(math.pi * progress), LEAST_RATE)
