"""The ComfyUI nodes (V3 API): thin, and the only code of this project that imports comfy."""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("fourreal") is None:
    # ComfyUI imports a pack by its path and does not install it. At the end of the list, so that
    # nothing in this folder can stand before a module of ComfyUI or of another pack.
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from comfy_api.latest import ComfyExtension, io

from .grid import AssembleGrid, ContactSheet, PickTime, PickView
from .inputs import GridLatent, TextEncode
from .loaders import ExampleScene, LoadEmbeddedModels, LoadReconstructor
from .preview import Preview4D, serve_page
from .rendering import CameraPathNode, RenderSplats, SceneCamera
from .sampling import ApplyViewTimeAttention, ViewTimeSampler
from .scene import LoadScene, Reconstruct, SaveScene, SceneToSplat

NODES = [
    LoadEmbeddedModels,
    ExampleScene,
    TextEncode,
    GridLatent,
    ApplyViewTimeAttention,
    ViewTimeSampler,
    AssembleGrid,
    PickView,
    PickTime,
    ContactSheet,
    LoadReconstructor,
    Reconstruct,
    SceneCamera,
    CameraPathNode,
    RenderSplats,
    SceneToSplat,
    SaveScene,
    LoadScene,
    Preview4D,
]


class FourRealExtension(ComfyExtension):
    async def on_load(self) -> None:
        serve_page()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
