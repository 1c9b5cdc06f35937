"""How well a reconstructed scene shows the very frames that it was made of.

A scene that does not even do that is no reconstruction: the network was shown something that it
does not know, or the frames are not of one scene from still cameras.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fourreal.cameras import scale_intrinsics
from fourreal.gaussians import GaussianScene
from fourreal.grid import spaced_times
from fourreal.metrics.pixels import psnr
from fourreal.rendering import render

VIEWS, TIMES = 4, 2  # at most so many, evenly spaced, are compared
COMPARED = 256  # pixels of the longer side, at most
# By the embedded network the least PSNR and gain over flat colours are 26.3 and 8.7 dB of 24
# validation scenes, eight times of 2 to 4 views, and 22.9 and 6.6 dB of what its video model makes
# of 20 validation captions. One to eight real photos have at most 18.9 and 6.6 dB, a video 16.0.
LEAST_PSNR, LEAST_GAIN = 21.0, 3.0
EMBEDDED = "fourreal"  # the kind of the reconstructors that this project trains


@dataclass(frozen=True)
class Fidelity:
    """PSNR in dB at the input frames: of the scene, and of one flat colour for each frame, its
    mean."""

    psnr: float
    flat: float

    def report(self) -> str:
        """A sentence with both numbers."""
        return (
            f"The scene shows its own input frames with {self.psnr:.1f} dB (one flat colour for "
            f"each: {self.flat:.1f} dB)."
        )

    def warning(self, kind: str) -> str | None:
        """What to tell of a scene that a reconstructor of this kind made, or None where it shows
        its inputs well enough."""
        embedded = kind == EMBEDDED
        gained = self.psnr - self.flat >= LEAST_GAIN
        if gained and (self.psnr >= LEAST_PSNR or not embedded):
            return None
        advice = (
            "the embedded reconstructor knows scenes of a few plain shapes only; use VGGT-1B for "
            "others"
            if embedded
            else "the views must show one scene, at the same moments, from cameras that stand still"
        )
        return f"{self.report()} That is no reconstruction: {advice}."


@torch.no_grad()
def input_fidelity(
    scene: GaussianScene, frames: Tensor, device: torch.device | str | None = None
) -> Fidelity:
    """The fidelity of a scene to frames [V, T, 3, H, W] in [0, 1], those that it was made of, at up
    to 4 views of 2 times. device: where it is rendered (default: where the scene is)."""
    scene = scene.to(device) if device else scene
    views, times = (spaced_times(n, count) for n, count in zip((VIEWS, TIMES), frames.shape))
    factor = min(1.0, COMPARED / max(scene.width, scene.height))
    width, height = round(scene.width * factor), round(scene.height * factor)
    intrinsics = scale_intrinsics(scene.intrinsics, width / scene.width, height / scene.height)
    cameras = scene.extrinsics[views], intrinsics[views]
    shown = render([scene.at(t) for t in times], *cameras, width, height).color  # [T, V, h, w, 3]
    wanted = frames[views][:, times].float().cpu().flatten(0, 1)
    wanted = F.interpolate(wanted, (height, width), mode="area")
    drawn = shown.transpose(0, 1).flatten(0, 1).movedim(-1, 1).clamp(0, 1).cpu()
    flat = wanted.mean((-1, -2), keepdim=True).expand_as(wanted)
    return Fidelity(psnr(drawn, wanted), psnr(flat, wanted))
