"""The loaders: what comes with the pack (models, example scenes), and reconstructors from files."""

import json
from pathlib import Path

import comfy.model_management
import folder_paths
import torch
from comfy_api.latest import io

from fourreal.cameras import to_homogeneous
from fourreal.grid import frames_to_images
from fourreal.weights import folder

from . import types
from .progress import tell_node

FOLDER = "geometry_estimation"  # where ComfyUI keeps Depth Anything 3 and MoGe
FILES = ("transformer", "vace", "text_encoder", "autoencoder", "reconstructor")
GRID_MODEL, VACE = "grid", "VACE"  # the video models that a node can give


def embedded_files() -> dict[str, Path]:
    """Where the embedded models are, by FILES, whether they are there or not."""
    return {name: folder() / f"{name}.safetensors" for name in FILES}


def reconstructor_output() -> types.Reconstructor.Output:
    return types.Reconstructor.Output(
        display_name="RECONSTRUCTOR", tooltip="Makes a scene from a grid of frames."
    )


class LoadEmbeddedModels(io.ComfyNode):
    """They are ordinary MODEL, CLIP and VAE, and a reconstructor. Nothing is downloaded and no GPU
    is needed.

    **video_model** *grid* makes whole grids from a text and references; *VACE* fills the holes of
    grids that are known in part (Grid VACE).

    Their world is one to three plain balls, boxes, cylinders and ellipsoids in eight colours on a
    floor. For anything else load a Wan model with ComfyUI's own loaders.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_LoadEmbeddedModels",
            display_name="Load Embedded Models",
            category=types.GENERATE,
            description="The small models that come with the pack. They run on any machine, know a "
            "small world (plain shapes that bounce, orbit, slide, spin and swing) and generate 8 "
            "views of 29 frames at 64 pixels.",
            search_aliases=["4real loader", "checkpoint"],
            inputs=[
                io.Combo.Input(
                    "video_model",
                    options=[GRID_MODEL, VACE],
                    default=GRID_MODEL,
                    optional=True,
                    tooltip="grid: makes grids of text and references. VACE: fills holes.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The 4D video model, for any sampler."),
                io.Clip.Output(tooltip="Its text encoder."),
                io.Vae.Output(tooltip="Its autoencoder, for VAE Decode and VAE Encode."),
                reconstructor_output(),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_) -> str:
        times = [f.stat().st_mtime if f.is_file() else None for f in embedded_files().values()]
        return json.dumps(times)

    @classmethod
    def execute(cls, video_model: str = GRID_MODEL) -> io.NodeOutput:
        from .embedded_models import load_embedded
        from .offloading import load_reconstructor

        paths = embedded_files()
        grid_model, vace = paths.pop("transformer"), paths.pop("vace")
        video = vace if video_model == VACE else grid_model
        missing = [path.name for path in (video, *paths.values()) if not path.is_file()]
        if missing:
            raise ValueError(
                f"{folder()} lacks {', '.join(missing)}; install the pack again, its models are "
                "part of it."
            )
        reconstructor = load_reconstructor(paths["reconstructor"], torch.float32)
        return io.NodeOutput(*load_embedded(folder(), video), reconstructor)


class LoadReconstructor(io.ComfyNode):
    """**Licences:** VGGT-1B and AnySplat are under CC BY-NC 4.0; VGGT-1B-Commercial is under Meta's
    own licence. The node shows it.

    ComfyUI manages the memory: layers that do not fit stay in RAM and are moved when they run.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_LoadReconstructor",
            display_name="Load Reconstructor",
            category=types.RECONSTRUCT,
            description="Loads a network that turns views into cameras, depth and Gaussians: "
            "VGGT-1B, VGGT-1B-Commercial, AnySplat, or one trained with this project. VGGT-1B and "
            "AnySplat are for non-commercial use.",
            search_aliases=["vggt", "anysplat", "geometry model"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=folder_paths.get_filename_list(FOLDER),
                    tooltip="A file in models/geometry_estimation; it is recognised by its keys.",
                ),
                io.Combo.Input(
                    "precision",
                    options=["auto", "float32", "bfloat16", "float16"],
                    advanced=True,
                    tooltip="Of the transformer. auto: bfloat16 where the device is good at it, "
                    "else float32. The heads always compute in float32.",
                ),
            ],
            outputs=[
                reconstructor_output(),
                io.String.Output(
                    display_name="licence",
                    tooltip="What the licence of the weights allows, where it is known.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, **_) -> float | None:
        path = folder_paths.get_full_path(FOLDER, file)
        return Path(path).stat().st_mtime if path else None

    @classmethod
    def execute(cls, file: str, precision: str) -> io.NodeOutput:
        from .offloading import load_reconstructor

        path = folder_paths.get_full_path_or_raise(FOLDER, file)
        device = comfy.model_management.get_torch_device()
        if precision == "auto":
            good = comfy.model_management.should_use_bf16(device)
            precision = "bfloat16" if good else "float32"
        reconstructor = load_reconstructor(path, getattr(torch, precision))
        note = reconstructor.license_note
        if note:
            tell_node(f"{file}: {note}.", cls.hidden.unique_id)
        return io.NodeOutput(reconstructor, note)


class ExampleScene(io.ComfyNode):
    """Use it to try a workflow at once, or to compare a reconstruction with the truth: the frames
    come from exact geometry, with true cameras. The seeds are of the test split, so no embedded
    model has seen them.

    Pick View makes a fixed-view video of it, Pick Time a freeze-time one.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_ExampleScene",
            display_name="Example Scene",
            category=types.GENERATE,
            description="Draws a procedural moving scene as an exact grid of frames: something to "
            "try the other nodes on, of the world that the embedded models know. Put your own "
            "videos or photos in its place.",
            search_aliases=["test scene", "sample video", "procedural"],
            inputs=[
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**32 - 1,
                    control_after_generate=True,
                    tooltip="Chooses the scene; none of these was used in training.",
                ),
                io.Int.Input("num_views", default=8, min=1, max=64, tooltip="Cameras in an arc."),
                io.Int.Input(
                    "num_frames",
                    default=29,
                    min=1,
                    max=121,
                    step=4,
                    tooltip="Frames of each view, 4k + 1 for the video models.",
                ),
                *(
                    io.Int.Input(name, default=64, min=16, max=1024, step=16, tooltip="Pixels.")
                    for name in ("width", "height")
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The grid of V x T frames."),
                io.String.Output(display_name="caption", tooltip="A prompt that describes it."),
                *types.camera_outputs("True cameras, world to camera [V, 4, 4]."),
                *types.grid_outputs(),
            ],
        )

    @classmethod
    def execute(
        cls, seed: int, num_views: int, num_frames: int, width: int, height: int
    ) -> io.NodeOutput:
        from fourreal.scenes import make_scene, scene_seed

        scene = make_scene(scene_seed("test", seed), num_views, num_frames, height, width)
        return io.NodeOutput(
            frames_to_images(scene.frames),
            scene.caption,
            to_homogeneous(scene.extrinsics),
            scene.intrinsics,
            *(num_views, num_frames, width, height),
        )
