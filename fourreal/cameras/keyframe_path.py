"""A camera path through keyframes that say their frame, as the viewer's timeline has them."""

import numpy as np
import torch
from torch import Tensor

from fourreal.cameras.paths import CameraPath, interpolate_cameras, spline


def keyframe_path(
    extrinsics: Tensor,
    intrinsics: Tensor,
    frames: Tensor,
    size: tuple[int, int],
    num_frames: int,
    num_times: int,
) -> CameraPath:
    """The path of num_frames frames through M >= 1 cameras [M, 3, 4], [M, 3, 3], each at its frame
    (frames [M], fractional, from 0, rising).

    The first camera stands until its frame and the last one from it on; between, the camera goes
    along the splines of interpolate_cameras, at an even pace from keyframe to keyframe. Frame t
    shows the scene's time t, and frames after the last of num_times times show that one.
    size: width and height of the images, which intrinsics are in pixels of. Raises ValueError for
    frames that do not rise from 0 or more.
    """
    keys = frames.double().cpu().numpy()
    if keys[0] < 0 or (np.diff(keys) <= 0).any():
        raise ValueError(
            f"the keyframes are at {', '.join(f'{key:g}' for key in keys)}, but must rise from 0 "
            "or more."
        )
    along = np.arange(num_frames)
    positions = torch.from_numpy(np.interp(along, keys, np.arange(len(keys)))).to(extrinsics)
    cameras = interpolate_cameras(extrinsics, positions)
    lenses = spline(intrinsics.flatten(1), positions).unflatten(1, (3, 3))
    times = torch.arange(num_frames, device=extrinsics.device).clamp(max=num_times - 1)
    return CameraPath(cameras, lenses, times, *size)
