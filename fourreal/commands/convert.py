"""`fourreal convert`: a scene from any format into any other."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fourreal.formats import open_scene, save_cameras, write_scene
from fourreal.viewer import export_html


@dataclass
class ConvertConfig:
    """Convert a scene from any format into any other."""

    scene: Annotated[Path, tyro.conf.Positional]
    """A scene file, PLY, SPZ, .splat, GLB, OpenUSD or .4dgs, or a folder or .zip with one file per
    time."""
    out: Annotated[Path, tyro.conf.Positional]
    """What to write, by its ending: .safetensors (the scene file), .usd, .usda, .usdc, .4dgs, .zip
    (of PLYs, for Brush) and .html (the viewer) hold all times; .ply, .spz, .splat and .glb hold
    one; a name without ending is a folder with a file for each time."""
    time: int | None = None
    """Which time goes into a file that holds one, from 0."""
    sequence: Literal["ply", "spz", "splat", "glb"] = "ply"
    """The files that a folder gets."""
    spz_version: Literal[3, 4] = 3
    """Of SPZ files: 3 is read by more programs, 4 is smaller (extra `spz`)."""
    cameras: Path | None = None
    """Also write the cameras: a .json file (transforms.json) or a folder (COLMAP's text files,
    which SuperSplat reads as keyframes)."""


def convert_scene(config: ConvertConfig) -> None:
    """Open and write. Raises ValueError as open_scene and write_scene do."""
    scene = open_scene(config.scene)
    if config.out.suffix.lower() == ".html":
        if config.time is not None:
            raise ValueError(f"{config.out} shows all times; leave --time out.")
        export_html(scene, config.out)
    else:
        write_scene(
            scene,
            config.out,
            time=config.time,
            sequence=f".{config.sequence}",
            spz_version=config.spz_version,
        )
    if config.cameras is not None:
        save_cameras(scene, config.cameras)
    print(config.out)


COMMAND = (ConvertConfig, convert_scene)
