"""Muon on all matrices of one shape together, against torch's own."""

import pytest
import torch
from torch import nn

from fourreal.training import optimizers
from fourreal.training.optimizers import StackedMuon, make_optimizers


@pytest.mark.parametrize("fast, bound", [(True, 1e-3), (False, 2e-2)])
def test_it_steps_as_torchs_muon_does(monkeypatch, fast, bound):
    """Which has bfloat16 on every device; in float32 its rounding is the difference."""
    monkeypatch.setattr(optimizers, "has_bfloat16", lambda device: fast)
    torch.manual_seed(0)
    shapes = [(32, 32), (32, 32), (96, 32), (32, 96), (32, 32)]
    runs = []
    start = [torch.randn(shape) for shape in shapes]
    steps = [[torch.randn(shape) for shape in shapes] for _ in range(5)]
    for kind in (torch.optim.Muon, StackedMuon):
        parameters = [nn.Parameter(x.clone()) for x in start]
        options = {"lr": 1e-2, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
        optimizer = kind(parameters, **options)
        for gradients in steps:
            for parameter, gradient in zip(parameters, gradients):
                parameter.grad = gradient.clone()
            parameters[-1].grad = None  # not in the loss
            optimizer.step()
        runs.append((parameters, optimizer))
    for theirs, ours, first in zip(runs[0][0], runs[1][0], start):
        assert (ours - theirs).abs().max() <= bound * (theirs - first).abs().max()
    assert torch.equal(runs[1][0][-1], start[-1])
    assert not torch.equal(runs[1][0][0], start[0])
    states = [optimizer.state_dict()["state"] for _, optimizer in runs]
    assert states[0].keys() == states[1].keys()  # a checkpoint of one is the other's
    torch.testing.assert_close(states[0][2], states[1][2])


def test_only_the_linear_layers_of_blocks_are_orthogonalised():
    model = nn.ModuleDict(
        {"blocks": nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 4)]), "head": nn.Linear(4, 4)}
    )
    adamw, muon = make_optimizers(model, "muon", 1e-3, 0.01)
    assert isinstance(muon, StackedMuon)
    assert [p.shape for p in muon.param_groups[0]["params"]] == [(8, 8), (4, 8)]
    assert sum(len(group["params"]) for group in adamw.param_groups) == 4
