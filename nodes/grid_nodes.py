"""Grids of frames as IMAGE batches: assemble, pick a row or a column, show as a sheet or tiles."""

import torch
from comfy_api.latest import io
from torch import Tensor

from fourreal.grid import contact_sheet, frames_to_images, tile_views

from . import types
from .grid_shape import HIDDEN, frames_of_grid


class AssembleGrid(io.ComfyNode):
    """All must have the same number of frames and the same size; a new socket appears when the last
    one is used. One image per socket makes a freeze-time column of photos.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        views = io.Autogrow.TemplatePrefix(
            io.Image.Input("view", tooltip="The frames of one view, all views of equal length."),
            prefix="view",
            min=1,
            max=64,
        )
        return io.Schema(
            node_id="FourReal_AssembleGrid",
            display_name="Assemble Grid",
            category=types.GENERATE,
            description="Puts synchronised videos together as a grid: the first input is the first "
            "view.",
            search_aliases=["multi-view", "batch videos"],
            inputs=[
                io.Autogrow.Input(
                    "views", template=views, tooltip="One video per view, all of one size."
                )
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The grid of V x T frames."),
                *types.grid_outputs(),
            ],
        )

    @classmethod
    def execute(cls, views: dict[str, Tensor | None]) -> io.NodeOutput:
        videos = [video[..., :3] for video in views.values() if video is not None]
        shapes = {tuple(video.shape) for video in videos}
        if len(shapes) != 1:
            listed = ", ".join(f"{t} frames of {w} x {h}" for t, h, w, _ in sorted(shapes))
            raise ValueError(
                f"the views differ ({listed or 'there are none'}); all must have the same number "
                "of frames and the same size."
            )
        count, height, width, _ = videos[0].shape
        return io.NodeOutput(torch.cat(videos), len(videos), count, width, height)


class PickView(io.ComfyNode):
    """Use it e.g. for the *fixed_view* of Grid Latent or for Create Video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_PickView",
            display_name="Pick View",
            category=types.GENERATE,
            description="One view of a grid at all times: a fixed-view video.",
            search_aliases=["fixed view", "row"],
            hidden=HIDDEN,
            inputs=[
                *types.grid_inputs(),
                io.Int.Input("view", default=0, min=0, max=63, tooltip=types.VIEW_TOOLTIP),
            ],
            outputs=[io.Image.Output(tooltip="The T frames of this view.")],
        )

    @classmethod
    def execute(cls, images: Tensor, num_views: int, view: int) -> io.NodeOutput:
        frames = frames_of_grid(images, num_views, cls.hidden)
        if view >= num_views:
            raise ValueError(f"view is {view}, but the grid has views 0 to {num_views - 1}.")
        return io.NodeOutput(frames_to_images(frames[view : view + 1]))


class PickTime(io.ComfyNode):
    """Use it e.g. for the *freeze_time* of Grid Latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_PickTime",
            display_name="Pick Time",
            category=types.GENERATE,
            description="All views of a grid at one time: a freeze-time video.",
            search_aliases=["freeze time", "bullet time", "column"],
            hidden=HIDDEN,
            inputs=[
                *types.grid_inputs(),
                io.Int.Input("time", default=0, min=0, max=1023, tooltip="The time, from 0."),
            ],
            outputs=[io.Image.Output(tooltip="The V views of this time.")],
        )

    @classmethod
    def execute(cls, images: Tensor, num_views: int, time: int) -> io.NodeOutput:
        frames = frames_of_grid(images, num_views, cls.hidden)
        if time >= frames.shape[1]:
            raise ValueError(f"time is {time}, but the grid has times 0 to {frames.shape[1] - 1}.")
        return io.NodeOutput(frames_to_images(frames[:, time : time + 1]))


class ContactSheet(io.ComfyNode):
    """The sheet shows evenly spaced times, the first and the last among them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_ContactSheet",
            display_name="Contact Sheet",
            category=types.GENERATE,
            description="The grid as one image, views down and times across, and as one video with "
            "the views as tiles.",
            search_aliases=["overview", "tiles", "grid image"],
            hidden=HIDDEN,
            inputs=[
                *types.grid_inputs(),
                io.Int.Input(
                    "max_times", default=8, min=1, max=64, tooltip="Columns of the sheet at most."
                ),
            ],
            outputs=[
                io.Image.Output(display_name="sheet", tooltip="Views down, times across."),
                io.Image.Output(display_name="tiles", tooltip="T frames, the views as tiles."),
            ],
        )

    @classmethod
    def execute(cls, images: Tensor, num_views: int, max_times: int) -> io.NodeOutput:
        frames = frames_of_grid(images, num_views, cls.hidden)
        sheet = contact_sheet(frames, max_times).movedim(0, -1)[None]
        return io.NodeOutput(sheet, tile_views(frames).movedim(1, -1))
