"""Pose-free reconstruction of a V x T grid as dynamic Gaussians (paper, section 4)."""

from fourreal.reconstruction.bundle_adjustment import adjust_cameras, adjust_depth
from fourreal.reconstruction.camera_head import cameras_to_pose_encoding, pose_encoding_to_cameras
from fourreal.reconstruction.checkpoint import load_model, save_model
from fourreal.reconstruction.config import VGGTConfig
from fourreal.reconstruction.filters import Filters
from fourreal.reconstruction.from_depth import scene_from_depth
from fourreal.reconstruction.gaussian_head import (
    decode_anysplat,
    decode_gaussians,
    gaussians_from_depth,
)
from fourreal.reconstruction.maps import Maps
from fourreal.reconstruction.network import VGGT, replace_camera_tokens
from fourreal.reconstruction.options import ReconstructionOptions
from fourreal.reconstruction.predicted_scene import predicted_scene
from fourreal.reconstruction.pruning import prune_scene, static_and_dynamic
from fourreal.reconstruction.reconstructor import Geometry, Reconstruction, Reconstructor
from fourreal.reconstruction.refinement import refine_scene
from fourreal.reconstruction.split import StaticSplit
from fourreal.reconstruction.tracking import Tracks, grid_of_points

__all__ = [
    "VGGT",
    "Filters",
    "Geometry",
    "Maps",
    "Reconstruction",
    "ReconstructionOptions",
    "Reconstructor",
    "StaticSplit",
    "Tracks",
    "VGGTConfig",
    "adjust_cameras",
    "adjust_depth",
    "cameras_to_pose_encoding",
    "decode_anysplat",
    "decode_gaussians",
    "gaussians_from_depth",
    "grid_of_points",
    "load_model",
    "pose_encoding_to_cameras",
    "predicted_scene",
    "prune_scene",
    "refine_scene",
    "replace_camera_tokens",
    "save_model",
    "scene_from_depth",
    "static_and_dynamic",
]
