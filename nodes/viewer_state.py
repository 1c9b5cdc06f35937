"""FOURREAL_VIEW, what the viewer of Preview 4D reports, as cameras, a time and a path.

It has the viewer's camera (`position`, `target`, `quaternion`, `fov`: three.js' numbers, as
LOAD3D_CAMERA has them), and maybe `time`, `view` (the number of the input camera that is looked
through, or -1) and `path`, keyframes of a `time` and a `camera` each, by time. Before the viewer
has reported anything there is only the `owner`.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fourreal.cameras import CameraPath, keyframe_path
from fourreal.gaussians import GaussianScene

from .camera_info import camera_info, from_camera_info, view_camera

STILL = 4  # seconds of the viewer's timeline of a scene of one time, along which its camera may go


class Keyframe(NamedTuple):
    """A time of the timeline, fractional, and a camera as LOAD3D_CAMERA and as extrinsics [3, 4]
    and intrinsics [3, 3]."""

    time: float
    camera: dict
    extrinsics: Tensor
    intrinsics: Tensor


def owner_of(view: dict | None) -> str | None:
    """The widget that reports a state; it knows its node's results by that."""
    return view.get("owner") if isinstance(view, dict) else None


def viewer_state(view: dict | None, scene: GaussianScene) -> tuple[Keyframe, list[Keyframe]]:
    """What the viewer shows of a scene, the first view at the first time without a state of it; and
    its keyframes.

    A time beyond the scene's last is its last, and an input camera that it does not have is none,
    for the state may be of another scene. Raises ValueError for what is no state of a viewer.
    """
    if view is None or view == {"owner": owner_of(view)}:
        first = scene.extrinsics[0], scene.intrinsics[0]
        return Keyframe(0.0, view_camera(scene, 0), *first), []

    def keyframe(camera: dict, time: float) -> Keyframe:
        seen = (camera[name] for name in ("position", "target", "quaternion", "fov"))
        told = camera_info(*seen, aspect=scene.width / scene.height)
        lens = from_camera_info(told, scene.width, scene.height)
        numbers = torch.cat([torch.tensor([float(time)]), *(part.flatten() for part in lens)])
        if not numbers.isfinite().all():
            raise ValueError("its numbers make no camera")
        return Keyframe(float(time), told, *lens)

    try:
        shown = keyframe(view, view.get("time", 0))
        keyframes = [keyframe(k["camera"], k["time"]) for k in view.get("path", [])]
        number = int(view.get("view", -1))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"view is no state of the viewer ({error!r}); leave it out, or give position, target, "
            "quaternion and fov, and maybe time, view and path."
        ) from None
    shown = shown._replace(time=min(max(shown.time, 0.0), scene.num_frames - 1.0))
    if 0 <= number < scene.num_views:
        # Exactly the input camera: LOAD3D_CAMERA holds no principal point.
        own = {"extrinsics": scene.extrinsics[number], "intrinsics": scene.intrinsics[number]}
        shown = shown._replace(**own)
    return shown, keyframes


def viewer_path(shown: Keyframe, keyframes: list[Keyframe], scene: GaussianScene) -> CameraPath:
    """The path through the keyframes, a frame for each time of the scene; that of a still scene is
    as long as the viewer's timeline. Without keyframes, what is shown at every time."""
    num_frames = scene.num_frames
    if keyframes and num_frames == 1:
        num_frames = math.ceil(STILL * scene.fps)
    along = keyframes or [shown._replace(time=0.0)]
    return keyframe_path(
        torch.stack([k.extrinsics for k in along]),
        torch.stack([k.intrinsics for k in along]),
        torch.tensor([k.time for k in along]),
        (scene.width, scene.height),
        num_frames,
        scene.num_frames,
    )
