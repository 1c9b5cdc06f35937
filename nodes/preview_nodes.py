"""Preview 4D: the viewer page (fourreal.viewer) in a node.

The page is one route of the server; a scene is a folder of temporary files that `/view` gives out.
The widget of nodes/web/preview_4d.js holds the page and reports where one looks from.
"""

import shutil
import tempfile
import weakref
from importlib.resources import files
from pathlib import Path

import folder_paths
from comfy_api.latest import Types, io
from torch import Tensor

from fourreal.grid import images_to_frames

from . import types
from .camera_info import camera_info, view_camera
from .progress import progress_reporter
from .splat_batch import as_scene

ROUTE = "/fourreal/viewer"


def serve_page() -> None:
    """Let ComfyUI's server give out the viewer page. Without a server there is nothing to do."""
    from aiohttp import web
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    # A second copy of this pack must not keep the server from starting.
    if server is None or any(getattr(route, "path", None) == ROUTE for route in server.routes):
        return
    page = files("fourreal.viewer").joinpath("page.html")

    @server.routes.get(ROUTE)
    async def viewer_page(_) -> web.FileResponse:
        return web.FileResponse(page, headers={"Cache-Control": "no-cache"})


def viewer_folder(scene: types.CachedScene, images: Tensor | None) -> str:
    """The folder in temp with the parts of a scene that the page asks for, written when there is
    none. Nothing is left of it when it is cancelled."""
    from fourreal.viewer import scene_files

    temporary = Path(folder_paths.get_temp_directory())
    written, before = scene.viewer_files
    same_images = (before and before()) is images if images is not None else before is None
    if written and same_images and (temporary / written).is_dir():
        return written  # only the camera has changed
    frames = None if images is None else images_to_frames(images, scene.num_views)
    parts = scene_files(scene, frames)
    progress = progress_reporter(len(parts))
    temporary.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="4real_", dir=temporary))
    try:
        for done, (name, content) in enumerate(parts.items()):
            progress(done, len(parts))
            (folder / name).write_bytes(content())
    except BaseException:
        shutil.rmtree(folder)
        raise
    scene.viewer_files = (folder.name, None if images is None else weakref.ref(images))
    return folder.name


class Preview4D(io.ComfyNode):
    """Drag to orbit, drag with the right button to pan, turn the wheel to zoom, fly with W A S D Q
    E. The timeline below plays and scrubs; the numbers above are the input cameras; the button with
    three lines opens the settings (size of the splats, view angle, background, what moves,
    screenshot, recording).

    Where you look from is kept with the workflow and comes out as *camera* when it is queued:
    connect it to core's Render Splat, or to Camera Path with *fixed_view*, to render just that
    view. The viewer reads temporary files; after a restart of ComfyUI run the workflow again to
    fill it.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_Preview4D",
            display_name="Preview 4D",
            category=types.RENDER,
            description="Explore a scene while time plays: orbit, zoom and fly, scrub the "
            "timeline, look through the input cameras.",
            search_aliases=["4d viewer", "gaussian splat viewer", "preview scene", "timeline"],
            is_output_node=True,
            inputs=[
                types.scene_or_splat_input(),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The grid that the scene was made of, to fade over it in the input "
                    "cameras.",
                ),
                types.View.Input(
                    "view",
                    optional=True,
                    extra_dict={"socketless": True},
                    tooltip="The viewer. Where you look from is kept with the workflow.",
                ),
            ],
            outputs=[
                types.same_scene_output(),
                io.Load3DCamera.Output(
                    display_name="camera",
                    tooltip="Where you looked from when it was queued; at first the first view.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        scene: types.CachedScene | Types.SPLAT,
        images: Tensor | None = None,
        view: dict | None = None,
    ) -> io.NodeOutput:
        scene = as_scene(scene)
        folder = viewer_folder(scene, images)
        shown = {"filename": "scene.json", "subfolder": folder, "type": "temp"}
        camera = view_camera(scene, 0)
        if view:  # the viewer's camera has LOAD3D_CAMERA's axes
            seen = (view[name] for name in ("position", "target", "quaternion", "fov"))
            camera = camera_info(*seen, aspect=scene.width / scene.height)
        return io.NodeOutput(scene, camera, ui={"fourreal_scene": [shown]})
