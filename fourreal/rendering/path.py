"""A dynamic scene along a camera path: one frame per camera, each at its own time."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from fourreal.cameras import CameraPath, camera_path, scale_intrinsics
from fourreal.gaussians import Gaussians, GaussianScene
from fourreal.rendering.rasterize import render


def scene_path(
    scene: GaussianScene,
    height: int | None = None,
    *,
    cameras: tuple[Tensor, Tensor] | None = None,
    **options: Any,
) -> CameraPath:
    """A path through a scene's cameras for images of `height` pixels and of even width, or by
    default of the scene's own size.

    cameras: others to go through instead, extrinsics [V, 3, 4] and intrinsics [V, 3, 3] in pixels
    of the scene's images. The options are camera_path's: kind, num_frames, freeze_at, time,
    keyframes, beyond.
    """
    extrinsics, intrinsics = cameras or (scene.extrinsics, scene.intrinsics)
    width = scene.width if height is None else round(height * scene.width / scene.height / 2) * 2
    height = height or scene.height
    distance = scene.at(0).viewing_distance(extrinsics[len(extrinsics) // 2])
    return camera_path(
        extrinsics,
        scale_intrinsics(intrinsics, width / scene.width, height / scene.height),
        width,
        height,
        scene.num_frames,
        distance=distance,
        **options,
    )


@torch.no_grad()
def render_path(
    scene: GaussianScene,
    path: CameraPath,
    *,
    background: Tensor | None = None,
    backend: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Render every camera of the path: color [K, H, W, 3], alpha and depth [K, H, W, 1].

    background: colour [3], black when None. progress(done, total) is called after each frame; an
    exception it raises ends the work. The values are those of `render`, without gradients.
    Raises ValueError for a time outside the scene.
    """
    count = len(path.times)
    times = path.times.tolist()
    if not count or min(times) < 0 or max(times) >= scene.num_frames:
        raise ValueError(
            f"the camera path shows times {min(times, default=None)} to "
            f"{max(times, default=None)}, but the scene has times 0 to {scene.num_frames - 1}."
        )
    frames = SceneFrames(scene)
    results = []
    for k, time in enumerate(times):
        rendering = render(
            frames.at(time),
            path.extrinsics[k : k + 1],
            path.intrinsics[k : k + 1],
            path.width,
            path.height,
            background=background,
            backend=backend,
        )
        results.append((rendering.color, rendering.alpha, rendering.depth))
        if progress is not None:
            progress(k + 1, count)
    color, alpha, depth = (torch.cat(parts) for parts in zip(*results))
    return color, alpha, depth


class SceneFrames:
    """A scene's Gaussians at one time after another, in one buffer that holds the static once."""

    def __init__(self, scene: GaussianScene):
        self.dynamic = scene.dynamic
        self.begin = len(scene.static)
        largest = max(scene.dynamic, key=len)
        self.buffer = Gaussians.concatenate(
            [
                scene.static,
                largest.map(torch.empty_like),
                Gaussians.empty(scene.num_harmonics, scene.static.means.device),
            ]
        )
        self.time = None

    def at(self, time: int) -> Gaussians:
        """All Gaussians of this time; valid until the next call."""
        moving = self.dynamic[time]
        end = self.begin + len(moving)
        if time != self.time:
            for f in fields(moving):
                source = getattr(moving, f.name)
                target = getattr(self.buffer, f.name)[self.begin : end]
                if f.name == "harmonics":
                    target[:, source.shape[1] :] = 0
                    target = target[:, : source.shape[1]]
                target.copy_(source)
            self.time = time
        return self.buffer.map(lambda x: x[:end])
