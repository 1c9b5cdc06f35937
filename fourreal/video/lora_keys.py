"""What a LoRA file holds for a Wan transformer, whatever program wrote its keys.

Layers are called as diffusers, the original files (ComfyUI, DiffSynth, lightx2v) or kohya's and
musubi's trainers (dots as underscores) do, behind any prefix. A tensor is one of two factors, an
alpha, or a difference that is added to a parameter. Every tensor of a file is used, left out with a
warning because it belongs to another part (text encoder, image input), or the file is refused.
"""

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel
from torch import Tensor

from fourreal.video.architectures import WanTransformer
from fourreal.video.wan_files import name_of, part_of, recognise_wan
from fourreal.video.wan_keys import comfy_key

logger = logging.getLogger(__name__)

# layer, A or down (first factor) or B or up (second), the adapter's name where PEFT left it, kind
FACTOR = re.compile(
    r"(?P<layer>.+?)[._]lora(?:_linear_layer)?[._](?P<part>A|B|down|up)"
    r"(?:\.(?!weight$|bias$)[^.]+)?(?:\.(?P<kind>weight|bias))?"
)
ALPHA = re.compile(r"(?P<layer>.+)\.(lora_)?alpha")
DIFFERENCE = re.compile(r"(?P<layer>.+?)(?P<of>\.weight|\.bias)?\.(?P<end>diff\w*|[wb]_norm)")
DIFFERENCES = {
    "diff": ".weight",
    "diff_b": ".bias",
    "diff_m": ".modulation",  # lightx2v's, of the parameter `modulation`
    "w_norm": ".weight",  # LyCORIS
    "b_norm": ".bias",
}
# Other kinds of adapters by what their keys hold.
OTHER_KINDS = {
    "DoRA": re.compile(r"dora_scale|lora_magnitude_vector"),
    "LoKr": re.compile(r"\.lokr_"),
    "LoHa": re.compile(r"\.hada_"),
    "LoCon with a middle factor": re.compile(r"\.lora_mid\b"),
    "GLoRA": re.compile(r"\.[ab][12]\.weight$"),
    "OFT": re.compile(r"\.b?oft_|\.oft_blocks"),
    "IA3": re.compile(r"\.ia3_|\.on_input$"),
    "VeRA": re.compile(r"vera_lambda"),
    "a file that replaces whole weights": re.compile(r"\.(set_weight|reshape_weight)$"),
}
VACE = "VACE"
# Keys of other parts than the transformer, and of inputs that text-to-video models do not have.
OTHER_PARTS = {
    "the text encoder": re.compile(
        r"(^|[._])(lora_te\d?|te\d?|text_encoders?|text_model|cond_stage_model|clip|umt5\w*|t5)[._]"
    ),
    "the VAE": re.compile(r"(^|[._])(vae|first_stage_model)[._]"),
    "image input": re.compile(
        r"(^|[._])(\w*[kv]_img|img_emb|add_[kv]_proj|norm_added_[kv]|image_embedder|image_encoder)"
        r"([._]|$)"
    ),
    "a second transformer": re.compile(r"(^|[._])transformer_2[._]"),
    VACE: re.compile(r"(^|[._])vace_"),
}
FLAT_PREFIX = re.compile(r"((lora|lycoris|unet|transformer|diffusion_model|model|base_model)_+)*")
LAYER_NUMBER = re.compile(r"(?:^|[._])blocks[._](\d+)[._]")


@dataclass
class LoraContent:
    """What a file adds to a transformer, by diffusers' names, the alpha multiplied in.

    factors: of a layer, down [r, in] and up [out, r] (of a convolution with its kernel's
    dimensions); its weight gets up @ down. differences: of a parameter.
    """

    factors: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    differences: dict[str, Tensor] = field(default_factory=dict)


def base_shapes(transformer: WanTransformer) -> dict[str, torch.Size]:
    """Shapes of a transformer's own parameters, whatever adapters it has, by their names."""
    return {
        key.replace(".base_layer.", "."): value.shape
        for key, value in transformer.state_dict().items()
        if ".lora_" not in key
    }


def read_lora(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    transformer: WanTransformer,
    path: object,
) -> LoraContent:
    """The content of a LoRA file, checked against the transformer.

    metadata may hold the settings of PEFT (`lora_adapter_metadata`, as diffusers writes them). path
    is for messages. Raises ValueError in one sentence when nothing is for this transformer, for
    another kind of adapter, for factors without their partner, and for layers or sizes that the
    transformer does not have. Keys of other parts are left out with one warning.
    """
    for kind, pattern in OTHER_KINDS.items():
        if any(pattern.search(key) for key in tensors):
            raise ValueError(
                f"{path} is {kind}, but only LoRA with two factors for each layer works here; "
                "merge it into the model, or use a LoRA."
            )
    reader = _Reader(transformer, path)
    for key, value in tensors.items():
        reader.sort(key, value)
    content = reader.content(_peft_settings(metadata, path))
    if not content.factors and not content.differences:
        kind, what = recognise_wan(part_of(dict(tensors), "transformer", Path(str(path))))
        if kind != "unknown":
            raise ValueError(
                f"{path} holds {what}, not a LoRA; give it with --{kind.replace(' ', '-')}."
            )
        raise ValueError(
            f"{path} holds nothing for {name_of(transformer)}: its keys are such as "
            f"{', '.join(sorted(tensors)[:2]) or 'none'}; use a LoRA for the Wan transformer."
        )
    reader.warn()
    return content


def _peft_settings(metadata: Mapping[str, Any], path: object) -> dict[str, Any]:
    """PEFT's settings of the transformer, as diffusers notes them; empty where it does not."""
    try:
        noted = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        settings = {key.removeprefix("transformer."): value for key, value in noted.items()}
        patterns = settings.get("alpha_pattern") or {}
        settings["alpha_pattern"] = {k.lstrip("^"): float(v) for k, v in patterns.items()}
        if settings.get("lora_alpha") is not None:
            settings["lora_alpha"] = float(settings["lora_alpha"])
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} has settings of PEFT (lora_adapter_metadata or adapter_config.json) that "
            f"cannot be read ({type(error).__name__}); download it again."
        ) from error
    return settings


def _layer_names(shapes: Mapping[str, torch.Size]) -> dict[str, str]:
    """diffusers' name of each layer, or parameter of no layer, by all its spellings."""
    names = {}
    for key in shapes:
        layer = key.removesuffix(".weight").removesuffix(".bias")
        original = comfy_key(key).removesuffix(".weight").removesuffix(".bias")
        for spelling in (layer, original):
            names[spelling] = names[spelling.replace(".", "_")] = layer
    return names


class _Reader:
    """Sorts a file's tensors by the layer that they are for."""

    def __init__(self, transformer: WanTransformer, path: object):
        self.shapes = base_shapes(transformer)
        self.names = _layer_names(self.shapes)
        self.name, self.path = name_of(transformer), path
        self.num_layers = transformer.config["num_layers"]
        is_vace = isinstance(transformer, WanVACETransformer3DModel)
        self.other_parts = {k: v for k, v in OTHER_PARTS.items() if not (is_vace and k == VACE)}
        self.down: dict[str, Tensor] = {}
        self.up: dict[str, Tensor] = {}
        self.up_bias: dict[str, Tensor] = {}
        self.alpha: dict[str, Tensor] = {}
        self.differences: dict[str, Tensor] = {}
        self.left_out: Counter[str] = Counter()
        self.unknown: list[str] = []

    def sort(self, key: str, value: Tensor) -> None:
        """Put a tensor where it belongs. Raises ValueError for a layer that is not there."""
        for part, pattern in self.other_parts.items():
            if pattern.search(key):
                self.left_out[part] += 1
                return
        place, layer = self._place(key)
        if place is None or layer is None:
            number = LAYER_NUMBER.search(key)
            if number and int(number[1]) >= self.num_layers:
                raise ValueError(
                    f"{self.path} does not fit {self.name}: it is for a transformer of more than "
                    f"{number[1]} layers, but this one has {self.num_layers}; use a LoRA that was "
                    "trained on this transformer."
                )
            self.unknown.append(key)
            return
        if layer in place:
            raise ValueError(f"{self.path} holds {layer} twice, the second time as {key}.")
        place[layer] = value

    def _place(self, key: str) -> tuple[dict[str, Tensor] | None, str | None]:
        """The dict for a tensor, and its layer or parameter; None where it is not known."""
        if match := FACTOR.fullmatch(key):
            second = match["part"] in ("B", "up")
            if match["kind"] == "bias":
                return (self.up_bias if second else None), self._layer(match["layer"])
            return (self.up if second else self.down), self._layer(match["layer"])
        if match := ALPHA.fullmatch(key):
            return self.alpha, self._layer(match["layer"])
        if match := DIFFERENCE.fullmatch(key):
            end = match["of"] or DIFFERENCES.get(match["end"], "")
            if end == ".modulation":
                return self.differences, self._layer(match["layer"] + end)
            layer = self._layer(match["layer"])
            if layer is not None and layer not in self.shapes:
                layer = layer + end if layer + end in self.shapes else None
            return self.differences, layer
        return None, None

    def _layer(self, spelled: str) -> str | None:
        """diffusers' name of a layer, whatever is before its name in the file."""
        if "." not in spelled:
            prefix = FLAT_PREFIX.match(spelled)
            return self.names.get(spelled[prefix.end() :]) if prefix else None
        parts = spelled.split(".")
        ends = (".".join(parts[i:]) for i in range(len(parts)))
        return next((self.names[end] for end in ends if end in self.names), None)

    def content(self, settings: Mapping[str, Any]) -> LoraContent:
        """The factors with their scales, and the differences. Raises ValueError where sizes differ
        from the transformer's, or a factor has no partner."""
        lonely = self.down.keys() ^ self.up.keys()
        if lonely:
            raise ValueError(
                f"{self.path} holds only one of the two factors of {sorted(lonely)[0]}; it is "
                "incomplete, download it again."
            )
        content = LoraContent()
        for layer, down in self.down.items():
            up = self.up[layer]
            self._check_factors(layer, down, up)
            scale = self._scale(layer, len(down), settings)
            shape = self.shapes[f"{layer}.weight"]
            content.factors[layer] = (
                down.float().reshape(len(down), *shape[1:]),
                (up.float() * scale).reshape(*up.shape[:2], *[1] * (len(shape) - 2)),
            )
            if layer in self.up_bias:
                self._add(content, f"{layer}.bias", self.up_bias[layer].float() * scale)
        for parameter, difference in self.differences.items():
            self._add(content, parameter, difference.float())
        for name, values in (*content.factors.items(), *content.differences.items()):
            pair = values if isinstance(values, tuple) else (values,)
            if not all(value.isfinite().all() for value in pair):
                raise ValueError(
                    f"{self.path} has numbers for {name} that are not finite, with which nothing "
                    "can be generated; its training failed, use another."
                )
        without = (self.alpha.keys() | self.up_bias.keys()) - self.down.keys()
        self.unknown += [f"the alpha or bias of {layer}" for layer in sorted(without)]
        return content

    def _add(self, content: LoraContent, parameter: str, difference: Tensor) -> None:
        shape = self.shapes.get(parameter)
        if shape is None or difference.numel() != shape.numel():
            self._refuse(parameter, difference.shape, shape)
        old = content.differences.get(parameter)
        difference = difference.reshape(self.shapes[parameter])
        content.differences[parameter] = difference if old is None else old + difference

    def _scale(self, layer: str, rank: int, settings: Mapping[str, Any]) -> float:
        """alpha / rank of a layer: of the file's alpha, or of PEFT's settings; else 1."""
        if layer in self.alpha:
            if self.alpha[layer].numel() != 1:
                raise ValueError(f"{self.path} has an alpha of {layer} that is not one number.")
            return self.alpha[layer].item() / rank
        alpha = settings.get("lora_alpha")
        # PEFT's patterns are regular expressions, but are written as ends of names; a pattern from
        # a file is never run.
        spellings = (layer, comfy_key(f"{layer}.weight").removesuffix(".weight"))
        for end, value in settings["alpha_pattern"].items():
            if any(f".{name}".endswith(f".{end}") for name in spellings):
                alpha = value
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)

    def _check_factors(self, layer: str, down: Tensor, up: Tensor) -> None:
        shape = self.shapes.get(f"{layer}.weight")
        if shape is None or len(shape) < 2:
            raise ValueError(f"{self.path} has factors for {layer}, which has no weight matrix.")
        if down.ndim < 2 or up.ndim < 2 or len(down) != up.shape[1] or not len(down):
            raise ValueError(
                f"{self.path} has factors for {layer} of the shapes {tuple(down.shape)} and "
                f"{tuple(up.shape)}, whose product is no matrix; download it again."
            )
        inner = down.shape[1:].numel(), up.shape[1:].numel()
        if len(up) != shape[0] or inner != (shape[1:].numel(), len(down)):
            self._refuse(f"{layer}.weight", torch.Size([len(up), *down.shape[1:]]), shape)

    def _refuse(self, parameter: str, found: torch.Size, shape: torch.Size | None) -> None:
        needed = "is not there" if shape is None else f"has the shape {tuple(shape)}"
        raise ValueError(
            f"{self.path} does not fit {self.name}: it changes {parameter} of the shape "
            f"{tuple(found)}, which in this transformer {needed}; use a LoRA that was trained on "
            "this transformer."
        )

    def warn(self) -> None:
        """One warning that names what is not used."""
        parts = [f"{count} for {part}" for part, count in self.left_out.items()]
        if self.unknown:
            parts.append(f"{len(self.unknown)} unknown ({', '.join(self.unknown[:2])})")
        if parts:
            logger.warning("%s: tensors are left out: %s.", self.path, ", ".join(parts))
