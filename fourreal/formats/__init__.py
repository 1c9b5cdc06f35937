"""Files of Gaussians and scenes: PLY, SPZ, .splat, GLB, their sequences, OpenUSD, .4dgs, the scene
file.

A new format of Gaussians is a module here, with a line in suffixes.FORMATS; open_scene opens any,
write_scene writes any.
"""

from fourreal.formats.camera_files import save_cameras
from fourreal.formats.four_dgs import save_4dgs
from fourreal.formats.glb import load_glb, save_glb
from fourreal.formats.opening import framed_scene, open_scene
from fourreal.formats.ply import load_ply, save_ply
from fourreal.formats.scene_file import load_scene, save_scene
from fourreal.formats.scene_writer import write_scene
from fourreal.formats.sequence import (
    load_ply_sequence,
    load_sequence,
    save_ply_sequence,
    save_sequence,
)
from fourreal.formats.splat import load_splat, save_splat
from fourreal.formats.spz import load_spz, save_spz
from fourreal.formats.suffixes import FORMATS, load_gaussians, save_gaussians
from fourreal.formats.usd import load_usd, save_usd
from fourreal.formats.zip_sequence import load_zip, save_zip

__all__ = [
    "FORMATS",
    "framed_scene",
    "load_gaussians",
    "load_glb",
    "load_ply",
    "load_ply_sequence",
    "load_scene",
    "load_sequence",
    "load_splat",
    "load_spz",
    "load_usd",
    "load_zip",
    "open_scene",
    "save_4dgs",
    "save_cameras",
    "save_gaussians",
    "save_glb",
    "save_ply",
    "save_ply_sequence",
    "save_scene",
    "save_sequence",
    "save_splat",
    "save_spz",
    "save_usd",
    "save_zip",
    "write_scene",
]
