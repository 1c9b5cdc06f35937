"""Scenes of dynamic Gaussians: as core's SPLAT, saved and loaded."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from fourreal.gaussians import GaussianScene

from . import types
from .splat_batch import scene_to_splat


class SceneToSplat(io.ComfyNode):
    """Core's file nodes write the first item of a batch only, so choose a time for a file. World
    axes are OpenCV's, as core expects them.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_SceneToSplat",
            display_name="Scene to Splat",
            category=types.CATEGORY,
            description="A scene as ComfyUI's own SPLAT: one batch item per time.",
            search_aliases=["gaussian splat", "export"],
            inputs=[
                types.scene_input(),
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
    def execute(cls, scene: GaussianScene, time: int) -> io.NodeOutput:
        if time >= scene.num_frames:
            raise ValueError(
                f"time is {time}, but the scene has times 0 to {scene.num_frames - 1}."
            )
        times = range(scene.num_frames) if time < 0 else [time]
        return io.NodeOutput(scene_to_splat(scene, times))


class SaveScene(io.ComfyNode):
    """The `.safetensors` file has everything: Gaussians of all times, cameras, rate. SuperSplat and
    other viewers import the numbered PLY files as a sequence.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_SaveScene",
            display_name="Save Scene",
            category=types.CATEGORY,
            description="Writes a scene to the output folder: one file that Load Scene reads, and "
            "optionally one PLY per time for other programs.",
            search_aliases=["export scene", "save splat", "ply sequence"],
            is_output_node=True,
            inputs=[
                types.scene_input(),
                io.String.Input(
                    "filename_prefix", default="4real/scene", tooltip="Folder and name in output."
                ),
                io.Boolean.Input(
                    "ply_sequence", default=False, tooltip="Also write one PLY file per time."
                ),
            ],
            outputs=[types.same_scene_output()],
        )

    @classmethod
    def execute(
        cls, scene: GaussianScene, filename_prefix: str, ply_sequence: bool
    ) -> io.NodeOutput:
        from fourreal.formats import save_ply_sequence, save_scene

        folder, name, counter, _, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        target = Path(folder) / f"{name}_{counter:05}_.safetensors"
        save_scene(scene, target)
        if ply_sequence:
            save_ply_sequence(scene, target.with_suffix(""))
        return io.NodeOutput(scene)


def available_scenes() -> list[str]:
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
    """What Save Scene wrote is in the output folder; its name in the list ends with `[output]`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_LoadScene",
            display_name="Load Scene",
            category=types.CATEGORY,
            description="Reads a scene file from the input or output folder.",
            search_aliases=["import scene", "open scene"],
            inputs=[
                io.Combo.Input(
                    "scene_file", options=available_scenes(), tooltip="Written by Save Scene."
                ),
            ],
            outputs=[types.Scene.Output(display_name="SCENE", tooltip=types.SCENE_TOOLTIP)],
        )

    @classmethod
    def fingerprint_inputs(cls, scene_file: str) -> float:
        return Path(folder_paths.get_annotated_filepath(scene_file)).stat().st_mtime

    @classmethod
    def execute(cls, scene_file: str) -> io.NodeOutput:
        from fourreal.formats import load_scene

        scene = load_scene(folder_paths.get_annotated_filepath(scene_file))
        return io.NodeOutput(types.CachedScene(**vars(scene)))
