"""The ComfyUI nodes (V3 API): thin, and the only code of this project that imports comfy.

Files named *_nodes.py hold nodes by topic: a schema, and an execute that calls the library. The
others are what these stand on; no file of nodes imports another. A node's help page is its
description and its class's docstring (tests/nodes/make_help.py writes it).
"""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("fourreal") is None:
    # ComfyUI imports a pack by its path and does not install it. At the end of the list, so that
    # nothing in this folder can stand before a module of ComfyUI or of another pack.
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from comfy_api.latest import ComfyExtension, io

from .camera_nodes import CameraPathNode, SceneCamera
from .carry_nodes import CarryReferences
from .depth_nodes import SceneFromDepth
from .grid_nodes import AssembleGrid, ContactSheet, PickTime, PickView
from .latent_nodes import GridLatent, TextEncode
from .loader_nodes import ExampleScene, LoadEmbeddedModels, LoadReconstructor
from .preview_nodes import Preview4D, serve_page
from .prune_nodes import PruneScene
from .reconstruct_nodes import Reconstruct
from .render_nodes import RenderSplats
from .sampler_nodes import ApplyViewTimeAttention, ViewTimeSampler
from .scene_nodes import LoadScene, SaveScene, SceneToSplat
from .track_nodes import TrackPoints
from .vace_nodes import GridVACE
from .warp_nodes import PasteKnown, WarpGrid

NODES = [
    LoadEmbeddedModels,
    ExampleScene,
    TextEncode,
    GridLatent,
    GridVACE,
    ApplyViewTimeAttention,
    ViewTimeSampler,
    AssembleGrid,
    PickView,
    PickTime,
    ContactSheet,
    LoadReconstructor,
    Reconstruct,
    PruneScene,
    SceneFromDepth,
    WarpGrid,
    PasteKnown,
    CarryReferences,
    TrackPoints,
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
