"""Muon and AdamW for the trained parameters of a model, and the schedule of their learning rate."""

import math
from typing import Literal

import torch
from torch import nn

OptimizerName = Literal["muon", "adamw"]
LEAST_RATE = 0.02  # of the learning rate, at the end of a run


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
    muon = torch.optim.Muon(
        matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [adamw, muon]


def rate_factor(step: int, warmup_steps: int, progress: float) -> float:
    """The factor of the learning rate at a step: a linear warm-up, then half a cosine over the
    run's progress (0 to 1), from 1 down to LEAST_RATE."""
    warmup = min(1.0, (step + 1) / max(warmup_steps, 1))
    return warmup * max(0.5 + 0.5 * math.cos(math.pi * progress), LEAST_RATE)
