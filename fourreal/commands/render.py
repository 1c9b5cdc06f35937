"""`fourreal render`: a scene file along a camera path, as a video or as images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fourreal.cameras import PathKind, TimeKind
from fourreal.commands.results import progress_bar
from fourreal.devices import choose_device
from fourreal.files.media import write_depth, write_images, write_video
from fourreal.formats import open_scene
from fourreal.formats.keyframes import load_keyframes
from fourreal.rendering import render_path, scene_path

STILL_FRAMES = 48  # of a video of a scene that has one time


@dataclass
class RenderConfig:
    """Render a scene file along a camera path to a video or images."""

    scene: Annotated[Path, tyro.conf.Positional]
    """A scene file, as generate and reconstruct write it; or PLY, SPZ, .splat or OpenUSD, or a
    folder with one such file per time."""
    out: Path = Path("render.mp4")
    """A video file, or a folder (a name without suffix) for numbered PNG images."""
    kind: PathKind = "orbit"
    """orbit: to the last view and back. inputs: once along the views. freeze_time: the orbit while
    time stands still. fixed_view: the first view. replay: the views one after another. spiral: in
    turns around their middle. push_in: toward what they look at. dolly_zoom: away from it while the
    lens narrows."""
    time: TimeKind | None = None
    """play, freeze (bullet time), ramp (slow to a stop and on) or ping_pong (default: freeze with
    freeze_time, else play)."""
    num_frames: Annotated[int | None, tyro.conf.arg(aliases=["--frames"])] = None
    """Frames of the video (default: as many as the scene has times, or 48 where it has one)."""
    freeze_at: int = 0
    """The time where freeze stands still and ramp stops."""
    keyframes: Path | None = None
    """JSON list of cameras to go through: {"view": 2} or {"position": [..], "target": [..]},
    each with optional "up", "fov" (degrees) and "time"."""
    beyond: bool = False
    """Let the camera leave the part of the sphere that the input views cover."""
    height: int = 256
    """Height of the images in pixels."""
    depth: Path | None = None
    """Also write depth: *.npz, or a folder for 16-bit PNG images."""
    device: str | None = None
    """Where it is rendered: cpu, cuda or cuda:N (default: CUDA where there is one)."""


def render_scene(config: RenderConfig) -> None:
    """Render and write. Raises ValueError for a file that is no scene and for wrong keyframes."""
    device = choose_device(config.device)
    scene = open_scene(config.scene)
    keyframes = None
    if config.keyframes:
        keyframes = load_keyframes(config.keyframes, scene.extrinsics, scene.num_frames)
    path = scene_path(
        scene,
        config.height,
        kind=config.kind,
        num_frames=config.num_frames or (STILL_FRAMES if scene.num_frames == 1 else None),
        freeze_at=config.freeze_at,
        time=config.time,
        keyframes=keyframes,
        beyond=config.beyond,
    )
    with progress_bar("rendering", len(path.times)) as progress:
        color, _, depth = render_path(scene.to(device), path, progress=progress)
    if config.out.suffix:
        write_video(config.out, color.movedim(-1, 1), scene.fps)
    else:
        write_images(config.out, color.movedim(-1, 1))
    if config.depth:
        write_depth(config.depth, depth[..., 0])
    print(config.out)


COMMAND = (RenderConfig, render_scene)
