"""Training runs of a few steps: a small network on noise, and the embedded video model."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fourreal import weights
from fourreal.data.grids import DataConfig
from fourreal.training.loop import Loop, LoopConfig
from fourreal.training.train_video import VideoConfig, train_video


def loop_config(out: Path, **options) -> LoopConfig:
    """A loop that reads its examples by itself, in float32, and writes no more than it must."""
    few = {"steps": 2, "batch_size": 1, "save_every": 100, "workers": 0, "log_with": "none"}
    return LoopConfig(out, **({"mixed_precision": "no"} | few | options))


@dataclass
class Fit:
    """What came of `fit`: the loss of every step that ran, and the last weights and averages."""

    losses: list[float] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    averages: list[Tensor] = field(default_factory=list)

    def ends_like(self, other: "Fit") -> bool:
        pairs = (*zip(self.weights, other.weights), *zip(self.averages, other.averages))
        return len(pairs) == 8 and all(torch.equal(a, b) for a, b in pairs)


def fit(out: Path, stop_at: int | None = None, rows: int = 16, **options) -> Fit:
    """Train two layers on noise for 8 steps, or until so many batches were seen."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    loop = Loop(
        loop_config(out, **({"steps": 8, "save_every": 2, "warmup_steps": 2} | options)), model
    )
    done = Fit()

    def loss(batch, generator):
        if len(done.losses) == stop_at:
            raise KeyboardInterrupt
        x = batch + 0.1 * torch.randn(batch.shape, generator=generator)
        value = (loop.model(x) - x.sum(1, keepdim=True)).square().mean()
        done.losses.append(value.item())
        return {"loss": value}

    def draw(generator, progress):
        return torch.randn(rows, 3, generator=generator)

    loop.run(loss, lambda folder: {"weight": float(model[0].weight.detach().sum())}, draw)
    done.weights = [p.detach().clone() for p in model.parameters()]
    with loop.averaged():
        done.averages = [p.detach().clone() for p in model.parameters()]
    return done


def tune_embedded(
    out, scenes, tune="lora", steps=4, architecture=None, sample=False, precision="bf16", **options
):
    """Tune the embedded model on one procedural scene; the losses by step."""
    losses = []

    class Recorded(Loop):
        def run(self, loss, draw_samples, draw):
            def recorded(batch, generator):
                losses.append(loss(batch, generator))
                return losses[-1]

            super().run(recorded, draw_samples if sample else lambda folder: {}, draw)

    loop = {"learning_rate": 1e-2, "warmup_steps": 1, "save_every": 2, "mixed_precision": precision}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fourreal.training.video_run.Loop", Recorded)
        train_video(
            VideoConfig(
                loop_config(out, steps=steps, **loop),
                DataConfig(scenes=1, height=32, width=32, cache=scenes, draws=4),
                start_from=weights.folder(),
                tune=tune,
                lora_rank=4,
                architecture=architecture,
                grids=("1x5", "2x5"),
                grid_starts=(0.0, 0.5),
                gradient_checkpointing=True,
                **options,
            )
        )
    return [value["loss"].item() for value in losses]
