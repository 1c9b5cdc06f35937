"""Scenes of dynamic Gaussians: as core's SPLAT, saved and loaded."""

import json
from dataclasses import replace
from pathlib import Path

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import Types, io

from fourreal.gaussians import GaussianScene

from . import types
from .splat_batch import as_scene, scene_to_splat

SAVED_AS = ["safetensors", "4dgs", "usdc", "zip", "html", "ply", "spz", "splat", "glb"]
ONE_TIME = {".ply", ".spz", ".splat", ".glb"}  # formats of which there is a file for each time
READ = {".safetensors", ".4dgs", ".usd", ".usda", ".usdc", ".zip"} | ONE_TIME


class SceneToSplat(io.ComfyNode):
    """Core's file nodes write the first item of a batch only, so choose a time for a file. World
    axes are OpenCV's, as core expects them.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_SceneToSplat",
            display_name="Scene to Splat",
            category=types.FILES,
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
    """Formats of whole scenes are one file; of the others there is a file for each time, in a
    folder, where the scene has more than one.

    - **safetensors**: everything, cameras and rate too, and the prompt and workflow
    - **4dgs**, **usdc**: all times in one file, for other programs (fourdgs, OpenUSD)
    - **zip**: of PLYs, which Brush plays
    - **html**: a page with the viewer, which opens from disk
    - **ply**, **spz**, **splat**, **glb** (KHR_gaussian_splatting): one time each
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_SaveScene",
            display_name="Save Scene (4Real)",
            category=types.FILES,
            description="Writes a scene to the output folder, in the format of other programs or "
            "as the file that keeps everything.",
            search_aliases=["export scene", "save splat", "ply sequence", "glb", "spz", "usd"],
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                types.scene_or_splat_input(),
                io.String.Input(
                    "filename_prefix", default="4real/scene", tooltip="Folder and name in output."
                ),
                io.Combo.Input(
                    "format",
                    options=SAVED_AS,
                    tooltip="safetensors keeps everything. 4dgs, usdc, zip (of PLYs) and html (the "
                    "viewer) hold all times; ply, spz, splat and glb hold one each.",
                ),
            ],
            outputs=[types.same_scene_output()],
        )

    @classmethod
    def execute(
        cls, scene: GaussianScene | Types.SPLAT, filename_prefix: str, format: str
    ) -> io.NodeOutput:
        from fourreal.formats import FORMATS, write_scene
        from fourreal.viewer import export_html

        scene = as_scene(scene)
        output = folder_paths.get_output_directory()
        place, name, counter, _, _ = folder_paths.get_save_image_path(filename_prefix, output)
        target = Path(place) / f"{name}_{counter:05}_"
        if f".{format}" not in FORMATS or scene.num_frames == 1:
            target = target.with_name(f"{target.name}.{format}")
        if format == "html":
            export_html(scene, target)
            paths = [target]
        else:
            told = scene
            if format == "safetensors":
                told = replace(scene, metadata=scene.metadata | metadata_of(cls.hidden))
            paths = write_scene(told, target, sequence=f".{format}")
        parts = [path.relative_to(output) for path in paths]
        saved = [
            {"filename": p.name, "subfolder": p.parent.as_posix().strip("."), "type": "output"}
            for p in parts
        ]
        return io.NodeOutput(scene, ui={"3d": saved})


def metadata_of(hidden) -> dict[str, str]:
    """The prompt and the workflow as core's nodes write them into files, unless ComfyUI was started
    with --disable-metadata; also nothing where they are longer than a scene file takes."""
    from fourreal.formats.scene_file import MAX_METADATA  # slow to import

    if args.disable_metadata:
        return {}
    known = {"prompt": hidden.prompt} | (hidden.extra_pnginfo or {})
    told = {name: json.dumps(value) for name, value in known.items() if value is not None}
    return told if len(json.dumps(told)) < MAX_METADATA // 2 else {}


def available_scenes() -> list[str]:
    """Scenes in the input and output folders, newest first, as LoadImage would name them. A folder
    of files of one time each is one too, before its files; its name ends with a slash."""
    found = []
    for folder, mark in (
        (folder_paths.get_input_directory(), ""),
        (folder_paths.get_output_directory(), " [output]"),
    ):
        sequences: dict[Path, list[float]] = {}
        for path in Path(folder).rglob("*"):
            if path.suffix.lower() in READ and path.is_file():
                changed, name = path.stat().st_mtime, path.relative_to(folder)
                found.append((-changed, 1, name.as_posix() + mark))
                if path.suffix.lower() in ONE_TIME and name.parent != Path():
                    sequences.setdefault(name.parent, []).append(changed)
        for name, changes in sequences.items():
            if len(changes) > 1:
                found.append((-max(changes), 0, f"{name.as_posix()}/{mark}"))
    return [name for *_, name in sorted(found)]


class LoadScene(io.ComfyNode):
    """What Save Scene (4Real) wrote is in the output folder; its name in the list ends with
    `[output]`. *Upload* and dropping a file on the node put one into the input folder.

    Files without cameras (all but scene files) get one before what they hold.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_LoadScene",
            display_name="Load Scene (4Real)",
            category=types.FILES,
            description="Reads a scene or a splat file of any format from the input or output "
            "folder.",
            search_aliases=["import scene", "open scene", "load splat", "ply", "spz", "glb"],
            inputs=[
                io.Combo.Input(
                    "scene_file",
                    options=available_scenes(),
                    extra_dict={"suffixes": sorted(READ)},  # for what is uploaded
                    tooltip="A scene file, PLY, SPZ, .splat, GLB, OpenUSD, .4dgs, or a .zip or "
                    "folder (its name ends with /) of one file per time; the newest first.",
                ),
            ],
            outputs=[types.Scene.Output(display_name="SCENE", tooltip=types.SCENE_TOOLTIP)],
        )

    @classmethod
    def fingerprint_inputs(cls, scene_file: str) -> float:
        path = Path(folder_paths.get_annotated_filepath(scene_file))
        parts = path.iterdir() if path.is_dir() else [path]
        return max(part.stat().st_mtime for part in parts)

    @classmethod
    def execute(cls, scene_file: str) -> io.NodeOutput:
        from fourreal.formats import load_scene, open_scene

        path = Path(folder_paths.get_annotated_filepath(scene_file))
        # A scene file is mapped: what is not used is not read.
        scene = load_scene(path) if path.suffix == ".safetensors" else open_scene(path)
        return io.NodeOutput(types.CachedScene(**vars(scene)))
