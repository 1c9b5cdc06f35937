"""gsplat (Ye et al. 2024) for CUDA, when its compiled extension is there.

Without a compiler for it, gsplat imports well and fails at its first call, and with one it may
build for minutes; so it is probed by loading its extension, once, and only when CUDA is there.
"""

import logging
import subprocess
from functools import cache

import torch
from torch import Tensor

from fourreal.cameras import to_homogeneous
from fourreal.gaussians import Gaussians
from fourreal.rendering.harmonics import harmonic_degree
from fourreal.rendering.projection import BLUR, NEAR, View

logger = logging.getLogger(__name__)


@cache
def why_not() -> str:
    """Why gsplat cannot be used, in a few words; empty when it can. Asked once per process."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    try:
        from gsplat.cuda._backend import _C
    except (ImportError, OSError, RuntimeError, subprocess.CalledProcessError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    else:
        reason = "" if _C is not None else "its CUDA extension is not built"
    if reason:
        logger.warning(
            "gsplat is not used (%s); rendering with torch. To install it: pip install "
            "'fourreal[cuda]', with a CUDA compiler or a wheel for this torch.",
            reason.rstrip("."),
        )
    return reason


def is_available() -> bool:
    """Whether gsplat works on this machine."""
    return not why_not()


def rasterize_with_gsplat(gaussians: Gaussians, view: View) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the splats of a pixel: colour [C, H, W, 3], alpha and z-depth [C, H, W, 1].

    Neither background nor division by alpha is applied.
    """
    import gsplat

    if not len(gaussians):  # its kernels cannot be launched on nothing
        image = gaussians.means.new_zeros(len(view.extrinsics), view.height, view.width, 5)
        return image[..., :3], image[..., 3:4], image[..., 4:]
    gaussians = gaussians.map(lambda tensor: tensor.float())
    with torch.autocast("cuda", enabled=False):
        images, alpha, _ = gsplat.rasterization(
            means=gaussians.means,
            quats=gaussians.quaternions,
            scales=gaussians.scales,
            opacities=gaussians.opacities,
            colors=gaussians.harmonics,
            viewmats=to_homogeneous(view.extrinsics.float()),
            Ks=view.intrinsics.float(),
            width=view.width,
            height=view.height,
            near_plane=NEAR,
            eps2d=BLUR,
            sh_degree=harmonic_degree(gaussians.harmonics),
            render_mode="RGB+D",
            rasterize_mode="antialiased" if view.antialiased else "classic",
        )
    return images[..., :3], alpha, images[..., 3:]
