"""Scenes of dynamic Gaussians: reconstruct, convert, save and load."""

from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import Types, io
from PIL import Image

from fourreal.cameras import to_homogeneous
from fourreal.gaussians import GaussianScene

from .grid import VIEWS_TOOLTIP
from .loaders import Extrinsics, Intrinsics, Reconstructor
from .sampling import PREVIEW_SIZE

Scene = io.Custom("FOURREAL_SCENE")

SCENE_TOOLTIP = "A scene of dynamic Gaussians."


def no_images() -> None:
    """In place of a weak reference to images."""


class CachedScene(GaussianScene, list):
    """A scene that tells ComfyUI's cache how much memory it holds.

    Core 0.28 counts the tensors that it finds in lists, so this is also the list of its tensors;
    later versions ask `_comfy_cache_tensors`. viewer_files: the images (weakly) and the temporary
    folder that Preview 4D has written of it.
    """

    viewer_files = (no_images, None)

    def __post_init__(self):
        super().__post_init__()
        self.extend(self._comfy_cache_tensors())

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


def progress_reporter(total: int, preview=None):
    """progress(done, total) for the library's long work: moves the bar, stops on cancel.

    preview(done) gives an image [3, H, W] in [0, 1] to show beside the bar.
    """
    from fourreal.files.media import to_uint8

    bar = comfy.utils.ProgressBar(total)

    def progress(done: int, of: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        shown = None
        if preview is not None:
            shown = ("JPEG", Image.fromarray(to_uint8(preview(done))), PREVIEW_SIZE)
        bar.update_absolute(done, of, shown)

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
                io.Combo.Input(
                    "cameras", options=["first", "mean", "median"], advanced=True,
                    tooltip="Which times decide about the cameras, one per view: the first one "
                    "(the method), or the mean or median over all.",
                ),
                io.Boolean.Input(
                    "shared_intrinsics", default=False, advanced=True,
                    tooltip="All views were taken with the same lens and zoom.",
                ),
                io.Int.Input(
                    "resolution", default=0, min=0, max=2072, advanced=True,
                    tooltip="Longer side of what the network sees; 0 for the size it was trained "
                    "on.",
                ),
                io.Float.Input(
                    "confidence_percentile", default=0.0, min=0.0, max=95.0, step=1.0,
                    advanced=True,
                    tooltip="Drops this percentage of the pixels, the least certain ones.",
                ),
                io.Float.Input(
                    "min_opacity", default=0.02, min=0.0, max=0.95, step=0.01, advanced=True,
                    tooltip="Drops Gaussians that are fainter than this.",
                ),
                io.Float.Input(
                    "voxel_size", default=0.0, min=0.0, max=16.0, step=0.25, advanced=True,
                    tooltip="Merges Gaussians that fall into one voxel of so many pixels; 0 merges "
                    "none. Fewer Gaussians need less memory.",
                ),
                io.Boolean.Input(
                    "store_static_once", default=True, advanced=True,
                    tooltip="Finds what stands still and stores it once, not at every time.",
                ),
                Extrinsics.Input(
                    "extrinsics", optional=True,
                    tooltip="Known cameras, world to camera [V, 4, 4], instead of predicted ones.",
                ),
                Intrinsics.Input(
                    "intrinsics", optional=True,
                    tooltip="[V, 3, 3] in pixels of the images; needed with extrinsics.",
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
    def execute(
        cls,
        reconstructor,
        images,
        num_views,
        fps,
        cameras="first",
        shared_intrinsics=False,
        resolution=0,
        confidence_percentile=0.0,
        min_opacity=0.02,
        voxel_size=0.0,
        store_static_once=True,
        extrinsics=None,
        intrinsics=None,
    ) -> io.NodeOutput:
        from fourreal.grid import images_to_frames
        from fourreal.reconstruction import Filters, StaticSplit

        frames = images_to_frames(images, num_views).float().cpu()
        if (extrinsics is None) != (intrinsics is None):
            raise ValueError("known cameras need both extrinsics and intrinsics; connect both.")
        if extrinsics is not None:
            cameras = (extrinsics[:, :3], intrinsics)
        filters = Filters(
            confidence_percentile=confidence_percentile,
            min_opacity=min_opacity,
            voxel_size=voxel_size,
        )
        result = reconstructor(
            frames,
            fps=fps,
            cameras=cameras,
            shared_intrinsics=shared_intrinsics,
            resolution=resolution or None,
            filters=filters,
            split=StaticSplit() if store_static_once else None,
            progress=progress_reporter(frames.shape[1], lambda done: frames[0, done - 1]),
        )
        return io.NodeOutput(
            CachedScene(**vars(result.scene)),
            depth_image(result.depth.flatten(0, 1)),
            to_homogeneous(result.extrinsics),
            result.intrinsics,
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
                    "time",
                    default=-1,
                    min=-1,
                    max=1023,
                    tooltip="One time from 0, or -1 for all times.",
                ),
            ],
            outputs=[io.Splat.Output(tooltip="Gaussians, world axes as OpenCV has them.")],
        )

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
            padded("means"),
            padded("scales"),
            padded("quaternions"),
            padded("opacities")[..., None],
            padded("harmonics"),
            counts if len(parts) > 1 else None,
        )
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
