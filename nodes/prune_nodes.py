"""Prune Scene: fewer Gaussians without another reconstruction; what stands still and what moves."""

from dataclasses import replace

from comfy_api.latest import Types, io

from fourreal.gaussians import GaussianScene

from . import types
from .splat_batch import as_scene


class PruneScene(io.ComfyNode):
    """Put it after Reconstruct 4D and change its values as often as you like: the reconstruction is
    kept. Reconstruct 4D has filters of the same names, which work before; to get a Gaussian back
    that those have dropped, lower them and reconstruct again.

    *static* and *dynamic* are the two halves of the result, each with all times and cameras, to be
    shown, saved or changed apart.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        def share(name: str, most: float, step: float, tooltip: str) -> io.Float.Input:
            return io.Float.Input(name, default=0.0, min=0.0, max=most, step=step, tooltip=tooltip)

        return io.Schema(
            node_id="FourReal_PruneScene",
            display_name="Prune Scene",
            category=types.RECONSTRUCT,
            description="Drops faint and uncertain Gaussians, merges those that fall together, "
            "sets the rate, and gives what stands still and what moves as scenes of their own.",
            search_aliases=["filter splats", "reduce", "voxel", "foreground", "background", "fps"],
            inputs=[
                types.scene_or_splat_input(),
                share("min_opacity", 0.95, 0.01, "Drops Gaussians that are fainter than this."),
                share(
                    "confidence_percentile",
                    95.0,
                    1.0,
                    "Drops this percentage of the Gaussians, the least certain ones. Only the "
                    "scene of Reconstruct 4D says how certain they are.",
                ),
                share(
                    "voxel_size",
                    16.0,
                    0.25,
                    "Merges Gaussians that fall into one voxel of so many pixels; 0 merges none.",
                ),
                types.own_fps_input(
                    "Times per second when the scene is played; 0 keeps the scene's own."
                ),
            ],
            outputs=[
                types.Scene.Output(display_name="SCENE", tooltip="The scene that is left."),
                types.Scene.Output(display_name="static", tooltip="What stands still in it."),
                types.Scene.Output(display_name="dynamic", tooltip="What moves in it."),
            ],
        )

    @classmethod
    def execute(
        cls,
        scene: GaussianScene | Types.SPLAT,
        min_opacity: float,
        confidence_percentile: float,
        voxel_size: float,
        fps: float,
    ) -> io.NodeOutput:
        from fourreal.reconstruction import prune_scene, static_and_dynamic

        scene = as_scene(scene)
        left = prune_scene(
            replace(scene, fps=fps or scene.fps),
            min_opacity=min_opacity,
            confidence_percentile=confidence_percentile,
            voxel_size=voxel_size,
        )
        return io.NodeOutput(left, *static_and_dynamic(left))
