"""The training loop shared by all trainers: accelerate, EMA, checkpoints, resume, samples.

What happens in a step depends on (seed, step, process) only, so a run that was interrupted and
resumed goes on as if it had never stopped. Under `accelerate launch` each process draws its own
examples.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from fourreal.bars import bar
from fourreal.devices import choose_device, has_bfloat16
from fourreal.files.json_files import as_json, write_json
from fourreal.training.draws import Draw, Draws, draw_ahead
from fourreal.training.optimizers import OptimizerName, make_optimizers, rate_factor
from fourreal.training.run_state import Checkpoints, RunState

if TYPE_CHECKING:
    from accelerate import Accelerator

MAX_NORM = 1.0  # of the gradients
SUDDEN = 3.0  # times the usual norm

Loss = Callable[[Any, torch.Generator], dict[str, Tensor]]
Sample = Callable[[Path], dict[str, float]]
MixedPrecision = Literal["bf16", "no"]


def mixed_precision() -> MixedPrecision:
    """What the device that a run takes is fast in."""
    return "bf16" if has_bfloat16(choose_device()) else "no"


@dataclass
class LoopConfig:
    """How long and how fast to train, and where the run lives."""

    out: Path
    """Folder of the run: checkpoint, log and samples."""
    steps: int = 2000
    """Optimiser steps."""
    minutes: float | None = None
    """Stop after this much training time even if steps are left; the learning rate follows
    whichever of the two is further along."""
    batch_size: int = 4
    """Examples of each process at a time."""
    accumulate: int = 1
    """Batches whose gradients are added up for one optimiser step."""
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    ema_decay: float = 0.995
    """Decay of the averaged weights, which are the ones used and saved."""
    optimizer: OptimizerName = "muon"
    """muon for matrices inside blocks and adamw for the rest, or adamw for everything."""
    seed: int = 0
    save_every: int = 200
    """Steps between checkpoints and samples."""
    mixed_precision: MixedPrecision = field(default_factory=mixed_precision)
    """bf16 on GPUs and on CPUs with instructions for it, by default; no (float32) on other CPUs,
    where bf16 is tens of times slower."""
    workers: int = 2
    """Processes that read the examples of the next steps; 0 reads them in the step itself."""
    log_with: Literal["auto", "tensorboard", "none"] = "auto"
    """Where the losses of every step are also written; auto is tensorboard where it is installed.
    Look at them with `tensorboard --logdir OUT`."""
    resume: bool = True
    """Go on from the checkpoint in `out` when there is one."""


def make_accelerator(config: LoopConfig) -> "Accelerator":
    """accelerate's Accelerator as the config asks.

    Raises ValueError for a tracker that is not installed, and for Muon under FSDP.
    """
    from accelerate import Accelerator
    from accelerate.utils import is_tensorboard_available

    installed = is_tensorboard_available()
    if config.log_with == "tensorboard" and not installed:
        raise ValueError(
            "tensorboard is not installed; install it (extra `train`), or add --loop.log-with none."
        )
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.accumulate,
        log_with="tensorboard" if installed and config.log_with != "none" else None,
        project_dir=config.out,
    )
    if config.optimizer == "muon" and accelerator.distributed_type == "FSDP":
        raise ValueError(
            "muon needs whole matrices, which FSDP spreads; add --loop.optimizer adamw."
        )
    return accelerator


class StartWeights:
    """The weights that a model starts a run from, where its result is to keep a share of them: each
    number is averaged with the trained one (WiSE-FT, arXiv 2109.01903)."""

    def __init__(self, model: nn.Module, share: float):
        self.share = share
        self.weights = [p.detach().clone() for p in model.parameters() if share and p.requires_grad]

    @torch.no_grad()
    def mix_into(self, model: nn.Module) -> None:
        """Average the share into the model's trained parameters, in place."""
        trained = [p for p in model.parameters() if p.requires_grad]
        for parameter, before in zip(trained, self.weights):
            parameter.lerp_(before.to(parameter), self.share)


class Loop:
    """Trains `model` on a loss and keeps an exponential average of its weights.

    extra is noted in the log beside the config; result is the file in `out` that the trainer writes
    when the loop is done. Raises ValueError for a run that is finished: where its steps are done
    and the result is there.
    """

    def __init__(
        self,
        config: LoopConfig,
        model: nn.Module,
        extra: dict[str, Any] | None = None,
        result: str | None = None,
    ):
        from diffusers.training_utils import EMAModel  # takes seconds; options are checked first

        self.config = config
        config.out.mkdir(parents=True, exist_ok=True)
        self.settings = as_json(asdict(config) | (extra or {}))
        self.accelerator = make_accelerator(config)
        optimizers = make_optimizers(
            model, config.optimizer, config.learning_rate, config.weight_decay
        )
        self.model, *self.optimizers = self.accelerator.prepare(model, *optimizers)
        trained = [p for _, p in self.trained()]
        # Together: torch's operations on lists refuse empty ones.
        self.average = EMAModel(trained, decay=config.ema_decay, foreach=bool(trained))
        self.state = RunState()
        self.checkpoints = Checkpoints(
            config.out / "checkpoints", self.accelerator, self.trained, self.average
        )
        if config.resume:
            self._resume(result)
        # Made after a checkpoint was read, as a resumed run may be given another learning rate.
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] = config.learning_rate
        self.schedules = [
            LambdaLR(o, lambda _: rate_factor(self.state.step, config.warmup_steps, self.progress))
            for o in self.optimizers
        ]

    def _resume(self, result: str | None) -> None:
        self.state = self.checkpoints.load() or self.state
        # Without its result a finished run was stopped while it wrote that: then only this is left.
        if self.progress >= 1 and (result is None or (self.config.out / result).is_file()):
            raise ValueError(
                f"{self.config.out} holds a finished run of {self.state.step} steps; choose "
                "another --loop.out, train on with more --loop.steps (or --loop.minutes), or start "
                "afresh with --loop.no-resume."
            )

    @property
    def plain_model(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.model)

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters that are trained."""
        return [(n, p) for n, p in self.plain_model.named_parameters() if p.requires_grad]

    @property
    def progress(self) -> float:
        """Fraction of the run that is done, in steps or minutes."""
        return self._progress_at(self.state.step)

    def _progress_at(self, step: int) -> float:
        done = step / self.config.steps
        if self.config.minutes is not None:
            done = max(done, self.state.seconds / (60 * self.config.minutes))
        return min(done, 1.0)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """A context in which the model carries its averaged weights."""
        parameters = [p for _, p in self.trained()]
        self.average.store(parameters)
        self.average.copy_to(parameters)
        try:
            yield
        finally:
            self.average.restore(parameters)

    def run(self, loss: Loss, sample: Sample, draw: Draw | None = None) -> None:
        """Train until the steps or minutes are over.

        draw(generator, progress) chooses and reads a batch, in worker processes; where they are
        spawned instead of forked it must be picklable. loss(batch, generator) returns named
        scalars, of which "loss" is minimised; without a draw its batch is None. sample(folder)
        draws pictures with the averaged weights and returns scores for the log. All processes call
        all three; only the main one (accelerator.is_main_process) should write.
        """
        shown = bar(
            total=self.config.steps,
            initial=self.state.step,
            name=str(self.config.out),
            disable=not self.accelerator.is_local_main_process,
            mininterval=5,
        )
        self.accelerator.init_trackers("tensorboard")  # the name of its folder in `out`
        draws = self._draws(draw)
        while self.progress < 1:
            start = time.monotonic()
            losses = self._train_step(loss, draws)
            self.state.step += 1
            self._count_seconds(time.monotonic() - start)
            rate = self.schedules[0].get_last_lr()[0]
            self.accelerator.log(losses | {"learning_rate": rate}, step=self.state.step)
            for schedule in self.schedules:
                schedule.step()
            for name, value in losses.items():
                kept = self.state.recent.get(name, value)
                self.state.recent[name] = 0.98 * kept + 0.02 * value
            shown.update()
            told = {k: f"{v:.4f}" for k, v in self.state.recent.items()}
            if self.config.minutes is not None:
                told["minutes"] = f"{self.state.seconds / 60:.1f}/{self.config.minutes:g}"
            shown.set_postfix(told, refresh=False)
            if self.state.step % self.config.save_every == 0 or self.progress >= 1:
                self._checkpoint(sample)
        shown.close()
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def _draws(self, draw: Draw | None) -> Iterator[tuple[Any, torch.Generator]]:
        """(batch, generator) of all draws that are left; a step accumulates several."""
        count = self.config.accumulate
        numbers = range(self.state.step * count, self.config.steps * count)
        items = ((number, self._progress_at(number // count)) for number in numbers)
        draws = Draws(draw or nothing, self.config.seed, self.accelerator.process_index)
        return draw_ahead(draws, items, self.config.workers if draw else 0)

    def _train_step(
        self, loss: Loss, draws: Iterator[tuple[Any, torch.Generator]]
    ) -> dict[str, float]:
        """One optimiser step; the mean of each of its losses."""
        found: dict[str, list[float]] = {}
        for _ in range(self.config.accumulate):
            batch, generator = next(draws)
            with self.accelerator.accumulate(self.model):
                with self.accelerator.autocast():
                    losses = loss(batch, generator)
                if not torch.isfinite(losses["loss"]):
                    raise FloatingPointError(
                        f"the loss is {losses['loss'].item()} at step {self.state.step}; lower "
                        "--loop.learning-rate and resume from the last checkpoint."
                    )
                self.accelerator.backward(losses["loss"])
                if self.accelerator.sync_gradients:
                    self._clip_gradients()
                for optimizer in self.optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
            for name, value in losses.items():
                found.setdefault(name, []).append(value.item())
        self.average.step(p for _, p in self.trained())
        return {name: sum(values) / len(values) for name, values in found.items()}

    def _clip_gradients(self) -> None:
        """Clip to SUDDEN times the running gradient norm: both optimisers divide by past gradients,
        so that one outlier would dominate the next steps."""
        usual = self.state.usual_norm
        limit = min(MAX_NORM, SUDDEN * usual) if usual else MAX_NORM
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), limit))
        self.state.usual_norm = 0.95 * (usual or min(norm, limit)) + 0.05 * min(norm, limit)

    def _count_seconds(self, seconds: float) -> None:
        self.state.seconds += seconds
        if self.config.minutes is not None and self.accelerator.num_processes > 1:
            # All processes must agree on when to stop.
            total = torch.tensor(self.state.seconds, device=self.accelerator.device)
            self.state.seconds = float(self.accelerator.reduce(total, "mean"))

    def _checkpoint(self, sample: Sample) -> None:
        with self.averaged(), torch.no_grad():
            scores = sample(self.config.out)
        state = self.state
        minutes = round(state.seconds / 60, 2)
        state.log.append({"step": state.step, "minutes": minutes, **state.recent, **scores})
        self.accelerator.log(scores, step=state.step)
        self.checkpoints.save(state)
        if self.accelerator.is_main_process:
            tqdm.write(json.dumps(state.log[-1]))
            content = {"settings": self.settings, "log": state.log}
            write_json(self.config.out / "log.json", content)


def nothing(generator: torch.Generator, progress: float) -> None:
    """The draw of a loss that chooses its examples by itself."""
