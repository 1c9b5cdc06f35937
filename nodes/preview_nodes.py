"""Preview 4D: the viewer page (fourreal.viewer) in a node.

The page is one route of the server; a scene's files (kept_scenes.py) come through `/view`. The
widget of nodes/web/preview_4d.js holds the page and reports where one looks from.
"""

import weakref
from importlib.resources import files

import comfy.model_management
import torch
from comfy_api.latest import Types, io
from torch import Tensor

from fourreal.gaussians import GaussianScene
from fourreal.grid import images_to_frames

from . import kept_scenes, types
from .grid_shape import HIDDEN, made_by
from .splat_batch import as_scene
from .viewer_state import Keyframe, owner_of, viewer_path, viewer_state

ROUTE = "/fourreal/viewer"

# The scene's name for what was last given, by id: the objects (weakly), and the name.
written: dict[int, tuple[weakref.ref, weakref.ref | None, str]] = {}


def serve_page() -> None:
    """Let ComfyUI's server give out the viewer page, and say which scenes are kept. Without a
    server there is nothing to do."""
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

    @server.routes.get(f"{ROUTE}/kept/{{name}}")
    async def kept(request) -> web.Response:
        return web.json_response(kept_scenes.is_kept(request.match_info["name"]))


def scene_name(
    given: GaussianScene | Types.SPLAT, scene: GaussianScene, images: Tensor | None
) -> str:
    """The name of the kept files of a scene, which are written where there are none."""
    from fourreal.viewer import scene_files

    of, with_images, name = written.get(id(given), (None, None, ""))
    same_images = with_images is None if images is None else with_images and with_images() is images
    if of and of() is given and same_images and kept_scenes.is_kept(name):
        return name  # only the camera has changed
    frames = None if images is None else images_to_frames(images, scene.num_views)
    name = kept_scenes.keep_scene(scene_files(scene, frames))
    for key in [key for key, (of, *_) in written.items() if of() is None]:
        del written[key]
    with_images = None if images is None else weakref.ref(images)
    written[id(given)] = (weakref.ref(given), with_images, name)
    return name


def draw(scene: GaussianScene, shown: Keyframe) -> Tensor:
    """What the viewer shows as an IMAGE [1, H, W, 3] of the input views' size, on black."""
    from fourreal.rendering import render

    device = comfy.model_management.get_torch_device()
    gaussians = scene.at(round(shown.time))
    comfy.model_management.free_memory(2 * sum(t.nbytes for t in vars(gaussians).values()), device)
    camera = (part[None].to(device) for part in (shown.extrinsics, shown.intrinsics))
    with torch.no_grad():
        image = render(gaussians.to(device), *camera, scene.width, scene.height).color
    return image.clamp(0, 1).to(comfy.model_management.intermediate_device())


class Preview4D(io.ComfyNode):
    """Drag to orbit, drag with the right button to pan, turn the wheel to zoom, fly with W A S D Q
    E. The timeline below plays and scrubs; the numbers above are the input cameras; the button with
    three lines opens the settings (size of the splats, view angle, background, what moves,
    screenshot, recording).

    Where you look from is kept with the workflow and comes out when it is queued: the picture as
    *image*, and *camera* for core's Render Splat or for Camera Path with *fixed_view*. Keyframes
    set on the timeline come out as *CAMERA_PATH*, for Render Splats.

    The files that it shows are in the folder `4real/previews` of the output folder: at most 16
    scenes and 4 GB, of which those not seen for longest go first.
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
            hidden=HIDDEN,
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
                io.Image.Output(
                    display_name="image",
                    tooltip="What you saw when it was queued, in the size of the input views.",
                ),
                types.CameraPath.Output(
                    display_name="CAMERA_PATH",
                    tooltip="Through the keyframes of the timeline; without any, the camera as it "
                    "is while time plays.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_) -> int:
        return kept_scenes.count_gone()  # ComfyUI may remember a result whose files are gone

    @classmethod
    def execute(
        cls,
        scene: types.CachedScene | Types.SPLAT,
        images: Tensor | None = None,
        view: dict | None = None,
    ) -> io.NodeOutput:
        as_given, scene = scene, as_scene(scene)
        maker, views = made_by(cls.hidden, "images")
        if images is not None and views not in (None, scene.num_views):
            raise ValueError(
                f"the scene has {scene.num_views} views, but images come from {maker} with {views} "
                "views; link the images that the scene was made of."
            )
        name = scene_name(as_given, scene, images)
        shown, keyframes = viewer_state(view, scene)
        # No file of its own: the editor would show it as the job's result.
        place = {"folder": (kept_scenes.PLACE / name).as_posix(), "owner": owner_of(view)}
        return io.NodeOutput(
            scene,
            shown.camera,
            draw(scene, shown),
            viewer_path(shown, keyframes, scene),
            ui={"fourreal_scene": [place]},
        )
