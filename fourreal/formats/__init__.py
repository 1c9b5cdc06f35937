"""Files of Gaussians and scenes: PLY, PLY sequences, SPZ, .splat, OpenUSD and the scene file.

A new format of Gaussians is a module here, with a line in suffixes.FORMATS; open_scene opens any.
"""

from fourreal.formats.opening import open_scene
from fourreal.formats.ply import load_ply, save_ply
from fourreal.formats.scene_file import load_scene, save_scene
from fourreal.formats.sequence import load_ply_sequence, load_sequence, save_ply_sequence
from fourreal.formats.splat import load_splat, save_splat
from fourreal.formats.spz import load_spz, save_spz
from fourreal.formats.suffixes import FORMATS, load_gaussians, save_gaussians
from fourreal.formats.usd import load_usd, save_usd

__all__ = [
    "FORMATS",
    "load_gaussians",
    "load_ply",
    "load_ply_sequence",
    "load_scene",
    "load_sequence",
    "load_splat",
    "load_spz",
    "load_usd",
    "open_scene",
    "save_gaussians",
    "save_ply",
    "save_ply_sequence",
    "save_scene",
    "save_splat",
    "save_spz",
    "save_usd",
]
