"""Load Embedded Models: the small models that come with the pack."""

import json

from comfy_api.latest import io

Reconstructor = io.Custom("FOURREAL_RECONSTRUCTOR")

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
        from fourreal.reconstruction import Reconstructor as Network
        from fourreal.video.block_autoencoder import BlockAutoencoder
        from fourreal.video.files import load_single_file
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
        autoencoder, _ = load_single_file(
            BlockAutoencoder, paths["autoencoder"], lambda key, _: key
        )
        model = load_transformer(paths["transformer"], EmbeddedLatents(autoencoder))
        max_tokens = model.get_attachment(KEY).get("max_tokens", 32)
        return io.NodeOutput(
            model,
            load_text_encoder(paths["text_encoder"], max_tokens),
            EmbeddedVAE(autoencoder),
            ComfyReconstructor(Network.from_file(paths["reconstructor"])),
        )
