"""comfy_api.latest: sockets, schemas, the base of nodes, and the types SPLAT and VIDEO."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import torch

COMMON = ("optional", "tooltip", "advanced")  # of all inputs with a widget
EXTRA = "extra_dict"  # of most


class Input:
    def __init__(
        self,
        id,
        display_name=None,
        optional=False,
        tooltip=None,
        lazy=None,
        extra_dict=None,
        raw_link=None,
        advanced=None,
    ):
        self.id, self.optional, self.tooltip, self.advanced = id, optional, tooltip, advanced
        self._options = dict(extra_dict or {})

    def get_io_type(self):
        return self.io_type


class Output:
    def __init__(self, id=None, display_name=None, tooltip=None, is_output_list=False):
        self.id, self.display_name, self.tooltip = id, display_name, tooltip

    def get_io_type(self):
        return self.io_type


def comfy_type(name: str, input_class=Input):
    """A type of sockets with its Input and Output."""
    bases = {"Input": input_class, "Output": Output}
    parts = {k: type(k, (base,), {"io_type": name}) for k, base in bases.items()}
    return type(name, (), parts | {"io_type": name})


def Custom(io_type):
    return comfy_type(io_type)


def widget(*names: str):
    """An Input class with a default and the arguments of these names, options but for EXTRA."""

    class WidgetInput(Input):
        def __init__(self, id, **given):
            assert given.keys() <= set(self._accepts), given.keys()
            common = {k: v for k, v in given.items() if k in (*COMMON, EXTRA)}
            super().__init__(id, **common)
            options = {k: v for k, v in given.items() if k not in common}
            self._options |= options
            vars(self).update(options)

        _accepts = ("id", *COMMON, "default", *names)

    return WidgetInput


class MultiTypeInput(Input):
    def __init__(self, id, types, optional=False, tooltip=None):
        super().__init__(id, optional=optional, tooltip=tooltip)
        self.io_type = ",".join(t.io_type for t in types)


class AutogrowInput(Input):
    io_type = "COMFY_AUTOGROW_V3"

    def __init__(self, id, template, optional=False, tooltip=None):
        super().__init__(id, optional=optional, tooltip=tooltip)
        self.template = template


class TemplatePrefix:
    def __init__(self, input, prefix, min=1, max=10):
        self.input, self.prefix = input, prefix


@dataclass
class Schema:
    node_id: str
    display_name: str = None
    category: str = None
    inputs: list = field(default_factory=list)
    outputs: list = field(default_factory=list)
    hidden: list = field(default_factory=list)
    description: str = ""
    search_aliases: list = field(default_factory=list)
    is_output_node: bool = False


class NodeOutput:
    def __init__(self, *args, ui=None):
        self.args, self.ui = args, ui


class ComfyNode:
    hidden = SimpleNamespace(unique_id=None, prompt=None, extra_pnginfo=None)

    @classmethod
    def GET_SCHEMA(cls):
        return cls.define_schema()


class ComfyExtension:
    async def on_load(self):
        pass


class SPLAT:
    def __init__(self, positions, scales, rotations, opacities, sh, counts=None):
        self.positions, self.scales, self.rotations = positions, scales, rotations
        self.opacities, self.sh, self.counts = opacities, sh, counts


@dataclass
class VideoComponents:
    images: torch.Tensor
    frame_rate: float


class VideoFromComponents:
    def __init__(self, components):
        self.components = components

    def get_components(self):
        return self.components


SOCKETS = {
    "Image": "IMAGE",
    "Mask": "MASK",
    "Latent": "LATENT",
    "Model": "MODEL",
    "Clip": "CLIP",
    "Vae": "VAE",
    "Conditioning": "CONDITIONING",
    "Video": "VIDEO",
    "Splat": "SPLAT",
    "Tracks": "TRACKS",
    "Load3DCamera": "LOAD3D_CAMERA",
}
io = SimpleNamespace(
    **{name: comfy_type(kind) for name, kind in SOCKETS.items()},
    Int=comfy_type("INT", widget(EXTRA, "min", "max", "step", "control_after_generate")),
    Float=comfy_type("FLOAT", widget(EXTRA, "min", "max", "step", "round")),
    String=comfy_type("STRING", widget(EXTRA, "multiline", "dynamic_prompts")),
    Boolean=comfy_type("BOOLEAN", widget(EXTRA)),
    Color=comfy_type("COLOR", widget()),
    Combo=comfy_type("COMBO", widget(EXTRA, "options")),
    MultiType=SimpleNamespace(Input=MultiTypeInput),
    Autogrow=SimpleNamespace(Input=AutogrowInput, TemplatePrefix=TemplatePrefix),
    Hidden=SimpleNamespace(unique_id="UNIQUE_ID", prompt="PROMPT", extra_pnginfo="EXTRA_PNGINFO"),
    Custom=Custom,
    Schema=Schema,
    NodeOutput=NodeOutput,
    ComfyNode=ComfyNode,
)
