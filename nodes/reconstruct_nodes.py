"""Reconstruct 4D: from an IMAGE grid to a scene of dynamic Gaussians, its cameras and depth."""

import logging
from typing import TYPE_CHECKING

import comfy.model_management
from comfy_api.latest import io
from torch import Tensor

from fourreal.cameras import to_homogeneous
from fourreal.gaussians import GaussianScene
from fourreal.grid import images_to_frames

from . import types
from .grid_shape import HIDDEN, frames_of_grid
from .progress import progress_reporter, tell_node

if TYPE_CHECKING:
    from .offloading import ComfyReconstructor

ALIGN = {"auto": None, "always": True, "never": False}


def first_options() -> list:
    """Inputs that every saved workflow has a value for."""
    return [
        types.camera_mode_input(),
        io.Boolean.Input(
            "shared_intrinsics",
            default=False,
            advanced=True,
            tooltip="All views were taken with the same lens and zoom.",
        ),
        types.resolution_input(),
        io.Float.Input(
            "confidence_percentile",
            default=0.0,
            min=0.0,
            max=95.0,
            step=1.0,
            advanced=True,
            tooltip="Drops this percentage of the pixels, the least certain ones.",
        ),
        io.Float.Input(
            "min_opacity",
            default=0.02,
            min=0.0,
            max=0.95,
            step=0.01,
            advanced=True,
            tooltip="Drops Gaussians that are fainter than this.",
        ),
        io.Float.Input(
            "voxel_size",
            default=0.0,
            min=0.0,
            max=16.0,
            step=0.25,
            advanced=True,
            tooltip="Merges Gaussians that fall into one voxel of so many pixels; 0 merges none. "
            "Fewer Gaussians need less memory.",
        ),
        io.Boolean.Input(
            "store_static_once",
            default=True,
            advanced=True,
            tooltip="Finds what stands still and stores it once, not at every time.",
        ),
    ]


def share(name: str, default: float, most: float, tooltip: str) -> io.Float.Input:
    """A later option between 0 and `most`."""
    return io.Float.Input(
        name,
        default=default,
        min=0.0,
        max=most,
        step=0.01,
        optional=True,
        advanced=True,
        tooltip=tooltip,
    )


def count(name: str, most: int, tooltip: str) -> io.Int.Input:
    """A later option that is a number from 0 to `most`, 0 by default."""
    return io.Int.Input(
        name, default=0, min=0, max=most, optional=True, advanced=True, tooltip=tooltip
    )


def later_options() -> list:
    """Inputs that older workflows do not have: optional, and after all others, because an editor
    restores the values of widgets by their place."""

    return [
        count(
            "window",
            256,
            "Times that the network sees in one run; 0 for its own choice. Fewer need less memory.",
        ),
        io.Combo.Input(
            "align",
            options=list(ALIGN),
            default="auto",
            optional=True,
            advanced=True,
            tooltip="Brings the depth of every time to the scale of the first one. auto: where the "
            "network has no trained temporal layers, which do so themselves.",
        ),
        count(
            "sh_degree",
            4,
            "Degree of the colours that change with the view, where the network has them "
            "(AnySplat); 0 keeps one colour per Gaussian.",
        ),
        count(
            "refine",
            5000,
            "Steps of fitting the Gaussians to the images afterwards; 200 to 300 make them "
            "sharper, and take longer. 0 keeps what the network says.",
        ),
        share(
            "sharpen",
            0.3,
            1.0,
            "Where depth changes by more than this share within 3 pixels, its edges are moved to "
            "those of the image; 0 moves none.",
        ),
        share(
            "depth_edge",
            0.1,
            1.0,
            "Drops pixels that hang in a jump in depth of more than this share; 0 drops none.",
        ),
        share(
            "border",
            0.0,
            0.45,
            "Drops this share of the shorter side along each border, where networks err most.",
        ),
        share(
            "consistency",
            0.1,
            1.0,
            "Drops points that float in front of what other views see, or have another colour "
            "there, within this share of the distance; 0 drops none.",
        ),
        io.Boolean.Input(
            "adjust",
            default=True,
            optional=True,
            advanced=True,
            tooltip="Moves cameras and depth from where the network has them to where the views "
            "agree. Known cameras stay.",
        ),
        count(
            "detail",
            8,
            "Gaussians along each side of a pixel that the network sees, if the images have as "
            "many pixels; 0 for 2 with the embedded network, which sees 64 pixels, and 1 with "
            "others.",
        ),
        share(
            "unmix",
            0.1,
            1.0,
            "Beside a jump in depth of more than this share, each pixel goes to the surface that "
            "it shows more of, and the colours of things leave what is behind them; 0 moves none.",
        ),
    ]


def reconstructor_options(
    cameras: str = "first",
    extrinsics: Tensor | None = None,
    intrinsics: Tensor | None = None,
    resolution: int = 0,
    window: int = 0,
    align: str = "auto",
    store_static_once: bool = True,
    shared_intrinsics: bool = False,
    **others,
) -> dict:
    """Options of a Reconstructor from those of the node; `others` are adjust, detail, sh_degree,
    refine, filters, and filled [V, T, H, W].

    Raises ValueError when only one half of known cameras is given.
    """
    from fourreal.reconstruction import Filters, StaticSplit

    if (extrinsics is None) != (intrinsics is None):
        raise ValueError("known cameras need both extrinsics and intrinsics; connect both.")
    return {
        "cameras": cameras if extrinsics is None else (extrinsics[:, :3], intrinsics),
        "shared_intrinsics": shared_intrinsics,
        "resolution": resolution or None,
        "window": window or None,
        "align": ALIGN[align],
        "adjust": others.pop("adjust", True),
        "detail": others.pop("detail", 0) or None,
        "sh_degree": others.pop("sh_degree", 0),
        "refine": others.pop("refine", 0),
        "filled": others.pop("filled", None),
        "filters": Filters(**others),
        "split": StaticSplit() if store_static_once else None,
    }


def show_fidelity(scene: GaussianScene, frames: Tensor, node_id: str | None) -> None:
    """Tell on the node how well a scene shows the frames [V, T, 3, H, W] that it was made of."""
    from fourreal.reconstruction.fidelity import input_fidelity

    fidelity = input_fidelity(scene, frames, comfy.model_management.get_torch_device())
    warning = fidelity.warning(scene.metadata["reconstructor"])
    tell_node(warning or fidelity.report(), node_id, logging.WARNING if warning else logging.INFO)


class Reconstruct(io.ComfyNode):
    """It also gives the depth of every frame. Known cameras can be connected.

    The cameras must stand still: each view has one camera for all times. What does not move is
    stored once. The advanced inputs drop uncertain pixels and faint Gaussians, merge Gaussians that
    fall together, trade memory for speed, and refine the result on the images.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_Reconstruct",
            display_name="Reconstruct 4D",
            category=types.RECONSTRUCT,
            description="Turns a grid of synchronised views into dynamic 3D Gaussians and the "
            "cameras of the views. No camera poses are needed.",
            search_aliases=["vggt", "gaussian splatting", "4d reconstruction"],
            hidden=HIDDEN,
            inputs=[
                types.reconstructor_input(),
                *types.grid_inputs(),
                types.fps_input(),
                *first_options(),
                types.Extrinsics.Input(
                    "extrinsics",
                    optional=True,
                    tooltip="Known cameras, world to camera [V, 4, 4], instead of predicted ones.",
                ),
                types.Intrinsics.Input(
                    "intrinsics",
                    optional=True,
                    tooltip="[V, 3, 3] in pixels of the images; needed with extrinsics.",
                ),
                *later_options(),
                io.Mask.Input(
                    "filled",
                    optional=True,
                    tooltip="1 where a model made the pixels up, as Warp Grid's mask says: they "
                    "become Gaussians only where no other pixel shows the same place, and "
                    "refinement weighs them less.",
                ),
            ],
            outputs=[
                types.Scene.Output(display_name="SCENE", tooltip=types.SCENE_TOOLTIP),
                io.Image.Output(
                    display_name="depth", tooltip="Depth of every frame: near is white."
                ),
                *types.camera_outputs(
                    "World to camera [V, 4, 4], OpenCV; the world is the first camera."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        reconstructor: "ComfyReconstructor",
        images: Tensor,
        num_views: int,
        fps: float,
        **options,
    ) -> io.NodeOutput:
        """options: see reconstructor_options."""
        frames = frames_of_grid(images, num_views, cls.hidden).float().cpu()
        if options.get("filled") is not None:
            options["filled"] = images_to_frames(options["filled"][..., None], num_views)[:, :, 0]
        given = reconstructor_options(**options)
        num_times = frames.shape[1]

        def preview(done: int) -> Tensor:
            return frames[0, min(done, num_times) - 1]

        result = reconstructor(
            frames,
            fps=fps,
            progress=progress_reporter(num_times, preview),
            **given,
        )
        show_fidelity(result.scene, frames, cls.hidden.unique_id)
        return io.NodeOutput(
            types.CachedScene(**vars(result.scene)),
            types.depth_image(result.depth.flatten(0, 1)),
            to_homogeneous(result.extrinsics),
            result.intrinsics,
        )
