"""Cameras of a scene, paths through it, and its rendering."""

import math
from dataclasses import replace
from fractions import Fraction

import comfy.model_management
import torch
from comfy_api.latest import InputImpl, Types, io

from fourreal.cameras import (
    PATH_KINDS,
    TIME_KINDS,
    PathOptions,
    camera_centers,
    camera_path,
    extrinsics_at,
    look_at,
    matrix_to_quaternion,
    pixel_intrinsics,
    quaternion_to_matrix,
    scale_intrinsics,
    to_homogeneous,
)
from fourreal.gaussians import Gaussians, GaussianScene

from .loaders import Extrinsics, Intrinsics
from .scene import SCENE_TOOLTIP, Scene, depth_image, progress_reporter

CameraPath = io.Custom("FOURREAL_CAMERA_PATH")

# LOAD3D_CAMERA is right-handed with y up and looks down -z (three.js); its world and its camera are
# the OpenCV ones turned by 180 degrees about x, as core's viewers and Render Splat turn a SPLAT.
TURN = torch.tensor([1.0, -1.0, -1.0])


def to_camera_info(
    extrinsics: torch.Tensor, intrinsics: torch.Tensor, width: int, height: int, distance: float
) -> dict:
    """LOAD3D_CAMERA of a camera [3, 4], [3, 3]; `distance` to what it looks at, for orbiting.

    It cannot hold a principal point, which is taken to be the centre, nor non-square pixels.
    """
    rotation = TURN[:, None] * extrinsics[:, :3].T.cpu() * TURN
    position = TURN * camera_centers(extrinsics).cpu()
    w, x, y, z = matrix_to_quaternion(rotation).tolist()
    fov = 2 * math.atan(0.5 * height / intrinsics[1, 1].item())

    def xyz(vector):
        return dict(zip("xyz", vector.tolist()))

    return {
        "position": xyz(position),
        "target": xyz(position - distance * rotation[:, 2]),
        "quaternion": {"x": x, "y": y, "z": z, "w": w},
        "fov": math.degrees(fov),
        "aspect": width / height,
        "zoom": 1.0,
        "cameraType": "perspective",
    }


def from_camera_info(camera: dict, width: int, height: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Extrinsics [3, 4] and intrinsics [3, 3] (pixels of width x height) of a LOAD3D_CAMERA.

    Raises ValueError for an orthographic camera.
    """
    if camera["cameraType"] != "perspective":
        raise ValueError(
            f"the camera is {camera['cameraType']}, but only perspective cameras can be rendered."
        )
    position, target = (
        TURN * torch.tensor([float(camera[name][axis]) for axis in "xyz"])
        for name in ("position", "target")
    )
    if camera.get("quaternion"):
        turn = torch.tensor([float(camera["quaternion"][axis]) for axis in "wxyz"])
        rotation = (TURN[:, None] * quaternion_to_matrix(turn) * TURN).T
        extrinsics = extrinsics_at(position, rotation)
    else:
        extrinsics = look_at(position, target, torch.tensor([0.0, -1.0, 0.0]))
    half = math.tan(math.radians(float(camera.get("fov", 35.0))) / 2) / float(camera["zoom"])
    return extrinsics, pixel_intrinsics(torch.tensor(2 * math.atan(half)), height, width)


def view_camera(scene: GaussianScene, view: int) -> dict:
    """LOAD3D_CAMERA of an input view."""
    extrinsics, intrinsics = scene.extrinsics[view], scene.intrinsics[view]
    distance = scene.at(0).viewing_distance(extrinsics)
    return to_camera_info(extrinsics, intrinsics, scene.width, scene.height, distance)


def parse_color(text: str) -> list[float]:
    """Red, green, blue in [0, 1] of "#rrggbb". Raises ValueError."""
    digits = text.strip().lstrip("#")
    try:
        if len(digits) != 6:
            raise ValueError
        return [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    except ValueError:
        raise ValueError(f"the colour is {text!r}, but must be like #rrggbb.") from None


class SceneCamera(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FourReal_SceneCamera",
            display_name="Scene Camera",
            category="4Real",
            description="The camera of one input view, for core's 3D nodes and for other packs.",
            search_aliases=["camera info", "extrinsics", "load3d camera"],
            inputs=[
                Scene.Input("scene", tooltip=SCENE_TOOLTIP),
                io.Int.Input("view", default=0, min=0, max=63, tooltip="The view, from 0."),
            ],
            outputs=[
                io.Load3DCamera.Output(
                    display_name="camera", tooltip="For Render Splat, Preview Splat and the like."
                ),
                Extrinsics.Output(
                    display_name="EXTRINSICS", tooltip="World to camera [1, 4, 4], OpenCV."
                ),
                Intrinsics.Output(display_name="INTRINSICS", tooltip="[1, 3, 3], in pixels."),
            ],
        )

    @classmethod
    def execute(cls, scene, view) -> io.NodeOutput:
        if view >= scene.num_views:
            raise ValueError(f"view is {view}, but the scene has views 0 to {scene.num_views - 1}.")
        return io.NodeOutput(
            view_camera(scene, view),
            to_homogeneous(scene.extrinsics[view, None]),
            scene.intrinsics[view, None],
        )


class CameraPathNode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FourReal_CameraPath",
            display_name="Camera Path",
            category="4Real",
            description="A camera that moves through a scene while time plays or stands still.",
            search_aliases=["orbit", "trajectory", "bullet time"],
            inputs=[
                Scene.Input("scene", tooltip=SCENE_TOOLTIP),
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
                    tooltip="Seen instead of the first view by fixed_view.",
                ),
            ],
            outputs=[CameraPath.Output(display_name="CAMERA_PATH", tooltip="A camera per frame.")],
        )

    @classmethod
    def execute(cls, scene, kind, frames, freeze_at, time="auto", camera=None) -> io.NodeOutput:
        extrinsics, intrinsics = scene.extrinsics, scene.intrinsics
        if camera is not None:
            if kind != "fixed_view":
                raise ValueError(
                    f"the kind of path is {kind}, which goes along the scene's own views; choose "
                    "fixed_view or disconnect the camera."
                )
            seen = from_camera_info(camera, scene.width, scene.height)
            extrinsics, intrinsics = (part[None].to(extrinsics) for part in seen)
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


class RenderSplats(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FourReal_RenderSplats",
            display_name="Render Splats",
            category="4Real",
            description="Renders a scene along a camera path, each frame at its own time.",
            search_aliases=["gaussian splatting", "rasterize", "render scene"],
            inputs=[
                io.MultiType.Input(
                    "scene",
                    [Scene, io.Splat],
                    tooltip="A scene, or a SPLAT whose batch is time.",
                ),
                CameraPath.Input("camera_path", tooltip="From Camera Path."),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Pixels; 0 for the width of the input views.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="Pixels; 0 for the height of the input views.",
                ),
                io.Color.Input(
                    "background", default="#000000", tooltip="Colour where there is nothing."
                ),
                io.Float.Input(
                    "fps",
                    default=0.0,
                    min=0.0,
                    max=120.0,
                    step=1.0,
                    advanced=True,
                    tooltip="Frames per second of the video; 0 for the scene's own rate (8 for a "
                    "SPLAT).",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The frames of the path."),
                io.Mask.Output(display_name="alpha", tooltip="How much of each pixel is covered."),
                io.Image.Output(display_name="depth", tooltip="Depth: near is white."),
                io.Video.Output(
                    display_name="video", tooltip="The frames at the scene's rate, for Save Video."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, background):
        try:
            parse_color(background or "#000000")
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, scene, camera_path, width, height, background, fps=0.0) -> io.NodeOutput:
        from fourreal.rendering import render_path

        if isinstance(scene, Types.SPLAT):
            scene = scene_of_splat(scene, camera_path)
        width, height = width or camera_path.width, height or camera_path.height
        path = replace(
            camera_path,
            width=width,
            height=height,
            intrinsics=scale_intrinsics(
                camera_path.intrinsics, width / camera_path.width, height / camera_path.height
            ),
        )
        device = comfy.model_management.get_torch_device()
        # The scene, and its largest time once more.
        parts = [sum(t.nbytes for t in vars(g).values()) for g in (scene.static, *scene.dynamic)]
        comfy.model_management.free_memory(2 * sum(parts), device)
        color, alpha, depth = render_path(
            scene.to(device),
            path,
            background=torch.tensor(parse_color(background), device=device),
            progress=progress_reporter(len(path.times)),
        )
        out = comfy.model_management.intermediate_device()
        images = color.clamp(0, 1).to(out)
        video = InputImpl.VideoFromComponents(
            Types.VideoComponents(
                images=images, frame_rate=Fraction(fps or scene.fps).limit_denominator(1001)
            )
        )
        return io.NodeOutput(
            images, alpha[..., 0].to(out), depth_image(depth[..., 0]).to(out), video
        )


def scene_of_splat(splat: Types.SPLAT, path) -> GaussianScene:
    """A scene with one time per item of a SPLAT's batch, and the cameras of a path."""
    items = len(splat.positions)
    counts = splat.counts if splat.counts is not None else [splat.positions.shape[1]] * items
    fields = (splat.positions, splat.rotations, splat.scales, splat.opacities[..., 0], splat.sh)
    dynamic = [Gaussians(*(f[i, : int(counts[i])].float() for f in fields)) for i in range(items)]
    return GaussianScene(
        Gaussians.empty(splat.sh.shape[2]),
        dynamic,
        path.extrinsics,
        path.intrinsics,
        path.width,
        path.height,
    )
