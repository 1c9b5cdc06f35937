"""Run by test_training in two processes: train a line, write what each process saw."""

import json
import sys
from pathlib import Path

import torch

from fourreal.training.loop import Loop, LoopConfig

out = Path(sys.argv[1])
torch.manual_seed(0)
loop = Loop(
    LoopConfig(out, 3, save_every=3, warmup_steps=1, mixed_precision="no"), torch.nn.Linear(3, 1)
)
seen = []


def loss(step, generator):
    x = torch.randn(4, 3, generator=generator)
    seen.append(float(x.sum()))
    return {"loss": (loop.model(x) - x.sum(1, keepdim=True)).square().mean()}


loop.run(loss, lambda folder: {})
weight = loop.plain_model.weight.detach().flatten().tolist()
process = loop.accelerator.process_index
(out / f"{process}.json").write_text(json.dumps({"seen": seen, "weight": weight}))
loop.accelerator.end_training()
