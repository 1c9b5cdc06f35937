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
from comfy_api.latest import io

from .rendering import view_camera
from .scene import SCENE_TOOLTIP, Scene, no_images, progress_reporter

View = io.Custom("FOURREAL_VIEW")  # a widget: {position, target, quaternion, fov} of the viewer
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


def viewer_folder(scene, images) -> str:
    """The folder in temp with the parts of a scene that the page asks for, written when there is
    none. Nothing is left of it when it is cancelled."""
    from fourreal.grid import images_to_frames
    from fourreal.viewer import scene_files

    temporary = Path(folder_paths.get_temp_directory())
    before, written = scene.viewer_files
    if written and before() is images and (temporary / written).is_dir():
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
    scene.viewer_files = (weakref.ref(images) if images is not None else no_images, folder.name)
    return folder.name


def seen_from(view: dict, aspect: float) -> dict:
    """LOAD3D_CAMERA of the viewer's camera, which has the same axes."""
    return {
        "position": dict(zip("xyz", view["position"])),
        "target": dict(zip("xyz", view["target"])),
        "quaternion": dict(zip("xyzw", view["quaternion"])),
        "fov": view["fov"],
        "aspect": aspect,
        "zoom": 1.0,
        "cameraType": "perspective",
    }


class Preview4D(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FourReal_Preview4D",
            display_name="Preview 4D",
            category="4Real",
            description="Explore a scene while time plays: orbit, zoom and fly, scrub the "
            "timeline, look through the input cameras.",
            search_aliases=["4d viewer", "gaussian splat viewer", "preview scene", "timeline"],
            is_output_node=True,
            inputs=[
                Scene.Input("scene", tooltip=SCENE_TOOLTIP),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The grid that the scene was made of, to fade over it in the input "
                    "cameras.",
                ),
                View.Input(
                    "view",
                    optional=True,
                    extra_dict={"socketless": True},
                    tooltip="The viewer. Where you look from is kept with the workflow.",
                ),
            ],
            outputs=[
                Scene.Output(display_name="SCENE", tooltip="The same scene."),
                io.Load3DCamera.Output(
                    display_name="camera",
                    tooltip="Where you looked from when it was queued; at first the first view.",
                ),
            ],
        )

    @classmethod
    def execute(cls, scene, images=None, view=None) -> io.NodeOutput:
        folder = viewer_folder(scene, images)
        shown = {"filename": "scene.json", "subfolder": folder, "type": "temp"}
        camera = seen_from(view, scene.width / scene.height) if view else view_camera(scene, 0)
        return io.NodeOutput(scene, camera, ui={"fourreal_scene": [shown]})
