"""Where a run stands, on disk: all that it needs to go on as if it had never stopped.

A checkpoint is a folder that accelerate writes and reads: optimizers and random states, under FSDP
also the sharded model. Beside them are the trained weights and their average (safetensors; what is
frozen comes from where it came from) and the run's own numbers (run.json).
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fourreal.files.tensors import read_safetensors, save_tensors

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers.training_utils import EMAModel

TRAINED, AVERAGE, RUN = "trained.safetensors", "average.safetensors", "run.json"


@dataclass
class RunState:
    """The numbers of a run: steps and seconds of training so far, the points of its log, running
    means of the losses and of the clipped gradients' length."""

    step: int = 0
    seconds: float = 0.0
    log: list[dict[str, Any]] = field(default_factory=list)
    recent: dict[str, float] = field(default_factory=dict)
    usual_norm: float = 0.0


def whole(tensor: Tensor) -> Tensor:
    """A tensor that FSDP may have spread over processes, in one piece (all processes must ask)."""
    from torch.distributed.tensor import DTensor  # half a second, which wrong options need not wait

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread_like(tensor: Tensor, example: Tensor) -> Tensor:
    """The opposite of whole: a tensor on the device, or the devices, of an example."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(example, DTensor):
        return distribute_tensor(tensor.to(example.device), example.device_mesh, example.placements)
    return tensor.to(example.device)


class Checkpoints:
    """The newest checkpoint of a run in FOLDER/step_00000200; it replaces the one before.

    trained() gives the names and parameters that are trained; average holds their averages, in
    that order. All processes must call save and load.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: "Accelerator",
        trained: Callable[[], list[tuple[str, nn.Parameter]]],
        average: "EMAModel",
    ):
        self.folder, self.accelerator = folder, accelerator
        self.trained, self.average = trained, average
        accelerator.register_save_state_pre_hook(self._save_weights)
        accelerator.register_load_state_pre_hook(self._load_weights)

    def newest(self) -> Path | None:
        """The folder of the newest checkpoint, where there is one."""
        return max(self.folder.glob("step_*"), default=None)

    def save(self, state: RunState) -> None:
        """Write a checkpoint beside the one there is, which goes when the new one is complete."""
        target = self.folder / f"step_{state.step:08d}"
        temporary = self.folder / f".{target.name}"  # the same for all processes
        is_main = self.accelerator.is_main_process
        if is_main:
            shutil.rmtree(temporary, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(temporary))
        self.accelerator.wait_for_everyone()
        if is_main:
            (temporary / RUN).write_text(json.dumps(asdict(state)), "utf-8")
            shutil.rmtree(target, ignore_errors=True)  # of a run before this one
            os.replace(temporary, target)
            for other in self.folder.glob("step_*"):
                if other != target:
                    shutil.rmtree(other)
        self.accelerator.wait_for_everyone()

    def load(self) -> RunState | None:
        """Bring everything to the newest checkpoint; None when there is none.

        Raises ValueError when it is of a run that trained other weights.
        """
        newest = self.newest()
        if newest is None:
            return None
        averages, _ = read_safetensors(newest / AVERAGE)
        shapes = {name: parameter.shape for name, parameter in self.trained()}
        if shapes != {name: value.shape for name, value in averages.items()}:
            raise ValueError(
                f"{newest} is of a run that trained other weights; choose another --loop.out, or "
                "start afresh with --loop.no-resume."
            )
        state = RunState(**json.loads((newest / RUN).read_text("utf-8")))
        self.accelerator.load_state(str(newest))
        self.accelerator.step = 0  # a checkpoint lies between two steps, whatever they accumulate
        values = [spread_like(averages[name], parameter) for name, parameter in self.trained()]
        self.average.load_state_dict({"shadow_params": values, "optimization_step": state.step})
        return state

    def _save_weights(self, models: list[nn.Module], weights: list[dict], folder: str) -> None:
        """Before accelerate saves: the trained weights instead of the whole model, and the average.

        `weights` is empty under FSDP, whose sharded model accelerate has written by itself.
        """
        names = [name for name, _ in self.trained()]
        if weights:
            weights.clear()
            self._save_tensors(names, [p for _, p in self.trained()], Path(folder) / TRAINED)
        self._save_tensors(names, self.average.shadow_params, Path(folder) / AVERAGE)

    def _save_tensors(self, names: list[str], values: list[Tensor], path: Path) -> None:
        tensors = {n: whole(v.detach()).contiguous() for n, v in zip(names, values)}
        if self.accelerator.is_main_process:
            save_tensors(tensors, path)

    @torch.no_grad()
    def _load_weights(self, models: list[nn.Module], folder: str) -> None:
        """Before accelerate loads: the trained weights, as _save_weights wrote them."""
        if models:
            models.clear()
            tensors, _ = read_safetensors(Path(folder) / TRAINED)
            for name, parameter in self.trained():
                parameter.copy_(tensors[name])
