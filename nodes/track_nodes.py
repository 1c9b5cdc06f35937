"""Track Points: points of one frame in all frames of a grid, as core's TRACKS."""

from pathlib import Path
from typing import TYPE_CHECKING

from comfy_api.latest import io
from torch import Tensor

from fourreal.grid import frames_to_images

from . import types
from .grid_shape import HIDDEN, frames_of_grid
from .progress import progress_reporter

if TYPE_CHECKING:
    from .offloading import ComfyReconstructor


def points_of_text(text: str, rows: int, height: int, width: int) -> Tensor:
    """Points [N, 2] of a JSON list; of an empty text, `rows` rows of them spread evenly."""
    from fourreal.files.json_files import parse_json
    from fourreal.reconstruction.tracking import grid_of_points, points_of_json

    if not text.strip():
        return grid_of_points(rows, height, width)
    return points_of_json(parse_json(text, Path("the input points")))


class TrackPoints(io.ComfyNode):
    """A grid of one view is an ordinary video. Points are followed through all views and times at
    once; of each view there is one TRACKS, and what is connected to them runs once per view.
    WanMove's nodes take them: give these the width and height of the images.

    In the picture a dot is a point that is seen, a ring one that is hidden; the tail is where it
    was. Only VGGT-1B's file has the head that this needs.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_TrackPoints",
            display_name="Track Points",
            category=types.RECONSTRUCT,
            description="Follows points of one frame through all views and times of a grid, with "
            "VGGT's track head.",
            search_aliases=["vggt", "correspondences", "point tracking", "motion"],
            hidden=HIDDEN,
            inputs=[
                types.Reconstructor.Input(
                    "reconstructor", tooltip="VGGT-1B, from Load Reconstructor."
                ),
                *types.grid_inputs(),
                io.String.Input(
                    "points",
                    default="",
                    multiline=True,
                    tooltip='Points as JSON, [{"x": 40, "y": 25}] in pixels, as point editors '
                    "write them; empty for points that are spread evenly.",
                ),
                io.Int.Input(
                    "rows",
                    default=16,
                    min=1,
                    max=64,
                    tooltip="Rows of the points that are spread evenly; as many columns as fit.",
                ),
                io.Int.Input("view", default=0, min=0, max=63, tooltip="View of the points."),
                io.Int.Input("time", default=0, min=0, max=1023, tooltip="Time of the points."),
                io.Float.Input(
                    "min_visibility",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="TRACKS calls a point visible from this probability on.",
                ),
                types.resolution_input(),
            ],
            outputs=[
                io.Tracks.Output(
                    display_name="TRACKS",
                    is_output_list=True,
                    tooltip="One for each view, for core's WanMove nodes.",
                ),
                io.Image.Output(
                    display_name="images", tooltip="The grid with the tracks drawn into it."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        reconstructor: "ComfyReconstructor",
        images: Tensor,
        num_views: int,
        points: str,
        rows: int,
        view: int,
        time: int,
        min_visibility: float,
        resolution: int,
    ) -> io.NodeOutput:
        from fourreal.reconstruction.track_drawing import draw_tracks
        from fourreal.reconstruction.tracking import num_sequences

        frames = frames_of_grid(images, num_views, cls.hidden).float().cpu()
        tracks = reconstructor.track(
            frames,
            points_of_text(points, rows, *frames.shape[-2:]),
            view,
            time,
            resolution=resolution or None,
            progress=progress_reporter(num_sequences(len(images))),
        )
        # Core's form: [T, N, 2] in pixels, and [T, N].
        of_views = [
            {"track_path": path, "track_visibility": seen >= min_visibility}
            for path, seen in zip(tracks.positions, tracks.visibility)
        ]
        return io.NodeOutput(of_views, frames_to_images(draw_tracks(frames, tracks, view, time)))
