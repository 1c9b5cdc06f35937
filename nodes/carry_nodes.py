"""Carry References: a generated grid gets back what the given video and photos show of it."""

from typing import TYPE_CHECKING

import comfy.model_management
from comfy_api.latest import io
from torch import Tensor

from fourreal.cameras import to_homogeneous
from fourreal.grid import frames_to_images
from fourreal.reconstruction.options import CameraMode

from . import types
from .grid_shape import HIDDEN, frames_of_grid
from .progress import progress_reporter

if TYPE_CHECKING:
    from .offloading import ComfyReconstructor


class CarryReferences(io.ComfyNode):
    """Video models draw the other views softly, yet much of what they show is in the given images,
    sharp. The depth of all views says where: a pixel is taken from a given image where the depth of
    both views agrees, and the generated one stays where they differ.

    - **fixed_view**: the video that the first view of the grid was made with.
    - **freeze_time**: the images of all views that its first time was made with. They are used at
      later times where nothing has moved. With three views or more they also give what moves its
      sharpness back: it is drawn where it moves to, unless it turns or bends, or is sharp already.
      Of a grid that the small models made of text, connect its own first time (Pick Time), which
      they draw best, and set *cameras* to even.

    Both are fitted to the grid, as Grid Latent does it. Connect EXTRINSICS and INTRINSICS to
    Reconstruct 4D, which then need not find them again.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_CarryReferences",
            display_name="Carry References",
            category=types.RECONSTRUCT,
            description="Puts the pixels of the given video and photos into all views of a "
            "generated grid that show the same surfaces.",
            search_aliases=["sharpen", "reproject", "reference", "fixed view", "freeze time"],
            hidden=HIDDEN,
            inputs=[
                types.reconstructor_input(),
                *types.grid_inputs(),
                io.Image.Input(
                    "fixed_view", optional=True, tooltip="The given video of the first view."
                ),
                io.Image.Input(
                    "freeze_time",
                    optional=True,
                    tooltip="The given images of all views at the first time.",
                ),
                types.camera_mode_input(optional=True),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The grid of V x T frames."),
                *types.camera_outputs("World to camera [V, 4, 4], for Reconstruct 4D."),
            ],
        )

    @classmethod
    def execute(
        cls,
        reconstructor: "ComfyReconstructor",
        images: Tensor,
        num_views: int,
        fixed_view: Tensor | None = None,
        freeze_time: Tensor | None = None,
        cameras: CameraMode = "first",
    ) -> io.NodeOutput:
        from fourreal.carry import carry_references
        from fourreal.warp import reference_cells

        frames = frames_of_grid(images, num_views, cls.hidden).float().cpu()
        shape = (*frames.shape[:2], *frames.shape[-2:])
        row, column = (
            given if given is None else types.image_frames(types.fitted(given, count, *shape[2:]))
            for given, count in ((fixed_view, shape[1]), (freeze_time, None))
        )
        references = reference_cells(shape, fixed_view=row, freeze_time=column)
        if references is None:
            raise ValueError(
                "there is nothing to carry: connect fixed_view, freeze_time or both, as Grid "
                "Latent has them."
            )
        made, (extrinsics, intrinsics) = carry_references(
            reconstructor,
            frames,
            references,
            cameras,
            device=comfy.model_management.get_torch_device(),
            progress=progress_reporter(frames.shape[1]),
        )
        return io.NodeOutput(frames_to_images(made), to_homogeneous(extrinsics), intrinsics)
