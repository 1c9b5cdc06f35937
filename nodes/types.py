"""What sockets carry: the pack's own types, grids in core's types, and inputs that nodes share.

A grid of V views and T times is an IMAGE [V*T, H, W, 3], index v*T + t, and a LATENT whose samples
are [V, C, F, h, w]. Other nodes and packs use both as they are: a batch of views.
"""

from typing import get_args

import torch
from comfy_api.latest import io
from torch import Tensor

from fourreal.gaussians import GaussianScene
from fourreal.reconstruction.options import CameraMode

GENERATE, RECONSTRUCT, RENDER, FILES = (  # places in the menu of nodes
    f"4Real/{name}" for name in ("generate", "reconstruct", "render", "files")
)

Reconstructor = io.Custom("FOURREAL_RECONSTRUCTOR")  # ComfyReconstructor of offloading.py
Scene = io.Custom("FOURREAL_SCENE")  # CachedScene
CameraPath = io.Custom("FOURREAL_CAMERA_PATH")  # fourreal.cameras.CameraPath
View = io.Custom("FOURREAL_VIEW")  # a widget: the state of the viewer (viewer_state.py)
MoGeGeometry = io.Custom("MOGE_GEOMETRY")  # core's, see geometry_info.py
DA3Geometry = io.Custom("DA3_GEOMETRY")
Extrinsics = io.Custom("EXTRINSICS")  # [V, 4, 4] world to camera, OpenCV, as other packs have it
Intrinsics = io.Custom("INTRINSICS")  # [V, 3, 3] in pixels

SCENE_TOOLTIP = "A scene of dynamic Gaussians."
VIEW_TOOLTIP = "The view, from 0."

KNOWN = "fourreal_known"  # LATENT key: boolean [V, F], the cells that are references
CONTROLLED = "fourreal_controlled"  # LATENT key: True where it belongs to Grid VACE's CONDITIONING


class CachedScene(GaussianScene, list):
    """A scene that tells ComfyUI's cache how much memory it holds.

    Core 0.28 counts the tensors that it finds in lists, so this is also the list of its tensors;
    later versions ask `_comfy_cache_tensors`.
    """

    def __post_init__(self):
        super().__post_init__()
        self.extend(self._comfy_cache_tensors())

    def _comfy_cache_tensors(self) -> list[Tensor]:
        held = [t for part in (self.static, *self.dynamic) for t in vars(part).values()]
        return held + (self.confidences or [])


def scene_input() -> Scene.Input:
    return Scene.Input("scene", tooltip=SCENE_TOOLTIP)


def scene_or_splat_input() -> io.MultiType.Input:
    return io.MultiType.Input(
        "scene", [Scene, io.Splat], tooltip="A scene, or a SPLAT whose batch is time."
    )


def reconstructor_input() -> Reconstructor.Input:
    return Reconstructor.Input("reconstructor", tooltip="The network, from its loader.")


def camera_outputs(extrinsics: str) -> list:
    """The cameras of V views; extrinsics: what their tooltip says."""
    return [
        Extrinsics.Output(display_name="EXTRINSICS", tooltip=extrinsics),
        Intrinsics.Output(display_name="INTRINSICS", tooltip="[V, 3, 3], in pixels."),
    ]


def same_scene_output() -> Scene.Output:
    return Scene.Output(display_name="SCENE", tooltip="The same scene.")


def grid_inputs() -> list:
    """An IMAGE grid and its number of views."""
    return [
        io.Image.Input("images", tooltip="A grid of V x T frames, as VAE Decode gives it."),
        io.Int.Input(
            "num_views",
            default=8,
            min=1,
            max=64,
            tooltip="Views in the grid; the batch holds all times of the first view first. Link "
            "num_views of the node that made the grid. Of images from elsewhere only a number that "
            "does not divide the batch can be told to be wrong.",
        ),
    ]


def fps_input() -> io.Float.Input:
    return io.Float.Input(
        "fps",
        default=8.0,
        min=1.0,
        max=120.0,
        step=1.0,
        tooltip="Times per second when the scene is played.",
    )


def own_fps_input(tooltip: str, advanced: bool | None = None) -> io.Float.Input:
    """The rate of what is made of a scene; 0, the default, for the scene's own."""
    return io.Float.Input(
        "fps", default=0.0, min=0.0, max=120.0, step=1.0, advanced=advanced, tooltip=tooltip
    )


def resolution_input() -> io.Int.Input:
    return io.Int.Input(
        "resolution",
        default=0,
        min=0,
        max=2072,
        advanced=True,
        tooltip="Longer side of what the network sees; 0 for the size it was trained on.",
    )


def camera_mode_input(optional: bool = False) -> io.Combo.Input:
    """Which cameras are predicted; optional where older workflows do not have it."""
    return io.Combo.Input(
        "cameras",
        options=list(get_args(CameraMode)),
        default="first",
        optional=optional,
        advanced=True,
        tooltip="Which times decide about the cameras, one per view: the first one (the method), "
        "or the mean or median over all. even: the first one, and from each camera to the next is "
        "the same step, as in views made from text.",
    )


def grid_outputs() -> list:
    """The shape of a grid, to link to the nodes that follow."""
    meanings = {
        "num_views": "The number of views V.",
        "num_frames": "The number of frames of each view, T.",
        "width": "Of each image, in pixels.",
        "height": "Of each image, in pixels.",
    }
    return [io.Int.Output(display_name=name, tooltip=text) for name, text in meanings.items()]


def known_cells(latent: dict) -> Tensor:
    """The cells of a grid LATENT that are references, boolean [V, F].

    Raises ValueError for a LATENT that is no grid.
    """
    samples = latent["samples"]
    if samples.is_nested or samples.ndim != 5:
        raise ValueError(
            "this LATENT is not a grid of views and times [V, C, F, h, w]; make it with Grid "
            "Latent."
        )
    num_views, _, num_frames = samples.shape[:3]
    known = latent.get(KNOWN)
    if known is None:
        return torch.zeros(num_views, num_frames, dtype=torch.bool)
    if known.shape != (num_views, num_frames):
        raise ValueError(
            f"this LATENT holds {num_views} views of {num_frames} latent frames, but was made with "
            f"{known.shape[0]} x {known.shape[1]}; connect the output of Grid Latent unchanged."
        )
    return known


def noise_mask_of(known: Tensor, samples: Tensor) -> Tensor:
    """A LATENT's noise_mask [V, 1, F, h, w], 1 where to generate, of known cells [V, F]."""
    unknown = (~known).float()[:, None, :, None, None]
    return unknown.expand(-1, 1, -1, *samples.shape[-2:]).clone()


def depth_image(depth: Tensor) -> Tensor:
    """Depth [N, H, W] (0 = nothing there) as an IMAGE [N, H, W, 3]: near white, far dark grey.

    Linear in 1 / depth between the nearest and farthest two per cent, the same for all images.
    """
    there = depth > 0
    if not there.any():
        return torch.zeros(*depth.shape, 3)
    nearness = torch.where(there, 1 / depth.clamp_min(1e-6), 0)
    known = nearness[there]
    known = known[:: max(1, known.numel() // 1_000_000)]  # torch.quantile has a limit
    far, near = known.float().quantile(torch.tensor([0.02, 0.98], device=known.device))
    grey = 0.1 + 0.9 * ((nearness - far) / (near - far).clamp_min(1e-6)).clamp(0, 1)
    return torch.where(there, grey, 0)[..., None].expand(-1, -1, -1, 3).contiguous()


def fitted(images: Tensor, count: int | None, height: int, width: int) -> Tensor:
    """The first `count` images [N, H, W, 3], or all, at a size, cropped at their middle."""
    from fourreal.files.media import fit_frames

    if images.shape[1:3] == (height, width):
        return images[:count]
    frames = images[:count, ..., :3].movedim(-1, 1)
    return fit_frames(frames, len(frames), height, width).movedim(1, -1).clamp(0, 1)


def image_frames(images: Tensor) -> Tensor:
    """Frames [N, 3, H, W], float32 on the CPU, of images [N, H, W, 3 or 4]."""
    return images[..., :3].movedim(-1, 1).float().cpu()
