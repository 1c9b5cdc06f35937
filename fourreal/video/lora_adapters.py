"""LoRA in a ViewTimePipeline: factors by peft, differences of parameters added to the parameters.

Any file that `lora_keys` understands. Loading checks the whole file before it changes the model.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_pipeline import WanLoraLoaderMixin
from torch import Tensor

from fourreal.files.weights_files import read_weights
from fourreal.video.architectures import WanTransformer
from fourreal.video.conditioning import CONDITIONINGS
from fourreal.video.lora_keys import LoraContent, read_lora
from fourreal.video.wan_files import json_note, name_of

CHANGED = "_lora_differences"  # attribute of a transformer with differences
# What this project's LoRAs note about themselves, and what may be noted.
NOTED: dict[str, Callable[[Any], bool]] = {
    "conditioning": lambda value: value in CONDITIONINGS,
    "max_frames": lambda value: type(value) is int and value > 0,
    "guidance_scale": lambda value: type(value) in (int, float) and math.isfinite(value),
    "staged": lambda value: type(value) is bool,
}
PEFT_FILE, PEFT_SETTINGS = "adapter_model", "adapter_config.json"


@dataclass
class _Differences:
    """Differences of parameters by adapter, how strongly each counts, and what the parameters were
    before; each by the parameter's name in a transformer without adapters."""

    of: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    originals: dict[str, Tensor] = field(default_factory=dict)
    enabled: bool = True


def _differences(transformer: WanTransformer) -> _Differences:
    """Those of a transformer; none where nothing was loaded."""
    return vars(transformer).setdefault(CHANGED, _Differences())


def _write_parameters(transformer: WanTransformer) -> None:
    """Make each parameter its original plus the weighted differences of the adapters."""
    state = _differences(transformer)
    parameters = {
        name.replace(".base_layer.", "."): parameter
        for name, parameter in transformer.named_parameters()
    }
    for name in {name for changed in state.of.values() for name in changed}:
        state.originals.setdefault(name, parameters[name].data)
    for name, original in state.originals.items():
        parameter = parameters[name]
        value = original.to(parameter.device)  # the model may have been moved since
        for adapter, changed in state.of.items():
            weight = state.weights[adapter] if state.enabled else 0.0
            if name in changed and weight:
                value = value.float() + weight * changed[name].to(parameter.device)
        # A new tensor, never in place: the original may be mapped from a file.
        parameter.data = value.to(parameter.dtype)


def read_lora_file(
    source: str | Path | Mapping[str, Tensor], transformer: WanTransformer
) -> tuple[LoraContent, dict[str, Any]]:
    """(content, what a file of this project notes about itself) of a file, folder or state dict.

    Raises ValueError for what read_weights and read_lora refuse.
    """
    if isinstance(source, Mapping):
        return read_lora(source, {}, transformer, "the LoRA"), {}
    path = Path(source)
    tensors, metadata = read_weights(path)
    folder = path if path.is_dir() else path.parent
    if (path.is_dir() or path.stem == PEFT_FILE) and (folder / PEFT_SETTINGS).is_file():
        text = (folder / PEFT_SETTINGS).read_text(encoding="utf-8", errors="replace")
        metadata = {"lora_adapter_metadata": text} | metadata
    content = read_lora(tensors, metadata, transformer, path)
    noted = json_note(metadata, "fourreal", path)
    settings = {key: noted[key] for key in NOTED if key in noted}
    for key, value in settings.items():
        if not NOTED[key](value):
            raise ValueError(f"{path} notes {key} {value!r} about itself, which cannot be.")
    return content, settings


def add_content(
    transformer: WanTransformer, content: LoraContent, adapter_name: str, **options: Any
) -> None:
    """Give a transformer the factors, as an adapter of peft, and the differences of a LoRA.

    options are load_lora_adapter's of diffusers.
    """
    if content.factors:
        tensors, ranks = {}, {}
        for layer, (down, up) in content.factors.items():
            ranks[layer] = len(down)
            tensors[f"{layer}.lora_A.weight"] = down.to(transformer.dtype).contiguous()
            tensors[f"{layer}.lora_B.weight"] = up.to(transformer.dtype).contiguous()
        rank = max(ranks.values())
        others = {layer: r for layer, r in ranks.items() if r != rank}
        config = {
            "r": rank,
            "lora_alpha": rank,  # alpha is in the factors
            "rank_pattern": others,
            "alpha_pattern": others,
            "target_modules": list(ranks),
        }
        transformer.load_lora_adapter(
            tensors, prefix=None, adapter_name=adapter_name, metadata=config, **options
        )
    if content.differences:
        state = _differences(transformer)
        state.of[adapter_name], state.weights[adapter_name] = content.differences, 1.0
        _write_parameters(transformer)


class LoraMixin(WanLoraLoaderMixin):
    """diffusers' methods for LoRA, for files of every key form and with differences."""

    transformer: WanTransformer
    config: Any
    register_to_config: Any

    def load_lora_weights(  # type: ignore[override]  # as all of diffusers' pipelines do
        self,
        pretrained_model_name_or_path_or_dict: str | Path | Mapping[str, Tensor],
        adapter_name: str | None = None,
        **options: Any,
    ) -> None:
        """Add a LoRA: a file or folder on this computer, or a state dict, in the key form of
        diffusers, PEFT, DiffSynth, ComfyUI, kohya or musubi.

        A file of this project also sets the conditioning and max_frames that it notes about itself.
        options: weight_name of a file in a folder, and those of diffusers' load_lora_adapter.
        Raises ValueError, before anything is changed, for a file that is damaged, does not fit the
        transformer, changes nothing, or is another kind of adapter.
        """
        source = pretrained_model_name_or_path_or_dict
        if weight_name := options.pop("weight_name", None):
            source = Path(str(source)) / weight_name
        content, settings = read_lora_file(source, self.transformer)
        vace = self.config.conditioning == "mask"  # that of VACE transformers, and only theirs
        if settings.get("conditioning") == "mask" and not vace:
            raise ValueError(
                f"{source} is for a VACE transformer, but this is {name_of(self.transformer)}; "
                "load one of VACE."
            )
        if vace:
            settings.pop("conditioning", None)
        if adapter_name is None:
            taken = self._adapters()
            adapter_name = next(n for i in count() if (n := f"default_{i}") not in taken)
        add_content(
            self.transformer,
            content,
            adapter_name,
            _pipeline=self,
            **({"low_cpu_mem_usage": True} | options),
        )
        self.register_to_config(**settings)

    def _adapters(self) -> set[str]:
        """Names of all adapters."""
        with_factors = getattr(self.transformer, "peft_config", {}).keys()
        return with_factors | _differences(self.transformer).of.keys()

    def _with_factors(self, names: str | list[str]) -> list[str]:
        """Those of the names that peft knows, which are all but those of differences alone."""
        names = [names] if isinstance(names, str) else list(names)
        known = getattr(self.transformer, "peft_config", {})
        return [n for n in names if n in known or n not in _differences(self.transformer).of]

    def unload_lora_weights(self) -> None:
        """Take all LoRA out; the parameters are what they were before."""
        if getattr(self.transformer, "peft_config", None):
            super().unload_lora_weights()
        _differences(self.transformer).of.clear()
        _write_parameters(self.transformer)
        vars(self.transformer).pop(CHANGED)

    def delete_adapters(self, adapter_names: list[str] | str) -> None:
        """As in diffusers."""
        if with_factors := self._with_factors(adapter_names):
            super().delete_adapters(with_factors)
        names = [adapter_names] if isinstance(adapter_names, str) else adapter_names
        for name in names:
            _differences(self.transformer).of.pop(name, None)
        _write_parameters(self.transformer)

    def set_adapters(
        self,
        adapter_names: list[str] | str,
        adapter_weights: float | dict | list[float] | list[dict] | None = None,
    ) -> None:
        """As in diffusers; differences count 1 where an adapter's weight is a dict of layers."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        given: Any = (
            adapter_weights if isinstance(adapter_weights, list) else [adapter_weights] * len(names)
        )
        weights = dict(zip(names, given))
        if with_factors := self._with_factors(names):
            super().set_adapters(with_factors, [weights[name] for name in with_factors])
        state = _differences(self.transformer)
        for name in state.of:
            weight = weights.get(name, 0.0)
            state.weights[name] = float(weight) if isinstance(weight, (int, float)) else 1.0
        _write_parameters(self.transformer)

    def disable_lora(self) -> None:
        """As in diffusers."""
        self._enable(False)

    def enable_lora(self) -> None:
        """As in diffusers."""
        self._enable(True)

    def _enable(self, enabled: bool) -> None:
        if getattr(self.transformer, "peft_config", None):
            super().enable_lora() if enabled else super().disable_lora()
        _differences(self.transformer).enabled = enabled
        _write_parameters(self.transformer)
