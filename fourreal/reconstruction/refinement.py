"""Optional refinement: a few hundred steps of photometric optimisation of predicted Gaussians.

As in 3D Gaussian splatting (Kerbl et al., arXiv 2308.04079), but from the network's Gaussians, on
the grid's own frames only, and without splitting or pruning. Every step renders one time from one
view; the static Gaussians learn from all times.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fourreal.gaussians import Gaussians, GaussianScene
from fourreal.rendering import render

# Steps of Adam per parameter: means in their own size, log scales, logit opacities, harmonics.
LEARNING_RATES = {
    "shifts": 0.02,
    "log_scales": 0.01,
    "quaternions": 0.002,
    "logits": 0.05,
    "harmonics": 0.01,
}
FILLED = 0.3  # weight of a pixel that a model made up


class _Parameters(nn.Module):
    """Gaussians in coordinates that Adam can step in."""

    def __init__(self, gaussians: Gaussians):
        super().__init__()
        start = gaussians.map(lambda x: x.detach().clone())
        self.means, self.sizes = start.means, start.scales.amax(1, keepdim=True)
        self.shifts = nn.Parameter(torch.zeros_like(start.means))
        self.log_scales = nn.Parameter(start.scales.clamp_min(1e-12).log())
        self.quaternions = nn.Parameter(start.quaternions)
        self.logits = nn.Parameter(start.opacities.clamp(1e-3, 1 - 1e-3).logit())
        self.harmonics = nn.Parameter(start.harmonics)

    def gaussians(self) -> Gaussians:
        return Gaussians(
            self.means + self.shifts * self.sizes,
            self.quaternions,
            self.log_scales.exp(),
            self.logits.sigmoid(),
            self.harmonics,
        )


def refine_scene(
    scene: GaussianScene,
    frames: Tensor,
    steps: int = 300,
    filled: Tensor | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> GaussianScene:
    """The scene with Gaussians fitted to the frames [V, T, 3, H, W] in [0, 1] that it came from.

    Minimises the absolute error of rendered pixels, of which those in filled [V, T, H, W], made up
    by a model, count less. progress(done) is called after every step;
    what it raises ends the work and leaves the given scene as it was. Works under no_grad and
    inference mode. Raises ValueError when the frames are not the scene's.
    """
    wanted = (scene.num_views, scene.num_frames, 3, scene.height, scene.width)
    if tuple(frames.shape) != wanted:
        raise ValueError(
            f"frames for refinement have the shape {tuple(frames.shape)}, but this scene was made "
            f"of {wanted}."
        )
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False), torch.enable_grad():
        # Clones, as tensors made in inference mode cannot be differentiated.
        extrinsics, intrinsics = scene.extrinsics.clone(), scene.intrinsics.clone()
        static = _Parameters(scene.static)
        dynamic = [_Parameters(part) for part in scene.dynamic]
        groups = [
            {"params": [getattr(part, name) for part in (static, *dynamic)], "lr": rate}
            for name, rate in LEARNING_RATES.items()
        ]
        optimizer = torch.optim.Adam(groups, eps=1e-15)
        for step in range(steps):
            for group, rate in zip(optimizer.param_groups, LEARNING_RATES.values()):
                group["lr"] = rate * (1 - step / steps)
            cell = int(torch.randint(frames.shape[0] * frames.shape[1], (1,), generator=generator))
            view, time = divmod(cell, frames.shape[1])
            both = Gaussians.concatenate([static.gaussians(), dynamic[time].gaussians()])
            cameras = extrinsics[view : view + 1], intrinsics[view : view + 1]
            shown = render(both, *cameras, scene.width, scene.height).color[0].movedim(-1, 0)
            error = (shown - frames[view, time].to(shown.device).clone()).abs()
            if filled is not None:
                error = error * (1 - (1 - FILLED) * filled[view, time].to(error))
            error.mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if progress is not None:
                progress(step + 1)
        parts = [part.gaussians().map(Tensor.detach) for part in (static, *dynamic)]
    return GaussianScene(
        parts[0],
        parts[1:],
        scene.extrinsics,
        scene.intrinsics,
        scene.width,
        scene.height,
        scene.fps,
        scene.metadata | {"refinement_steps": str(steps)},
        confidences=scene.confidences,
    )
