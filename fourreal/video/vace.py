"""Wan VACE: a video is shown to the network where it is known, and generated where a mask is 1.

The network's control has, as in diffusers and ComfyUI, the latents of the video with the missing
pixels grey, those of the missing pixels alone, and the mask. Every cell of the grid is generated at
one noise level; nothing of the latents is kept.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformer3DModel
from einops import rearrange
from torch import Tensor

from fourreal.grid import TEMPORAL_STRIDE
from fourreal.video.architectures import WanTransformer
from fourreal.video.conditioning import GREY, known_and_missing, letterbox, mask_channels
from fourreal.video.denoising import Sampler, denoise
from fourreal.video.latents import Vae, decode_view, encode_views
from fourreal.video.request import GridRequest
from fourreal.video.windows import Window

if TYPE_CHECKING:
    from fourreal.video.pipeline import ViewTimePipeline


def vace_control(
    vae: Vae,
    video: Tensor,
    mask: Tensor,
    references: Sequence[Tensor] = (),
    device: torch.device | None = None,
) -> Tensor:
    """What a VACE transformer is shown, [V, 2C + s*s, R + F, h, w], float32, as in diffusers'
    WanVACEPipeline.

    video [V, T, 3, H, W] is in [0, 1], mask [V, T, 1, H, W] is 1 where it is to be generated (for
    the pixels, above 0.5). The channels are C latents of the known pixels, C of the missing ones,
    and the mask (mask_channels). references are R images [3, h, w] in [0, 1] of any size, which
    come first, in every view. The autoencoder runs on device, its own by default.
    """
    device = device or vae.device
    latents = [encode_views(vae, part, device) for part in known_and_missing(video, mask)]
    masks = mask_channels(mask.float(), vae.config["scale_factor_spatial"])
    control = torch.cat([*latents, masks.to(latents[0])], dim=1)
    if not references:
        return control
    images = torch.stack([letterbox(image, *video.shape[-2:]) for image in references])
    encoded = rearrange(encode_views(vae, images[:, None], device), "r c 1 h w -> 1 c r h w")
    before = control.new_zeros(len(video), control.shape[1], *encoded.shape[2:])
    before[:, : encoded.shape[1]] = encoded
    return torch.cat([before, control], dim=2)


def control_scales(
    transformer: WanTransformer, scale: float | Sequence[float] | Tensor
) -> Tensor | None:
    """The weight of the hints of each VACE layer, one for all or one for each; None without any.

    Raises ValueError for another number of them.
    """
    if not isinstance(transformer, WanVACETransformer3DModel):
        return None
    layers = len(transformer.config["vace_layers"])
    scales = torch.as_tensor(scale, dtype=torch.float32)
    if scales.ndim > 1 or scales.numel() not in (1, layers):
        raise ValueError(
            f"conditioning_scale has {scales.numel()} numbers, but this transformer has {layers} "
            "VACE layers; give one number, or one for each layer."
        )
    return scales.expand(layers)


def known_pixels(
    request: GridRequest, window: Window, columns: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What is known of a window: video [V, T, 3, H, W], grey elsewhere, and mask [V, T, 1, H, W].

    columns [V, n, 3, H, W] are the window's first n pixel frames. References of the request go
    before its video.
    """
    begin, end = window.first_frame, window.end_frame
    size = request.num_views, end - begin
    if request.video is None:
        video = torch.full((*size, 3, request.height, request.width), GREY)
    else:
        video = request.video[:, begin:end].float().cpu().clone()
    if request.mask is None:
        mask = torch.ones(*size, 1, request.height, request.width)
    else:
        mask = request.mask[:, begin:end].float().cpu().clone()

    def show(views: slice, times: slice, pixels: Tensor) -> None:
        video[views, times], mask[views, times] = pixels.to(video), 0

    if columns is not None:
        show(slice(None), slice(columns.shape[1]), columns)
    if request.image is not None and window.start == 0:
        show(slice(1), slice(1), request.image)
    if request.fixed_view is not None:
        show(slice(1), slice(None), request.fixed_view[begin:end])
    return video, mask


def sample_vace_window(
    pipeline: "ViewTimePipeline",
    sampler: Sampler,
    request: GridRequest,
    window: Window,
    columns: Tensor | None,
    noise: Tensor,
    first_step: int,
) -> Tensor:
    """Latents [V, C, F, h, w] of a window, of noise [V, C, R + F, h, w] with R reference images.

    Stage by stage: what one has made is decoded, and is known to the next. columns are those of
    known_pixels; first_step is the number of the window's first step, which callbacks see.
    """
    video, mask = known_pixels(request, window, columns)
    before = len(request.reference_images)
    latents = noise
    for stage, (v, f) in enumerate(window.stages):
        t = TEMPORAL_STRIDE * (f - 1) + 1
        images, device = request.reference_images, pipeline._execution_device
        control = vace_control(pipeline.vae, video[:v, :t], mask[:v, :t], images, device)
        part = noise[:v, :, : before + f]
        nothing = torch.zeros_like(part), torch.zeros(v, before + f, dtype=torch.bool)
        step = first_step + stage * sampler.num_inference_steps
        scale = sampler.guidance_scale  # no public VACE has learnt what both references say
        latents = denoise(pipeline, sampler, part, *nothing, scale, step, control)[:, :, before:]
        if stage + 1 < len(window.stages):
            made = torch.stack([decode_view(pipeline.vae, view) for view in latents])
            video[:v, :t] = torch.where(mask[:v, :t] > 0.5, made, video[:v, :t])
            mask[:v, :t] = 0
    return latents
