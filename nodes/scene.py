"""Scenes of dynamic Gaussians: reconstruct, move a camera through, render, save and load."""

from fractions import Fraction
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import InputImpl, Types, io

from fourreal.cameras import PATH_KINDS, camera_path, scale_intrinsics, to_homogeneous
from fourreal.gaussians import GaussianScene

from .grid import VIEWS_TOOLTIP
from .loaders import Reconstructor

Scene = io.Custom("FOURREAL_SCENE")
CameraPath = io.Custom("FOURREAL_CAMERA_PATH")
Extrinsics = io.Custom("EXTRINSICS")  # [V, 4, 4] world to camera, OpenCV, as other packs have it
Intrinsics = io.Custom("INTRINSICS")  # [V, 3, 3] in pixels

SCENE_TOOLTIP = "A scene of dynamic Gaussians."


class CachedScene(GaussianScene):
    """A scene that tells ComfyUI's cache how much memory it holds."""

    def _comfy_cache_tensors(self) -> list[torch.Tensor]:
        return [t for part in (self.static, *self.dynamic) for t in vars(part).values()]


def depth_image(depth: torch.Tensor) -> torch.Tensor:
    """Depth [N, H, W] (0 = nothing there) as an IMAGE [N, H, W, 3]: near white, far dark grey.

    Linear in 1 / depth between the nearest and farthest two per cent, the same for all images.
    """
    there = depth > 0
    if not there.any():
        return torch.zeros(*depth.shape, 3)
    nearness = torch.where(there, 1 / depth.clamp_min(1e-6), 0)
    known = nearness[there]
    known = known[:: max(1, known.numel() // 1_000_000)]  # torch.quantile has a limit
    far, near = known.float().quantile(torch.tensor([0.02, 0.98], device=known.device))
    grey = 0.1 + 0.9 * ((nearness - far) / (near - far).clamp_min(1e-6)).clamp(0, 1)
    return torch.where(there, grey, 0)[..., None].expand(-1, -1, -1, 3).contiguous()


def parse_color(text: str) -> list[float]:
    """Red, green, blue in [0, 1] of "#rrggbb". Raises ValueError."""
    digits = text.strip().lstrip("#")
    try:
        if len(digits) != 6:
            raise ValueError
        return [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    except ValueError:
        raise ValueError(f"the colour is {text!r}, but must be like #rrggbb.") from None


def progress_reporter(total: int):
    """progress(done, total) for the library's long work: moves the bar, stops on cancel."""
    bar = comfy.utils.ProgressBar(total)

    def progress(done: int, of: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, of)

    return progress


class Reconstruct(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FourReal_Reconstruct",
            display_name="Reconstruct",
            category="4Real",
            description="Turns a grid of synchronised views into dynamic 3D Gaussians and the "
            "cameras of the views. No camera poses are needed.",
            search_aliases=["vggt", "gaussian splatting", "4d reconstruction"],
            inputs=[
                Reconstructor.Input("reconstructor", tooltip="The network, from its loader."),
                io.Image.Input("images", tooltip="A grid of V x T frames, as VAE Decode gives it."),
                io.Int.Input("num_views", default=8, min=1, max=64, tooltip=VIEWS_TOOLTIP),
                io.Float.Input(
                    "fps", default=8.0, min=1.0, max=120.0, step=1.0,
                    tooltip="Times per second when the scene is played.",
                ),
            ],
            outputs=[
                Scene.Output(display_name="SCENE", tooltip=SCENE_TOOLTIP),
                io.Image.Output(
                    display_name="depth", tooltip="Depth of every frame: near is white."
                ),
                Extrinsics.Output(
                    display_name="EXTRINSICS",
                    tooltip="World to camera [V, 4, 4], OpenCV; the world is the first camera.",
                ),
                Intrinsics.Output(display_name="INTRINSICS", tooltip="[V, 3, 3], in pixels."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, reconstructor, images, num_views, fps) -> io.NodeOutput:
        from fourreal.grid import images_to_frames

        frames = images_to_frames(images, num_views).float().cpu()
        result = reconstructor(frames, fps=fps, progress=progress_reporter(frames.shape[1]))
        return io.NodeOutput(
            CachedScene(**vars(result.scene)),
            depth_image(result.depth.flatten(0, 1)),
            to_homogeneous(result.extrinsics),
            result.intrinsics,
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
                    "kind", options=list(PATH_KINDS), default="orbit",
                    tooltip="orbit: to the last view and back while time plays. inputs: once along "
                    "the views. freeze_time: the orbit while time stands still. fixed_view: the "
                    "first camera while time plays.",
                ),
                io.Int.Input(
                    "frames", default=0, min=0, max=2000,
                    tooltip="Length of the path; 0 for as many frames as the scene has times.",
                ),
                io.Int.Input(
                    "freeze_at", default=0, min=0, max=1023, advanced=True,
                    tooltip="The time that freeze_time shows.",
                ),
            ],
            outputs=[CameraPath.Output(display_name="CAMERA_PATH", tooltip="A camera per frame.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, scene, kind, frames, freeze_at) -> io.NodeOutput:
        path = camera_path(
            scene.extrinsics, scene.intrinsics, scene.width, scene.height, scene.num_frames, kind,
            frames or None, freeze_at,
        )  # fmt: skip
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
                Scene.Input("scene", tooltip=SCENE_TOOLTIP),
                CameraPath.Input("camera_path", tooltip="From Camera Path."),
                io.Int.Input(
                    "width", default=0, min=0, max=4096,
                    tooltip="Pixels; 0 for the width of the input views.",
                ),
                io.Int.Input(
                    "height", default=0, min=0, max=4096,
                    tooltip="Pixels; 0 for the height of the input views.",
                ),
                io.Color.Input(
                    "background", default="#000000", tooltip="Colour where there is nothing."
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
        )  # fmt: skip

    @classmethod
    def execute(cls, scene, camera_path, width, height, background) -> io.NodeOutput:
        from dataclasses import replace

        from fourreal.rendering import render_path

        width, height = width or camera_path.width, height or camera_path.height
        path = replace(
            camera_path, width=width, height=height,
            intrinsics=scale_intrinsics(
                camera_path.intrinsics, width / camera_path.width, height / camera_path.height
            ),
        )  # fmt: skip
        device = comfy.model_management.get_torch_device()
        color, alpha, depth = render_path(
            scene.to(device), path, background=torch.tensor(parse_color(background), device=device),
            progress=progress_reporter(len(path.times)),
        )  # fmt: skip
        out = comfy.model_management.intermediate_device()
        images = color.clamp(0, 1).to(out)
        video = InputImpl.VideoFromComponents(
            Types.VideoComponents(
                images=images, frame_rate=Fraction(scene.fps).limit_denominator(1001)
            )
        )
        return io.NodeOutput(
            images, alpha[..., 0].to(out), depth_image(depth[..., 0]).to(out), video
        )


class SceneToSplat(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FourReal_SceneToSplat",
            display_name="Scene to Splat",
            category="4Real",
            description="A scene as ComfyUI's own SPLAT: one batch item per time.",
            search_aliases=["gaussian splat", "export"],
            inputs=[
                Scene.Input("scene", tooltip=SCENE_TOOLTIP),
                io.Int.Input(
                    "time", default=-1, min=-1, max=1023,
                    tooltip="One time from 0, or -1 for all times.",
                ),
            ],
            outputs=[io.Splat.Output(tooltip="Gaussians, world axes as OpenCV has them.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, scene, time) -> io.NodeOutput:
        if time >= scene.num_frames:
            raise ValueError(
                f"time is {time}, but the scene has times 0 to {scene.num_frames - 1}."
            )
        times = range(scene.num_frames) if time < 0 else [time]
        parts = [scene.at(t) for t in times]

        def padded(name: str) -> torch.Tensor:
            return torch.nn.utils.rnn.pad_sequence([getattr(p, name) for p in parts], True)

        counts = torch.tensor([len(p) for p in parts])
        splat = Types.SPLAT(
            padded("means"), padded("scales"), padded("quaternions"),
            padded("opacities")[..., None], padded("harmonics"),
            counts if len(parts) > 1 else None,
        )  # fmt: skip
        return io.NodeOutput(splat)


class SaveScene(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FourReal_SaveScene",
            display_name="Save Scene",
            category="4Real",
            description="Writes a scene to the output folder: one file that Load Scene reads, and "
            "optionally one PLY per time for other programs.",
            search_aliases=["export scene", "save splat", "ply sequence"],
            is_output_node=True,
            inputs=[
                Scene.Input("scene", tooltip=SCENE_TOOLTIP),
                io.String.Input(
                    "filename_prefix", default="4real/scene", tooltip="Folder and name in output."
                ),
                io.Boolean.Input(
                    "ply_sequence", default=False, tooltip="Also write one PLY file per time."
                ),
            ],
            outputs=[Scene.Output(display_name="SCENE", tooltip="The same scene.")],
        )

    @classmethod
    def execute(cls, scene, filename_prefix, ply_sequence) -> io.NodeOutput:
        from fourreal.formats import save_ply_sequence, save_scene

        folder, name, counter, _, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        target = Path(folder) / f"{name}_{counter:05}_.safetensors"
        save_scene(scene, target)
        if ply_sequence:
            save_ply_sequence(scene, target.with_suffix(""))
        return io.NodeOutput(scene)


def scene_files() -> list[str]:
    """Scene files of the input and output folders, under the names that LoadImage would use."""
    found = []
    for folder, mark in (
        (folder_paths.get_input_directory(), ""),
        (folder_paths.get_output_directory(), " [output]"),
    ):
        files = sorted(Path(folder).rglob("*.safetensors"))
        found += [f.relative_to(folder).as_posix() + mark for f in files]
    return found


class LoadScene(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FourReal_LoadScene",
            display_name="Load Scene",
            category="4Real",
            description="Reads a scene file from the input or output folder.",
            search_aliases=["import scene", "open scene"],
            inputs=[
                io.Combo.Input(
                    "scene_file", options=scene_files(), tooltip="Written by Save Scene."
                ),
            ],
            outputs=[Scene.Output(display_name="SCENE", tooltip=SCENE_TOOLTIP)],
        )

    @classmethod
    def fingerprint_inputs(cls, scene_file):
        return Path(folder_paths.get_annotated_filepath(scene_file)).stat().st_mtime

    @classmethod
    def execute(cls, scene_file) -> io.NodeOutput:
        from fourreal.formats import load_scene

        scene = load_scene(folder_paths.get_annotated_filepath(scene_file))
        return io.NodeOutput(CachedScene(**vars(scene)))
