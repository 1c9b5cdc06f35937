"""The training loop shared by all trainers: accelerate, EMA, checkpoints, resume, samples.

What happens in a step depends on (seed, step, process) only, so a run that was interrupted and
resumed goes on as if it had never stopped. Under `accelerate launch` each process draws its own
examples; a checkpoint holds whole tensors, so it does not depend on the number of processes.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only
from tqdm import tqdm

from fourreal.files.atomic import atomic_path

MAX_NORM = 1.0  # of the gradients
SUDDEN = 3.0  # times the usual norm


@dataclass
class LoopConfig:
    """How long and how fast to train, and where the run lives."""

    out: Path
    """Folder of the run: state, log and samples."""
    steps: int = 2000
    """Optimiser steps."""
    minutes: float | None = None
    """Stop after this much training time even if steps are left; the learning rate follows
    whichever of the two is further along."""
    batch_size: int = 4
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    ema_decay: float = 0.995
    """Decay of the averaged weights, which are the ones used and saved."""
    optimizer: str = "muon"
    """muon (matrices inside blocks; all else AdamW) or adamw (everything)."""
    seed: int = 0
    save_every: int = 200
    """Steps between checkpoints and samples."""
    mixed_precision: str = "bf16"
    """bf16 or no."""
    resume: bool = True
    """Go on from the checkpoint in `out` when there is one."""


def step_generator(seed: int, step: int, process: int = 0) -> torch.Generator:
    """The source of all randomness of one step in one of several processes."""
    # The generator uses 32 bits; the odd factor spreads processes over them.
    mixed = seed * 1_000_003 + step + process * 0x9E3779B1
    return torch.Generator().manual_seed(mixed % 2**32)


def whole(tensor: Tensor) -> Tensor:
    """A tensor that FSDP may have spread over processes, in one piece (all processes must ask)."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread_like(tensor: Tensor, example: Tensor) -> Tensor:
    """The opposite of whole: a tensor on the device, or the devices, of an example."""
    if isinstance(example, DTensor):
        return distribute_tensor(tensor.to(example.device), example.device_mesh, example.placements)
    return tensor.to(example.device)


def make_optimizers(model: nn.Module, config: LoopConfig) -> list[torch.optim.Optimizer]:
    """The optimisers of the trained parameters of a model.

    Muon (Jordan et al. 2024, with the step size of arXiv 2502.16982, which lets it share AdamW's
    learning rate) orthogonalises the updates of the linear layers inside numbered blocks; AdamW
    has the rest: embeddings, heads, norms, biases.
    """
    if config.optimizer not in ("muon", "adamw"):
        raise ValueError(f"optimizer is {config.optimizer!r}, but must be muon or adamw.")
    matrices = [
        module.weight
        for name, module in model.named_modules()
        if config.optimizer == "muon"
        and isinstance(module, nn.Linear)
        and module.weight.requires_grad
        and any(part.isdigit() for part in name.split("."))
    ]
    taken = {id(p) for p in matrices}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    # Vectors (norms, biases, gates) are not decayed.
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))
    if not matrices:
        return [adamw]
    muon = torch.optim.Muon(
        matrices,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return [adamw, muon]


class Loop:
    """Trains `model` on loss(step, generator) and keeps an exponential average of its weights."""

    def __init__(self, config: LoopConfig, model: nn.Module, extra: dict | None = None):
        from accelerate import Accelerator

        self.config = config
        config.out.mkdir(parents=True, exist_ok=True)
        self.accelerator = Accelerator(mixed_precision=config.mixed_precision)
        if config.optimizer == "muon" and self.accelerator.distributed_type == "FSDP":
            raise ValueError(
                "muon needs whole matrices, which FSDP spreads; add --loop.optimizer adamw."
            )
        self.model, *self.optimizers = self.accelerator.prepare(
            model, *make_optimizers(model, config)
        )
        self.step, self.seconds, self.log = 0, 0.0, []
        self.average = {name: p.detach().float().clone() for name, p in self.trained()}
        self.recent: dict[str, float] = {}
        self.usual_norm = 0.0  # running mean of the clipped gradients' length
        self.settings = json.loads(json.dumps(asdict(config) | (extra or {}), default=str))
        self.state_file = config.out / "state.pt"
        if config.resume and self.state_file.exists():
            self._load()

    @property
    def plain_model(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.model)

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters that are trained."""
        return [(n, p) for n, p in self.plain_model.named_parameters() if p.requires_grad]

    @property
    def progress(self) -> float:
        """Fraction of the run that is done, in steps or minutes."""
        done = self.step / self.config.steps
        if self.config.minutes is not None:
            done = max(done, self.seconds / (60 * self.config.minutes))
        return min(done, 1.0)

    def _learning_rate(self) -> float:
        warmup = min(1.0, (self.step + 1) / max(self.config.warmup_steps, 1))
        return (
            self.config.learning_rate
            * warmup
            * max(0.5 + 0.5 * math.cos(math.pi * self.progress), 0.02)
        )

    def averaged(self):
        """A context in which the model carries its averaged weights."""
        return _Averaged(self.plain_model, self.average)

    def run(
        self,
        loss: Callable[[int, torch.Generator], dict[str, Tensor]],
        sample: Callable[[Path], dict],
    ):
        """loss returns named scalars, "loss" is minimised; sample(folder) draws pictures with the
        averaged weights and returns scores for the log. All processes call both; only the main one
        (accelerator.is_main_process) should write.
        """
        bar = tqdm(
            total=self.config.steps,
            initial=self.step,
            desc=str(self.config.out),
            disable=not self.accelerator.is_local_main_process,
            mininterval=5,
        )
        while self.progress < 1:
            start = time.monotonic()
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = self._learning_rate()
            with self.accelerator.autocast():
                process = self.accelerator.process_index
                losses = loss(self.step, step_generator(self.config.seed, self.step, process))
            if not torch.isfinite(losses["loss"]):
                raise FloatingPointError(
                    f"the loss is {losses['loss'].item()} at step {self.step}; lower "
                    "--learning-rate and resume from the last checkpoint."
                )
            self.accelerator.backward(losses["loss"])
            self._clip_gradients()
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self._update_average()
            self.step += 1
            self.seconds += time.monotonic() - start
            if self.config.minutes is not None and self.accelerator.num_processes > 1:
                # All processes must agree on when to stop.
                seconds = torch.tensor(self.seconds, device=self.accelerator.device)
                self.seconds = float(self.accelerator.reduce(seconds, "mean"))
            for name, value in losses.items():
                kept = self.recent.get(name, value.item())
                self.recent[name] = 0.98 * kept + 0.02 * value.item()
            bar.update()
            bar.set_postfix({k: f"{v:.4f}" for k, v in self.recent.items()}, refresh=False)
            if self.step % self.config.save_every == 0 or self.progress >= 1:
                self._checkpoint(sample)
        bar.close()

    def _clip_gradients(self) -> None:
        """Clip to a few times the usual length: both optimisers divide by what they are used to, so
        one step that is ten times as long, though below MAX_NORM, sets the course of the next ten.
        """
        limit = min(MAX_NORM, SUDDEN * self.usual_norm) if self.usual_norm else MAX_NORM
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), limit))
        kept = self.usual_norm or min(norm, limit)
        self.usual_norm = 0.95 * kept + 0.05 * min(norm, limit)

    def _update_average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, parameter in self.trained():
                self.average[name].lerp_(parameter.float(), 1 - decay)

    def _checkpoint(self, sample) -> None:
        with self.averaged(), torch.no_grad():
            scores = sample(self.config.out)
        self.log.append(
            {"step": self.step, "minutes": round(self.seconds / 60, 2), **self.recent, **scores}
        )
        if self.accelerator.is_main_process:
            tqdm.write(json.dumps(self.log[-1]))
        self._save()

    def _save(self) -> None:
        state = {
            "model": dict(self.trained()),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "average": self.average,
            "step": self.step,
            "seconds": self.seconds,
            "log": self.log,
            "recent": self.recent,
            "usual_norm": self.usual_norm,
        }
        state = tree_map_only(Tensor, lambda t: whole(t.detach()), state)
        if not self.accelerator.is_main_process:
            return
        with atomic_path(self.state_file) as temporary:
            torch.save(state, temporary)
        with atomic_path(self.config.out / "log.json") as temporary:
            Path(temporary).write_text(
                json.dumps({"settings": self.settings, "log": self.log}, indent=1)
            )

    @torch.no_grad()
    def _load(self) -> None:
        state = torch.load(self.state_file, weights_only=True, map_location="cpu")
        parameters = dict(self.trained())
        shapes = {n: v.shape for n, v in state["average"].items()}
        if shapes != {n: p.shape for n, p in parameters.items()}:
            raise ValueError(
                f"{self.state_file} is of a run that trained other weights; choose another "
                "--loop.out, or start afresh with --loop.no-resume."
            )
        for name, parameter in parameters.items():
            parameter.copy_(spread_like(state["model"][name], parameter))
            self.average[name] = spread_like(state["average"][name], parameter)
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            flat = [p for group in optimizer.param_groups for p in group["params"]]
            for index, values in kept["state"].items():
                for name, value in values.items():
                    if value.shape == flat[index].shape:
                        values[name] = spread_like(value, flat[index])
            optimizer.load_state_dict(kept)
        self.step, self.seconds, self.log = state["step"], state["seconds"], state["log"]
        self.recent = state.get("recent", {})
        self.usual_norm = state.get("usual_norm", 0.0)


class _Averaged:
    def __init__(self, model: nn.Module, average: dict[str, Tensor]):
        self.parameters = {n: p for n, p in model.named_parameters() if n in average}
        self.average = average

    def __enter__(self):
        self.kept = {n: p.detach().clone() for n, p in self.parameters.items()}
        self._put(self.average)

    def __exit__(self, *_):
        self._put(self.kept)

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])
