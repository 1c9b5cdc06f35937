"""Pose-free reconstruction of a V x T grid as dynamic Gaussians (paper, section 4)."""

from .camera_head import cameras_to_pose_encoding, pose_encoding_to_cameras
from .config import VGGTConfig
from .gaussian_head import decode_gaussians
from .model import VGGT, Prediction, replace_camera_tokens

__all__ = [
    "VGGT",
    "Prediction",
    "VGGTConfig",
    "cameras_to_pose_encoding",
    "decode_gaussians",
    "pose_encoding_to_cameras",
    "replace_camera_tokens",
]
