"""Render 4D Splats: a scene along a camera path."""

from dataclasses import replace

import comfy.model_management
import torch
from comfy_api.latest import InputImpl, Types, io
from torch import Tensor

from fourreal.cameras import CameraPath, scale_intrinsics
from fourreal.gaussians import GaussianScene

from . import types
from .progress import progress_reporter
from .splat_batch import splat_to_scene


def parse_color(text: str) -> list[float]:
    """Red, green, blue in [0, 1] of "#rrggbb". Raises ValueError."""
    digits = text.strip().lstrip("#")
    try:
        if len(digits) != 6:
            raise ValueError
        return [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    except ValueError:
        raise ValueError(f"the colour is {text!r}, but must be like #rrggbb.") from None


def even_sized(images: Tensor) -> Tensor:
    """Images [N, H, W, C] with a copy of the last row or column where their number is odd."""
    for dim in (1, 2):
        if images.shape[dim] % 2:
            last = images.narrow(dim, images.shape[dim] - 1, 1)
            images = torch.cat([images, last], dim)
    return images


class RenderSplats(io.ComfyNode):
    """On CUDA gsplat draws, where it is installed and works; else a rasterizer in plain torch does,
    with the same result.

    The path may come from another scene: one leaves through Scene to Splat, is transformed or
    merged by core's nodes, and is rendered in motion. What has one time only, as a SPLAT of a file,
    stands still along any path.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_RenderSplats",
            display_name="Render 4D Splats",
            category=types.RENDER,
            description="Renders a scene along a camera path, each frame at its own time.",
            search_aliases=["gaussian splatting", "rasterize", "render scene"],
            inputs=[
                types.scene_or_splat_input(),
                types.CameraPath.Input("camera_path", tooltip="From Camera Path."),
                *(
                    io.Int.Input(
                        name,
                        default=0,
                        min=0,
                        max=4096,
                        tooltip=f"Pixels; 0 for the {name} of the input views. The video is "
                        "rounded up to an even number, by a copy of the last pixels, as H.264 "
                        "needs it.",
                    )
                    for name in ("width", "height")
                ),
                io.Color.Input(
                    "background", default="#000000", tooltip="Colour where there is nothing."
                ),
                types.own_fps_input(
                    "Frames per second of the video; 0 for the scene's own rate (8 for a SPLAT).",
                    advanced=True,
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
    def validate_inputs(cls, background: str | None) -> bool | str:
        try:
            parse_color(background or "#000000")
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        scene: GaussianScene | Types.SPLAT,
        camera_path: CameraPath,
        width: int,
        height: int,
        background: str,
        fps: float = 0.0,
    ) -> io.NodeOutput:
        from fourreal.rendering import render_path

        if isinstance(scene, Types.SPLAT):
            scene = splat_to_scene(scene, camera_path)
        width, height = width or camera_path.width, height or camera_path.height
        path = replace(
            camera_path,
            times=camera_path.times.clamp(max=0) if scene.num_frames == 1 else camera_path.times,
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
        from fractions import Fraction  # here, as it takes longer to import than this file

        images = color.clamp(0, 1).to(out)
        rate = Fraction(fps or scene.fps).limit_denominator(1001)
        shown = Types.VideoComponents(images=even_sized(images), frame_rate=rate)
        video = InputImpl.VideoFromComponents(shown)
        return io.NodeOutput(
            images, alpha[..., 0].to(out), types.depth_image(depth[..., 0]).to(out), video
        )
