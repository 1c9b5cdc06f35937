"""`fourreal view`: a scene file in the browser, or as one HTML file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fourreal.formats import open_scene
from fourreal.viewer import export_html, read_frames, serve


@dataclass
class ViewConfig:
    """Explore a scene file in the browser."""

    scene: Annotated[Path, tyro.conf.Positional]
    """A scene file, as generate and reconstruct write it; or PLY, SPZ, .splat or OpenUSD, or a
    folder with one such file per time."""
    html: Path | None = None
    """Write one self-contained HTML file instead of serving the scene on this machine."""
    input_frames: Annotated[Path | None, tyro.conf.arg(aliases=["--frames"])] = None
    """The input frames, to fade over the scene: a folder with a video of each view, or one video of
    all of them as tiles (default: the grid.mp4 that `generate` wrote beside the scene)."""
    port: int = 0
    """Port on localhost (default: a free one)."""
    browser: bool = True
    """Open the browser."""


def view_scene(config: ViewConfig) -> None:
    """Serve the scene until it is stopped, or write the HTML file."""
    scene = open_scene(config.scene)
    grid = config.scene.with_name("grid.mp4")
    beside = grid.is_file() and config.scene.suffix == ".safetensors"  # of the same run
    path = config.input_frames or (grid if beside else None)
    frames = read_frames(path, scene.num_views, scene.num_frames) if path else None
    if config.html:
        export_html(scene, config.html, frames)
        print(config.html)
    else:
        serve(scene, frames, config.port, config.browser)


COMMAND = (ViewConfig, view_scene)
