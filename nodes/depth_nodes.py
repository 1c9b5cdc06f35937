"""Scene from Depth: from images and depth of any origin to a scene of dynamic Gaussians."""

import math
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io
from torch import Tensor

from fourreal.cameras import pixel_intrinsics

from . import types
from .geometry_info import PredictedDepth, predicted_depth
from .grid_shape import HIDDEN, frames_of_grid
from .progress import progress_reporter

if TYPE_CHECKING:
    from .offloading import ComfyReconstructor

NEAR_IS_WHITE, DISTANCE = "near is white", "distance"


class SceneFromDepth(io.ComfyNode):
    """For a video of a camera that stands still leave *num_views* at 1. What does not move is
    stored once, so that background which is uncovered at one time is there at all times.

    - **MOGE_GEOMETRY** has the camera's lens, and its mask says where the sky is.
    - **DA3_GEOMETRY** of several views (mode *multiview*) has their cameras too.
    - A **RECONSTRUCTOR** predicts depth, lens and cameras itself, and says where it is sure: Warp
      Grid leaves out what moves where it is not.
    - An **IMAGE** of depth has neither: give the field of view, and the cameras of several views.

    Several views need cameras in the unit of the depth. MoGe sees each image on its own, so its
    depth of several photos has no common unit; use Depth Anything 3 or Reconstruct 4D for those.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_SceneFromDepth",
            display_name="Scene from Depth",
            category=types.RECONSTRUCT,
            description="Turns images and their depth, of MoGe, Depth Anything 3 or anything else, "
            "into a scene, to be warped into other views.",
            search_aliases=["moge", "depth anything", "rgbd", "point cloud", "2.5d"],
            hidden=HIDDEN,
            inputs=[
                io.Image.Input("images", tooltip="The frames of a video, or a grid of views."),
                io.Int.Input(
                    "num_views",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Views in the images; the batch holds all times of the first view "
                    "first. Of a grid link num_views of the node that made it.",
                ),
                io.MultiType.Input(
                    "depth",
                    [io.Image, types.MoGeGeometry, types.DA3Geometry, types.Reconstructor],
                    tooltip="Of the very same images, as many and of the same size; or a "
                    "RECONSTRUCTOR (VGGT), which predicts it, and the cameras too.",
                ),
                io.Combo.Input(
                    "depth_image",
                    options=[NEAR_IS_WHITE, DISTANCE],
                    default=NEAR_IS_WHITE,
                    tooltip="What the numbers of a depth IMAGE are: the inverse of depth, drawn "
                    "with near white, or depth itself.",
                ),
                io.Float.Input(
                    "depth_range",
                    default=10.0,
                    min=1.1,
                    max=1000.0,
                    step=0.1,
                    tooltip="How many times farther black is than white, where near is white.",
                ),
                io.Float.Input(
                    "fov",
                    default=50.0,
                    min=5.0,
                    max=150.0,
                    step=0.5,
                    tooltip="Horizontal field of view in degrees, where neither the geometry nor "
                    "intrinsics say it.",
                ),
                types.fps_input(),
                io.Mask.Input(
                    "sky",
                    optional=True,
                    tooltip="Pixels of the sky, one mask or one per image: far away and still.",
                ),
                types.Extrinsics.Input(
                    "extrinsics",
                    optional=True,
                    tooltip="Cameras of the views, world to camera [V, 4, 4], in the unit of the "
                    "depth.",
                ),
                types.Intrinsics.Input(
                    "intrinsics", optional=True, tooltip="[V, 3, 3], in pixels of the images."
                ),
            ],
            outputs=[types.Scene.Output(display_name="SCENE", tooltip=types.SCENE_TOOLTIP)],
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        num_views: int,
        depth: "Tensor | dict | ComfyReconstructor",
        fps: float,
        sky: Tensor | None = None,
        extrinsics: Tensor | None = None,
        intrinsics: Tensor | None = None,
        **about,
    ) -> io.NodeOutput:
        """about: depth_image, depth_range and fov."""
        from fourreal.reconstruction import scene_from_depth

        frames = frames_of_grid(images, num_views, cls.hidden).float().cpu()
        num_times, _, height, width = frames.shape[1:]
        if callable(depth):  # a RECONSTRUCTOR
            found = reconstructed_depth(depth, frames, extrinsics, intrinsics)
        elif isinstance(depth, dict):
            found = predicted_depth(depth)
        else:
            found = depth_of_image(depth, about["depth_image"], about["depth_range"])
        check_depth_maps(found.depth, frames)
        if sky is not None:
            found.sky = found.sky | masks_of(sky, found.depth)

        def grid(maps: Tensor) -> Tensor:
            return maps.unflatten(0, (num_views, num_times))

        lens = pixel_intrinsics(
            torch.tensor(2 * math.atan(math.tan(math.radians(about["fov"]) / 2) * height / width)),
            height,
            width,
        )
        if intrinsics is not None:
            lens = intrinsics.float().cpu()
        elif found.intrinsics is not None:  # of a still camera: the middle of what each time says
            lens = grid(found.intrinsics).median(dim=1).values
        sure = found.confidence
        scene = scene_from_depth(
            frames,
            grid(found.depth),
            cameras_of_views(found, extrinsics, num_views, num_times),
            lens.expand(num_views, 3, 3),
            sky=grid(found.sky),
            confidence=None if sure is None else grid(sure),
            fps=fps,
        )
        return io.NodeOutput(types.CachedScene(**vars(scene)))


def reconstructed_depth(
    reconstructor: "ComfyReconstructor",
    frames: Tensor,
    extrinsics: Tensor | None,
    intrinsics: Tensor | None,
) -> PredictedDepth:
    """What a RECONSTRUCTOR says of frames [V, T, 3, H, W], in the unit of known cameras if any.

    Raises ValueError for extrinsics without intrinsics.
    """
    if extrinsics is not None and intrinsics is None:
        raise ValueError("known cameras need both extrinsics and intrinsics; connect both.")
    known = {} if extrinsics is None else {"cameras": (extrinsics[:, :3], intrinsics)}
    num_times = frames.shape[1]
    found = reconstructor(frames, progress=progress_reporter(num_times), **known)
    depth, sure = found.depth.flatten(0, 1), found.depth_confidence.flatten(0, 1)
    cameras = (
        part.repeat_interleave(num_times, 0) for part in (found.intrinsics, found.extrinsics)
    )
    return PredictedDepth(depth, torch.zeros_like(depth).bool(), *cameras, sure)


def depth_of_image(image: Tensor, kind: str, depth_range: float) -> PredictedDepth:
    """Depth [N, H, W] that an IMAGE [N, H, W, 3] shows. Where near is white, white is at 1 and
    black at depth_range, and what is between is linear in 1 / depth."""
    values = image[..., 0].float().cpu()
    if kind == NEAR_IS_WHITE:
        values = 1 / (values.clamp(0, 1) * (1 - 1 / depth_range) + 1 / depth_range)
    return PredictedDepth(values, torch.zeros_like(values).bool())


def check_depth_maps(depth: Tensor, frames: Tensor) -> None:
    """Raise ValueError unless depth [N, H, W] is of the frames [V, T, 3, H, W]."""
    num_views, num_times, _, height, width = frames.shape
    if depth.shape != (num_views * num_times, height, width):
        raise ValueError(
            f"the depth is of {len(depth)} images of {depth.shape[-1]} x {depth.shape[-2]} pixels, "
            f"but there are {num_views * num_times} images of {width} x {height}; give the depth "
            "of the very same images."
        )


def masks_of(mask: Tensor, depth: Tensor) -> Tensor:
    """A MASK [1 or N, H, W] for the maps of depth [N, H, W], as boolean. Raises ValueError."""
    if mask.shape[-2:] != depth.shape[-2:] or len(mask) not in (1, len(depth)):
        raise ValueError(
            f"the sky has {len(mask)} masks of {mask.shape[-1]} x {mask.shape[-2]} pixels, but one "
            f"or {len(depth)} of {depth.shape[-1]} x {depth.shape[-2]} are needed."
        )
    return (mask > 0.5).cpu().expand_as(depth)


def cameras_of_views(
    found: PredictedDepth, given: Tensor | None, num_views: int, num_times: int
) -> Tensor:
    """Extrinsics [V, 3, 4]: the given ones, else those that came with the depth, or of one view the
    identity. Raises ValueError for several views that have none."""
    if given is not None:
        return given[:, :3].float().cpu()
    if found.extrinsics is not None:
        return found.extrinsics[::num_times]  # of a still camera
    if num_views > 1:
        raise ValueError(
            f"{num_views} views were given without their cameras; connect extrinsics, a "
            "RECONSTRUCTOR, or a DA3_GEOMETRY of the multiview mode."
        )
    return torch.eye(3, 4)[None]
