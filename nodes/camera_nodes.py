"""The cameras of a scene, and paths through it."""

from comfy_api.latest import Types, io

from fourreal.cameras import (
    PATH_KINDS,
    TIME_KINDS,
    PathOptions,
    camera_path,
    to_homogeneous,
)
from fourreal.gaussians import GaussianScene

from . import types
from .camera_info import cameras_of, view_camera
from .splat_batch import as_scene


class SceneCamera(io.ComfyNode):
    """LOAD3D_CAMERA is for core's 3D nodes (Render Splat, Preview Splat), EXTRINSICS and INTRINSICS
    for other packs.

    LOAD3D_CAMERA holds no principal point and no separate focal lengths; for exact work take the
    matrices.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_SceneCamera",
            display_name="Scene Camera",
            category=types.RENDER,
            description="The camera of one input view, for core's 3D nodes and for other packs.",
            search_aliases=["camera info", "extrinsics", "load3d camera"],
            inputs=[
                types.scene_input(),
                io.Int.Input("view", default=0, min=0, max=63, tooltip=types.VIEW_TOOLTIP),
            ],
            outputs=[
                io.Load3DCamera.Output(
                    display_name="camera", tooltip="For Render Splat, Preview Splat and the like."
                ),
                types.Extrinsics.Output(
                    display_name="EXTRINSICS", tooltip="World to camera [1, 4, 4], OpenCV."
                ),
                types.Intrinsics.Output(display_name="INTRINSICS", tooltip="[1, 3, 3], in pixels."),
            ],
        )

    @classmethod
    def execute(cls, scene: GaussianScene, view: int) -> io.NodeOutput:
        if view >= scene.num_views:
            raise ValueError(f"view is {view}, but the scene has views 0 to {scene.num_views - 1}.")
        return io.NodeOutput(
            view_camera(scene, view),
            to_homogeneous(scene.extrinsics[view, None]),
            scene.intrinsics[view, None],
        )


class CameraPathNode(io.ComfyNode):
    """Each frame of the path has a camera and a time.

    - **orbit**: to the last view and back
    - **inputs**: once along the views
    - **freeze_time**: the orbit while time stands still at *freeze_at* (bullet time)
    - **fixed_view**: the first view, or the connected camera
    - **replay**: the views one after another, **spiral**: in turns around their middle
    - **push_in**: toward what the views look at
    - **dolly_zoom**: away from it while the lens narrows, so that it keeps its size

    Nothing was seen from elsewhere than the views, so the camera stays near what they cover.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_CameraPath",
            display_name="Camera Path",
            category=types.RENDER,
            description="A camera that moves through a scene while time plays or stands still.",
            search_aliases=["orbit", "trajectory", "bullet time"],
            inputs=[
                types.scene_or_splat_input(),
                io.Combo.Input(
                    "kind",
                    options=list(PATH_KINDS),
                    default="orbit",
                    tooltip="orbit: to the last view and back. inputs: once along the views. "
                    "freeze_time: the orbit while time stands still. fixed_view: the first view, "
                    "or the connected camera. replay: the views one after another. spiral: in "
                    "turns around their middle. push_in: toward what they look at. dolly_zoom: "
                    "away from it while the lens narrows, so that it keeps its size.",
                ),
                io.Int.Input(
                    "frames",
                    default=0,
                    min=0,
                    max=2000,
                    tooltip="Length of the path; 0 for as many frames as the scene has times.",
                ),
                io.Int.Input(
                    "freeze_at",
                    default=0,
                    min=0,
                    max=1023,
                    advanced=True,
                    tooltip="The time that freeze shows, and that ramp stops at.",
                ),
                io.Combo.Input(
                    "time",
                    options=["auto", *TIME_KINDS],
                    advanced=True,
                    tooltip="auto: freeze for freeze_time, else play. play: from the first to the "
                    "last time. freeze: one time. ramp: slows down to a stop and speeds up again. "
                    "ping_pong: to the last time and back.",
                ),
                io.Load3DCamera.Input(
                    "camera",
                    optional=True,
                    tooltip="One is seen instead of the first view by fixed_view. Several stand "
                    "for the scene's views in every kind of path.",
                ),
            ],
            outputs=[
                types.CameraPath.Output(display_name="CAMERA_PATH", tooltip="A camera per frame.")
            ],
        )

    @classmethod
    def execute(
        cls,
        scene: GaussianScene | Types.SPLAT,
        kind: str,
        frames: int,
        freeze_at: int,
        time: str = "auto",
        camera: dict | list[dict] | None = None,
    ) -> io.NodeOutput:
        scene = as_scene(scene)
        extrinsics, intrinsics = scene.extrinsics, scene.intrinsics
        if camera is not None:
            seen = cameras_of(camera, scene.width, scene.height)
            if len(seen[0]) == 1 and kind != "fixed_view":
                raise ValueError(
                    f"the kind of path is {kind}, which goes along several views, but one camera "
                    "is connected; choose fixed_view, or connect none or several."
                )
            extrinsics, intrinsics = (part.to(extrinsics) for part in seen)
        path = camera_path(
            extrinsics,
            intrinsics,
            scene.width,
            scene.height,
            scene.num_frames,
            PathOptions(
                kind,
                frames or None,
                freeze_at,
                time=None if time == "auto" else time,
                distance=scene.at(0).viewing_distance(extrinsics[0]),
            ),
        )
        return io.NodeOutput(path)
