"""The cameras of a scene, and paths through it."""

from comfy_api.latest import Types, io
from torch import Tensor

from fourreal.cameras import (
    PATH_KINDS,
    TIME_KINDS,
    CameraPath,
    PathOptions,
    camera_path,
    schedule,
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

    *extrinsics* and *intrinsics*, of Reconstruct 4D or of another pack, are a path of their own: a
    camera per frame, as they are. *kind* then says nothing but whether time stands still.

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
                types.Extrinsics.Input(
                    "extrinsics",
                    optional=True,
                    tooltip="A camera per frame in the scene's world, world to camera [N, 4, 4], "
                    "OpenCV: the path itself, in place of kind and camera.",
                ),
                types.Intrinsics.Input(
                    "intrinsics",
                    optional=True,
                    tooltip="[N, 3, 3], or one for all, in pixels of the scene's images; needed "
                    "with extrinsics.",
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
        extrinsics: Tensor | None = None,
        intrinsics: Tensor | None = None,
    ) -> io.NodeOutput:
        scene = as_scene(scene)
        chosen = None if time == "auto" else time
        if extrinsics is not None or intrinsics is not None:
            if camera is not None:
                raise ValueError(
                    "camera and extrinsics are both connected, but either one is the path; "
                    "disconnect the other."
                )
            cameras = given_cameras(extrinsics, intrinsics, frames, scene)
            chosen = chosen or ("freeze" if kind == "freeze_time" else "play")
            times = schedule(chosen, len(cameras[0]), scene.num_frames, freeze_at)
            return io.NodeOutput(CameraPath(*cameras, times, scene.width, scene.height))
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
                time=chosen,
                distance=scene.at(0).viewing_distance(extrinsics[0]),
            ),
        )
        return io.NodeOutput(path)


def given_cameras(
    extrinsics: Tensor | None, intrinsics: Tensor | None, frames: int, scene: GaussianScene
) -> tuple[Tensor, Tensor]:
    """Extrinsics [N, 3, 4] and intrinsics [N, 3, 3] of batches [N, 3 or 4, 4] and [N or 1, 3, 3].

    Raises ValueError for one half of them, for other shapes, for another number than frames (0:
    any) and for a lens whose middle is not in the scene's images, as one of larger images has it.
    """
    if extrinsics is None or intrinsics is None:
        raise ValueError("given cameras need both extrinsics and intrinsics; connect both.")
    shapes = tuple(extrinsics.shape), tuple(intrinsics.shape)
    count = len(extrinsics)
    if not (
        shapes[0] in ((count, 4, 4), (count, 3, 4)) and shapes[1] in ((count, 3, 3), (1, 3, 3))
    ):
        raise ValueError(
            f"the extrinsics are {list(shapes[0])} and the intrinsics {list(shapes[1])}, but "
            "[N, 4, 4] and [N, 3, 3] or [1, 3, 3] are needed: a camera for each of N frames."
        )
    if frames not in (0, count):
        raise ValueError(
            f"frames is {frames}, but {count} cameras are connected, one per frame; set it to 0."
        )
    x, y = intrinsics[0, 0, 2].item(), intrinsics[0, 1, 2].item()
    if not (0 < x < scene.width and 0 < y < scene.height):
        raise ValueError(
            f"the middle of the first lens is at ({x:.0f}, {y:.0f}), outside the scene's images of "
            f"{scene.width} x {scene.height}; give intrinsics in pixels of these."
        )
    lens = intrinsics.float().cpu().expand(count, 3, 3)
    return extrinsics[:, :3].float().cpu(), lens
