"""Grid VACE: a grid with holes as what a Wan VACE model is shown."""

import comfy.latent_formats
import comfy.model_management
import node_helpers
import torch
from comfy_api.latest import io
from torch import Tensor

from fourreal.grid import check_size, frames_to_images, images_to_frames, num_latent_frames
from fourreal.video.conditioning import known_and_missing, letterbox, mask_channels

from . import types
from .grid_shape import HIDDEN, frames_of_grid

CHANNELS, STRIDE = 16, 8  # of the Wan 2.1 VAE, the one of VACE, and the embedded one


def check_vace_inputs(vae, images: Tensor, mask: Tensor, num_views: int) -> None:
    """Raise ValueError where a VAE, an IMAGE grid and a MASK grid cannot be shown to VACE."""
    if vae.latent_dim != 3 or vae.latent_channels != CHANNELS:
        what = "is for images" if vae.latent_dim != 3 else f"has {vae.latent_channels} channels"
        raise ValueError(
            f"this VAE {what}, but Wan VACE models need the Wan 2.1 VAE, which is for videos and "
            f"has {CHANNELS} channels; load wan_2.1_vae.safetensors."
        )
    count, height, width = images.shape[:3]
    if tuple(mask.shape) != (count, height, width):
        given = " x ".join(map(str, mask.shape))
        raise ValueError(
            f"the mask is {given}, but the {count} images of {width} x {height} pixels need one of "
            f"{count} x {height} x {width}; connect the MASK of the same grid."
        )
    check_size(height, width, 2 * STRIDE)
    num_latent_frames(images_to_frames(images, num_views).shape[1])
    if not (torch.isfinite(images).all() and torch.isfinite(mask).all()):
        raise ValueError("the images or the mask hold NaN or infinity; give pixels from 0 to 1.")


def with_column(frames: Tensor, mask: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """frames [V, T, 3, H, W] and mask [V, T, 1, H, W] with the first time known in all views.

    images [N, H, W, 3] are the views, or a clip through them, of which evenly spaced ones are kept.
    Raises ValueError for another number or size of images.
    """
    num_views = len(frames)
    steps, rest = divmod(len(images) - 1, num_views - 1) if num_views > 1 else (1, len(images) - 1)
    if rest or steps < 1 or tuple(images.shape[1:3]) != tuple(frames.shape[-2:]):
        given = f"{len(images)} images of {images.shape[2]} x {images.shape[1]} pixels"
        raise ValueError(
            f"freeze_time has {given}, but needs {num_views} views of {frames.shape[-1]} x "
            f"{frames.shape[-2]}, or a clip through them of n x {num_views - 1} + 1 images."
        )
    frames, mask = frames.clone(), mask.clone()
    frames[:, 0], mask[:, 0] = images[::steps, ..., :3].movedim(-1, 1), 0
    return frames, mask


def vace_frames(vae, frames: Tensor, mask: Tensor, reference: Tensor | None) -> Tensor:
    """Latents [V, 32, R + F, h, w] of the known pixels of frames [V, T, 3, H, W] and of the missing
    ones (mask [V, T, 1, H, W]), as the VAE gives them, with a reference image [3, h, w] first."""
    from .embedded_models import EmbeddedVAE

    latents = []
    for part in known_and_missing(frames, mask):
        for view in part:
            comfy.model_management.throw_exception_if_processing_interrupted()
            latents.append(vae.encode(frames_to_images(view[None])))
    shown = torch.cat([torch.cat(latents[: len(frames)]), torch.cat(latents[len(frames) :])], dim=1)
    if reference is None:
        return shown
    image = letterbox(reference, *frames.shape[-2:])
    encoded = vae.encode(image.movedim(0, -1)[None])
    nothing = torch.zeros_like(encoded)  # to the network, which gets latents normalised
    if not isinstance(vae, EmbeddedVAE):
        nothing = comfy.latent_formats.Wan21().process_out(nothing)
    first = torch.cat([encoded, nothing], dim=1).expand(len(frames), -1, -1, -1, -1)
    return torch.cat([first, shown], dim=2)


class GridVACE(io.ComfyNode):
    """White in the mask is generated, black is known. The known pixels come out nearly as they
    were; Paste Known puts back the exact ones.

    The LATENT goes to Apply View-Time Attention and to a sampler, or to View-Time Sampler, with a
    Wan VACE model. A **reference_image** (what something looks like) takes one latent frame more in
    each view: cut it off after sampling with *TrimVideoLatent* and **trim_latent**. Several of
    these nodes after one another show several videos.

    Video models know a camera that moves through a still moment. So the first time can be made
    before the rest, as one clip: warp the first time to 4 (V - 1) + 1 cameras on the same arc, give
    these images here with num_views 1, sample, and connect the decoded clip to **freeze_time** of
    the Grid VACE of all views, which keeps every fourth image.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_GridVACE",
            display_name="Grid VACE",
            category=types.GENERATE,
            description="Shows a grid of frames with holes to a Wan VACE model, which fills the "
            "holes: the views of a scene that are known in part.",
            search_aliases=["vace", "inpaint grid", "fill holes"],
            hidden=HIDDEN,
            inputs=[
                io.Conditioning.Input("positive", tooltip="What the scene shows."),
                io.Conditioning.Input("negative", tooltip="What it should not show."),
                io.Vae.Input("vae", tooltip="The Wan 2.1 VAE, or the embedded one."),
                *types.grid_inputs(),
                io.Mask.Input("mask", tooltip="A mask of each image: white is to be generated."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="How much the model follows what it is shown; 1 is what it has learnt.",
                ),
                io.Image.Input(
                    "reference_image",
                    optional=True,
                    tooltip="What something in the scene looks like; it is not a frame of it.",
                ),
                io.Image.Input(
                    "freeze_time",
                    optional=True,
                    tooltip="All views of the first time, made before: one image per view, or a "
                    "clip through the views.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="With what is shown."),
                io.Conditioning.Output(display_name="negative", tooltip="With what is shown."),
                io.Latent.Output(tooltip="The empty grid [V, C, F, h, w] to generate."),
                io.Int.Output(
                    display_name="trim_latent",
                    tooltip="Latent frames to cut off: 1 with a reference image, else 0.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: list,
        negative: list,
        vae,
        images: Tensor,
        num_views: int,
        mask: Tensor,
        strength: float,
        reference_image: Tensor | None = None,
        freeze_time: Tensor | None = None,
    ) -> io.NodeOutput:
        frames = frames_of_grid(images, num_views, cls.hidden)
        check_vace_inputs(vae, images, mask, num_views)
        mask = mask.unflatten(0, frames.shape[:2])[:, :, None]
        if freeze_time is not None:
            frames, mask = with_column(frames, mask, freeze_time)
        first = None if reference_image is None else reference_image[0, ..., :3].movedim(-1, 0)
        shown = vace_frames(vae, frames, mask, first)
        masks = mask_channels(mask, STRIDE)
        before = masks.new_zeros(*masks.shape[:2], int(first is not None), *masks.shape[3:])
        values = {
            "vace_frames": [shown],
            "vace_mask": [torch.cat([before, masks], dim=2)],
            "vace_strength": [strength],
        }
        texts = (
            node_helpers.conditioning_set_values(text, values, append=True)
            for text in (positive, negative)
        )
        samples = torch.zeros(len(shown), CHANNELS, *shown.shape[2:])
        latent = {"samples": samples, types.CONTROLLED: True}
        return io.NodeOutput(*texts, latent, before.shape[2])
