"""Pose-free reconstruction of a V x T grid as dynamic Gaussians (paper, section 4)."""

from .camera_head import cameras_to_pose_encoding, pose_encoding_to_cameras
from .checkpoint import load_model, save_model
from .config import VGGTConfig
from .filters import Filters
from .gaussian_head import decode_anysplat, decode_gaussians, gaussians_from_depth
from .model import VGGT, Prediction, replace_camera_tokens
from .reconstructor import Geometry, Reconstruction, Reconstructor
from .refinement import refine_scene
from .split import StaticSplit

__all__ = [
    "VGGT",
    "Filters",
    "Geometry",
    "Prediction",
    "Reconstruction",
    "Reconstructor",
    "StaticSplit",
    "VGGTConfig",
    "cameras_to_pose_encoding",
    "decode_anysplat",
    "decode_gaussians",
    "gaussians_from_depth",
    "load_model",
    "pose_encoding_to_cameras",
    "refine_scene",
    "replace_camera_tokens",
    "save_model",
]
