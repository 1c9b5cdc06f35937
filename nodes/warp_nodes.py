"""Warp Grid and Paste Known: before and after a video model fills what a scene does not show."""

import comfy.model_management
from comfy_api.latest import Types, io
from torch import Tensor

from fourreal.cameras import (
    arc_cameras,
    point_ahead,
    scale_intrinsics,
    to_homogeneous,
)
from fourreal.gaussians import GaussianScene
from fourreal.grid import frames_to_images, images_to_frames

from . import types
from .camera_info import cameras_of
from .grid_shape import HIDDEN, frames_of_grid
from .progress import progress_reporter
from .splat_batch import as_scene

ARC, OWN = "arc", "views of the scene"


class WarpGrid(io.ComfyNode):
    """The cameras stand still: on an arc whose first camera is that of the scene's first view (or
    the connected camera), at the scene's own views, or wherever a list of cameras says.

    What no input camera saw is grey, and 1 in the mask: a video inpainting model fills it. A pixel
    is only known where the scene is opaque and nothing unseen can stand before it.

    - **fixed_view**: the video that the scene was made of. It is known whole in its view.
    - **freeze_time**: photos that the scene was made of, with *views of the scene*. They are known
      whole at the first time.
    - **repaint_all** makes everything else 1 in the mask. Tight masks can leave seams.

    Beyond about 45 degrees little of a view is known.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_WarpGrid",
            display_name="Warp Grid",
            category=types.RECONSTRUCT,
            description="Shows a scene to new still cameras as a grid of views and times, and says "
            "which pixels are known there.",
            search_aliases=["novel view", "arc", "reproject", "second camera", "inpaint"],
            inputs=[types.scene_or_splat_input(), *arc_inputs(), *grid_size_inputs()],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The grid, grey where unknown."),
                io.Mask.Output(
                    display_name="missing", tooltip="1 where pixels must be made, for each image."
                ),
                *types.camera_outputs("World to camera [V, 4, 4], for Reconstruct 4D."),
                io.Int.Output(display_name="num_views", tooltip="The number of views V."),
                io.Int.Output(display_name="num_frames", tooltip="The number of times T."),
                io.Float.Output(
                    display_name="known_share", tooltip="How much of all pixels is known, 0 to 1."
                ),
                io.String.Output(
                    display_name="report", tooltip="How much of each view is known, and warnings."
                ),
                *types.grid_outputs()[2:],
            ],
        )

    @classmethod
    def execute(
        cls,
        scene: GaussianScene | Types.SPLAT,
        width: int,
        height: int,
        num_frames: int,
        repaint_all: bool,
        camera: dict | list[dict] | None = None,
        fixed_view: Tensor | None = None,
        freeze_time: Tensor | None = None,
        **arc,
    ) -> io.NodeOutput:
        """arc: see target_cameras."""
        from fourreal.warp import of_first_times, reference_cells, warp_grid, wide_angles

        scene = as_scene(scene)
        width, height = width or scene.width, height or scene.height
        extrinsics, intrinsics = target_cameras(scene, width, height, camera, **arc)
        num_times = num_frames or scene.num_frames
        scene = scene.first_times(num_times)
        cells = {
            name: None if given is None else types.image_frames(given)
            for name, given in (("fixed_view", fixed_view), ("freeze_time", freeze_time))
        }
        shape = len(extrinsics), num_times, height, width
        references = reference_cells(shape, arc["given"], **cells)
        device = comfy.model_management.get_torch_device()
        warped = warp_grid(
            scene.to(device),
            extrinsics,
            intrinsics,
            width,
            height,
            references=of_first_times(references, scene.num_frames),
            repaint_all=repaint_all,
            progress=progress_reporter(scene.num_frames),
        )
        warped = warped.lengthened(num_times).with_references(references)
        shares = warped.known_share
        views = ", ".join(f"{100 * share:.0f}%" for share in shares)
        warning = wide_angles(scene, extrinsics)
        return io.NodeOutput(
            frames_to_images(warped.frames),
            warped.missing.flatten(0, 2),
            to_homogeneous(extrinsics),
            intrinsics,
            len(extrinsics),
            num_times,
            shares.mean().item(),
            f"known of each view: {views}" + (f"\nwarning: {warning}" if warning else ""),
            *(width, height),
        )


def arc_inputs() -> list:
    """Where the cameras are."""

    def angle(name: str, default: float, most: float, tooltip: str) -> io.Float.Input:
        return io.Float.Input(name, default=default, min=-most, max=most, step=0.5, tooltip=tooltip)

    return [
        io.Combo.Input(
            "cameras",
            options=[ARC, OWN],
            default=ARC,
            tooltip="An arc through the scene's first view, or the views of the scene as they are.",
        ),
        io.Int.Input(
            "num_views", default=8, min=2, max=64, tooltip="Cameras on the arc, the given one too."
        ),
        angle("degrees", 40.0, 359.0, "The whole arc, to the right; negative to the left."),
        angle("elevation", 0.0, 89.0, "By how many degrees the cameras rise along the arc."),
        io.Float.Input(
            "distance",
            default=1.0,
            min=0.1,
            max=10.0,
            step=0.05,
            tooltip="The last camera's distance from the middle, of the first one's.",
        ),
        io.Int.Input(
            "given",
            default=0,
            min=0,
            max=63,
            advanced=True,
            tooltip="The place on the arc of the scene's first view: 0 begins there.",
        ),
    ]


def grid_size_inputs() -> list:
    """The grid's size, what is known whole, and the camera."""

    def size(name: str, most: int, tooltip: str) -> io.Int.Input:
        return io.Int.Input(name, default=0, min=0, max=most, tooltip=tooltip)

    return [
        *(
            size(name, 4096, f"Pixels; 0 for the {name} of the scene's views.")
            for name in ("width", "height")
        ),
        size(
            "num_frames",
            1024,
            "Times of the grid; 0 for those of the scene. Of later ones nothing is known.",
        ),
        io.Boolean.Input(
            "repaint_all",
            default=False,
            tooltip="The model makes every pixel anew, from what is known as a draft.",
        ),
        io.Load3DCamera.Input(
            "camera",
            optional=True,
            tooltip="Where the arc begins, instead of the scene's first view; of a list, the "
            "cameras of all views.",
        ),
        io.Image.Input(
            "fixed_view", optional=True, tooltip="The video of the given view, known whole."
        ),
        io.Image.Input(
            "freeze_time",
            optional=True,
            tooltip="Images of all views at the first time, known whole.",
        ),
    ]


def target_cameras(
    scene: GaussianScene,
    width: int,
    height: int,
    camera: dict | list[dict] | None,
    *,
    cameras: str,
    num_views: int,
    given: int,
    **arc: float,
) -> tuple[Tensor, Tensor]:
    """Extrinsics [V, 3, 4] and intrinsics [V, 3, 3] in pixels of width x height.

    A list of LOAD3D_CAMERA is the cameras; a single one stands for the scene's first view. arc:
    degrees, elevation, distance. Raises ValueError for an arc that is none.
    """
    if camera is not None:
        extrinsics, intrinsics = cameras_of(camera, width, height)
    else:
        factors = width / scene.width, height / scene.height
        extrinsics, intrinsics = scene.extrinsics, scale_intrinsics(scene.intrinsics, *factors)
    if len(extrinsics) > 1 and camera is not None:
        return extrinsics, intrinsics
    if cameras == OWN:
        return extrinsics.cpu(), intrinsics.cpu()
    first = extrinsics[0].cpu()
    centre = point_ahead(first, scene.at(0).viewing_distance(first))
    return arc_cameras(first, intrinsics[0].cpu(), num_views, centre=centre, given=given, **arc)


class PasteKnown(io.ComfyNode):
    """Video models change what they are given: kept pixels come back through the autoencoder, and
    colours drift. Here the known pixels are put back as they were.

    First the colours of each view are brought to those of its known pixels. Then these are pasted,
    softly toward the border of what is known; where something is missing the generated pixels stay,
    and are sharpened until the view is as sharp as the images that are known whole.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_PasteKnown",
            display_name="Paste Known",
            category=types.RECONSTRUCT,
            description="Puts the known pixels of a warped grid back into the generated one, whose "
            "colours and sharpness are brought to theirs.",
            search_aliases=["composite", "color match", "feather", "inpaint"],
            hidden=HIDDEN,
            inputs=[
                *types.grid_inputs(),
                io.Image.Input("warped", tooltip="The images of Warp Grid."),
                io.Mask.Input(
                    "missing", tooltip="The mask of Warp Grid: 1 where nothing is known."
                ),
                io.Int.Input(
                    "feather",
                    default=15,
                    min=0,
                    max=255,
                    tooltip="Pixels inside the known area over which it fades in; 0 for a hard "
                    "edge.",
                ),
                io.Boolean.Input(
                    "match_colors",
                    default=True,
                    tooltip="Bring the colours of each view to those of its known pixels.",
                ),
                io.Boolean.Input(
                    "match_sharpness",
                    default=True,
                    optional=True,
                    tooltip="Sharpen what is generated of a view that is softer than the images "
                    "known whole.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="The grid of V x T frames.")],
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        num_views: int,
        warped: Tensor,
        missing: Tensor,
        feather: int,
        match_colors: bool,
        match_sharpness: bool = True,
    ) -> io.NodeOutput:
        from fourreal.paste import paste_known
        from fourreal.warp import WarpedGrid

        if images.shape[:3] != warped.shape[:3] or missing.shape != warped.shape[:3]:
            sizes = ", ".join(
                f"the {name} are {given.shape[0]} of {given.shape[2]} x {given.shape[1]}"
                for name, given in (
                    ("generated images", images),
                    ("warped ones", warped),
                    ("masks", missing),
                )
            )
            raise ValueError(f"{sizes} pixels, but all must be of one grid.")
        grid = WarpedGrid(
            frames_of_grid(warped, num_views, cls.hidden, "warped"),
            images_to_frames(missing[..., None], num_views),
        )
        frames = frames_of_grid(images, num_views, cls.hidden)
        pasted = paste_known(
            frames,
            grid,
            feather=feather,
            match_colors=match_colors,
            match_sharpness=match_sharpness,
        )
        return io.NodeOutput(frames_to_images(pasted))
