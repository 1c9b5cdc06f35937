"""The loaders: what comes with the pack (models, example scenes), and reconstructors from files."""

import json
import logging
from pathlib import Path

import comfy.model_management
import folder_paths
import torch
from comfy_api.latest import io

Reconstructor = io.Custom("FOURREAL_RECONSTRUCTOR")
Extrinsics = io.Custom("EXTRINSICS")  # [V, 4, 4] world to camera, OpenCV, as other packs have it
Intrinsics = io.Custom("INTRINSICS")  # [V, 3, 3] in pixels

FOLDER = "geometry_estimation"  # where ComfyUI keeps Depth Anything 3 and MoGe
FILES = ("transformer", "text_encoder", "autoencoder", "reconstructor")


class LoadEmbeddedModels(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FourReal_LoadEmbeddedModels",
            display_name="Load Embedded Models",
            category="4Real",
            description="The small models that come with the pack. They run on any machine, know a "
            "small world (plain shapes that bounce, orbit, slide, spin and swing) and generate 8 "
            "views of 29 frames at 64 pixels.",
            search_aliases=["4real loader", "checkpoint"],
            inputs=[],
            outputs=[
                io.Model.Output(tooltip="The 4D video model, for any sampler."),
                io.Clip.Output(tooltip="Its text encoder."),
                io.Vae.Output(tooltip="Its autoencoder, for VAE Decode and VAE Encode."),
                Reconstructor.Output(
                    display_name="RECONSTRUCTOR", tooltip="Makes a scene from a grid of frames."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls):
        from fourreal.weights import folder

        files = [folder() / f"{name}.safetensors" for name in FILES]
        return json.dumps([f.stat().st_mtime if f.is_file() else None for f in files])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from fourreal.embedded.autoencoder import load_autoencoder
        from fourreal.reconstruction import Reconstructor as Network
        from fourreal.weights import folder

        from .comfy_models import (
            ComfyReconstructor,
            EmbeddedLatents,
            EmbeddedVAE,
            load_text_encoder,
            load_transformer,
        )
        from .view_time import KEY

        paths = {name: folder() / f"{name}.safetensors" for name in FILES}
        missing = [path.name for path in paths.values() if not path.is_file()]
        if missing:
            raise ValueError(
                f"{folder()} lacks {', '.join(missing)}; install the pack again, its models are "
                "part of it."
            )
        autoencoder = load_autoencoder(paths["autoencoder"])
        model = load_transformer(paths["transformer"], EmbeddedLatents(autoencoder))
        max_tokens = model.get_attachment(KEY).get("max_tokens", 32)
        return io.NodeOutput(
            model,
            load_text_encoder(paths["text_encoder"], max_tokens),
            EmbeddedVAE(autoencoder),
            ComfyReconstructor(Network.from_file(paths["reconstructor"])),
        )


class LoadReconstructor(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FourReal_LoadReconstructor",
            display_name="Load Reconstructor",
            category="4Real",
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
                Reconstructor.Output(
                    display_name="RECONSTRUCTOR", tooltip="Makes a scene from a grid of frames."
                ),
                io.String.Output(
                    display_name="licence",
                    tooltip="What the licence of the weights allows, where it is known.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, file, **_):
        path = folder_paths.get_full_path(FOLDER, file)
        return Path(path).stat().st_mtime if path else None

    @classmethod
    def execute(cls, file, precision) -> io.NodeOutput:
        from server import PromptServer

        from fourreal.reconstruction import Reconstructor as Network

        from .comfy_models import ComfyReconstructor

        path = folder_paths.get_full_path_or_raise(FOLDER, file)
        device = comfy.model_management.get_torch_device()
        if precision == "auto":
            good = comfy.model_management.should_use_bf16(device)
            precision = "bfloat16" if good else "float32"
        reconstructor = Network.from_file(path, dtype=getattr(torch, precision))
        note = reconstructor.license_note
        if note:
            logging.warning("%s: %s.", file, note)
            if cls.hidden.unique_id:
                PromptServer.instance.send_progress_text(note, cls.hidden.unique_id)
        return io.NodeOutput(ComfyReconstructor(reconstructor), note)


class ExampleScene(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FourReal_ExampleScene",
            display_name="Example Scene",
            category="4Real",
            description="Draws a procedural moving scene as an exact grid of frames: something to "
            "try the other nodes on, of the world that the embedded models know. Put your own "
            "videos or photos in its place.",
            search_aliases=["test scene", "sample video", "procedural"],
            inputs=[
                io.Int.Input(
                    "seed", default=0, min=0, max=2**32 - 1, control_after_generate=True,
                    tooltip="Chooses the scene; none of these was used in training.",
                ),
                io.Int.Input("num_views", default=8, min=1, max=64, tooltip="Cameras in an arc."),
                io.Int.Input(
                    "num_frames", default=29, min=1, max=121, step=4,
                    tooltip="Frames of each view, 4k + 1 for the video models.",
                ),
                io.Int.Input("width", default=64, min=16, max=1024, step=16, tooltip="Pixels."),
                io.Int.Input("height", default=64, min=16, max=1024, step=16, tooltip="Pixels."),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The grid of V x T frames."),
                io.String.Output(display_name="caption", tooltip="A prompt that describes it."),
                Extrinsics.Output(
                    display_name="EXTRINSICS", tooltip="True cameras, world to camera [V, 4, 4]."
                ),
                Intrinsics.Output(display_name="INTRINSICS", tooltip="[V, 3, 3], in pixels."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, seed, num_views, num_frames, width, height) -> io.NodeOutput:
        from fourreal.cameras import to_homogeneous
        from fourreal.grid import frames_to_images
        from fourreal.scenes import make_scene, scene_seed

        scene = make_scene(scene_seed("test", seed), num_views, num_frames, height, width)
        return io.NodeOutput(
            frames_to_images(scene.frames),
            scene.caption,
            to_homogeneous(scene.extrinsics),
            scene.intrinsics,
        )
