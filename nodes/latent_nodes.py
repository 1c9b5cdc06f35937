"""What the sampler starts from: the text, and the empty grid with its references."""

import comfy.model_management
import torch
from comfy_api.latest import io
from torch import Tensor

from fourreal.grid import check_shared_cell, check_size, num_latent_frames, reference_mask

from . import types
from .progress import tell_node

DEFAULT_PROMPT = "a red ball orbiting on a marbled floor"
EMPTY_PROMPT = "the prompt is empty; say what the scene shows and how it moves."
WAN_CHANNELS, WAN_STRIDE = 16, 8  # of an empty latent; ComfyUI fits it to the MODEL


class TextEncode(io.ComfyNode):
    """Two stock CLIP Text Encode nodes do the same."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_TextEncode",
            display_name="4Real Text Encode",
            category=types.GENERATE,
            description="Encodes a prompt and a negative prompt at once.",
            search_aliases=["prompt", "clip text encode"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder that belongs to the MODEL."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    default=DEFAULT_PROMPT,
                    tooltip="What the scene shows and how it moves.",
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    tooltip="What the scene should not show; may be empty.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The prompt."),
                io.Conditioning.Output(display_name="negative", tooltip="The negative prompt."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, prompt: str | None) -> bool | str:
        return EMPTY_PROMPT if prompt is not None and not prompt.strip() else True

    @classmethod
    def execute(cls, clip, prompt: str, negative: str) -> io.NodeOutput:
        if not prompt.strip():
            raise ValueError(EMPTY_PROMPT)
        if clip is None:
            raise ValueError("the CLIP input is empty; connect the text encoder of the MODEL.")
        told = getattr(clip.tokenizer, "words_warning", lambda _: None)(prompt)
        if told:
            tell_node(told, cls.hidden.unique_id)
        return io.NodeOutput(
            *(clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (prompt, negative))
        )


def check_reference(
    name: str, images: Tensor | None, count: int, meaning: str, height: int, width: int
) -> None:
    """Raise ValueError unless images [count, height, width, 3] are given, or none."""
    if images is not None and tuple(images.shape[:3]) != (count, height, width):
        given, given_height, given_width = images.shape[:3]
        raise ValueError(
            f"{name} has {given} images of {given_width} x {given_height} pixels, but this grid "
            f"needs {count} {meaning} of {width} x {height}; resize it or change the grid."
        )


def grid_latent(
    vae,
    fixed_view: Tensor | None,
    freeze_time: Tensor | None,
    num_views: int,
    num_frames: int,
    width: int,
    height: int,
) -> dict:
    """A grid LATENT: samples [V, C, F, h, w], zeros but for the references' latents.

    fixed_view [T, H, W, 3] is the first view, freeze_time [V, H, W, 3] the first time. Each view is
    encoded on its own. With references the dict also has `noise_mask` [V, 1, F, h, w] (0 where
    known) and `fourreal_known` [V, F]. Raises ValueError for sizes or references that do not fit.
    """
    frames = num_latent_frames(num_frames)
    if vae is not None and vae.latent_dim != 3:
        raise ValueError(
            "this VAE is for images, but a grid needs the video VAE of a Wan model; connect the "
            "VAE that belongs to the MODEL."
        )
    stride = vae.spacial_compression_encode() if vae is not None else WAN_STRIDE
    check_size(height, width, 2 * stride)
    check_reference("fixed_view", fixed_view, num_frames, "frames", height, width)
    check_reference("freeze_time", freeze_time, num_views, "views", height, width)
    if fixed_view is not None and freeze_time is not None:
        check_shared_cell(*(given[..., :3].movedim(-1, 1) for given in (fixed_view, freeze_time)))
    known = reference_mask(num_views, frames, fixed_view is not None, int(freeze_time is not None))
    if vae is None and known.any():
        raise ValueError("references need a VAE to be encoded; connect the VAE of the MODEL.")
    channels = vae.latent_channels if vae is not None else WAN_CHANNELS
    samples = torch.zeros(num_views, channels, frames, height // stride, width // stride)
    if freeze_time is not None:
        # Latent frame 0 is exactly one pixel frame, so each view is a one-frame video.
        for view in range(num_views):
            comfy.model_management.throw_exception_if_processing_interrupted()
            samples[view, :, :1] = vae.encode(freeze_time[view : view + 1, ..., :3])[0]
    if fixed_view is not None:
        samples[:1] = vae.encode(fixed_view[..., :3])
    latent = {"samples": samples, types.KNOWN: known}
    if known.any():
        latent["noise_mask"] = types.noise_mask_of(known, samples)
    else:
        latent["downscale_ratio_spacial"] = stride
    return latent


class GridLatent(io.ComfyNode):
    """The LATENT is `[views, channels, frames, height, width]`, one view after the other. T frames
    become (T - 1) / 4 + 1 latent frames.

    - **fixed_view** is a video of the first view: `num_frames` images.
    - **freeze_time** is all views of the first moment: `num_views` images.

    Both are fitted to the grid; link *num_views* and *num_frames* to the nodes that follow, so that
    all have the same.

    Each needs the VAE of the model. What is known is kept by the sampler, what is not is generated.
    Connect the output unchanged to Apply View-Time Attention and to the sampler.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FourReal_GridLatent",
            display_name="Grid Latent",
            category=types.GENERATE,
            description="The empty grid of views and times to generate, with the parts that are "
            "already known: a video of the first view, and all views of the first time.",
            search_aliases=["empty latent", "4d latent", "multi-view latent"],
            inputs=[
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="The VAE of the MODEL. Only needed with references.",
                ),
                io.Image.Input(
                    "fixed_view",
                    optional=True,
                    tooltip="The video of the first view: as many images as the grid has frames.",
                ),
                io.Image.Input(
                    "freeze_time",
                    optional=True,
                    tooltip="All views of the first time: one image per view, first view first.",
                ),
                io.Int.Input(
                    "num_views",
                    default=8,
                    min=1,
                    max=64,
                    tooltip="Cameras, seen side by side. The embedded models were made for 8.",
                ),
                io.Int.Input(
                    "num_frames",
                    default=29,
                    min=1,
                    max=121,
                    step=4,
                    tooltip="Frames of each view, 4k + 1. The embedded models were made for 29.",
                ),
                *(
                    io.Int.Input(
                        name,
                        default=64,
                        min=16,
                        max=4096,
                        step=16,
                        tooltip="Pixels, a multiple of 16 (32 for Wan 2.2 5B). The embedded models "
                        "were made for 64.",
                    )
                    for name in ("width", "height")
                ),
                io.Boolean.Input(
                    "fit_references",
                    default=True,
                    optional=True,
                    advanced=True,
                    tooltip="Resizes references to the grid's size, cropped at their middle, and "
                    "leaves surplus frames of fixed_view out. Off: what does not fit is refused.",
                ),
            ],
            outputs=[
                io.Latent.Output(tooltip="The grid [V, C, F, h, w], one view after the other."),
                *types.grid_outputs(),
            ],
        )

    @classmethod
    def validate_inputs(cls, num_frames: int | None) -> bool | str:
        """Before anything runs, where it is not linked. ComfyUI shows the answer once per name."""
        try:
            num_latent_frames(1 if num_frames is None else num_frames)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        num_views: int,
        num_frames: int,
        width: int,
        height: int,
        vae=None,
        fixed_view: Tensor | None = None,
        freeze_time: Tensor | None = None,
        fit_references: bool = True,
    ) -> io.NodeOutput:
        if fit_references:
            size = height, width
            fixed_view = None if fixed_view is None else types.fitted(fixed_view, num_frames, *size)
            # Surplus photos are not left out: then the number of views is wrong.
            freeze_time = None if freeze_time is None else types.fitted(freeze_time, None, *size)
        shape = num_views, num_frames, width, height
        return io.NodeOutput(grid_latent(vae, fixed_view, freeze_time, *shape), *shape)
