"""Progress bars, previews beside them, and cancel."""

import logging
from collections.abc import Callable

import comfy.model_management
import comfy.utils
import torch
from PIL import Image
from torch import Tensor

PREVIEW_SIZE = 512  # pixels of the longer side


def tell_node(text: str, node_id: str | None, level: int = logging.WARNING) -> None:
    """Show a sentence on a node that works, and in the terminal."""
    from server import PromptServer

    logging.log(level, "%s", text)
    server = getattr(PromptServer, "instance", None)  # none where a graph runs without a server
    if node_id and server:
        server.send_progress_text(text, node_id)


def progress_reporter(
    total: int, preview: Callable[[int], Tensor] | None = None
) -> Callable[[int, int], None]:
    """progress(done, total) for the library's long work: moves the bar, stops on cancel.

    preview(done) gives an image [3, H, W] in [0, 1] to show beside the bar.
    """
    from fourreal.files.media import to_uint8

    bar = comfy.utils.ProgressBar(total)

    def progress(done: int, of: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        shown = None
        if preview is not None:
            shown = ("JPEG", Image.fromarray(to_uint8(preview(done))), PREVIEW_SIZE)
        bar.update_absolute(done, of, shown)

    return progress


def sampler_callback(
    model, bar: "comfy.utils.ProgressBar", first_step: int = 0
) -> Callable[..., None]:
    """A sampler's callback that moves the bar and shows the whole grid; the sampler itself stops
    on cancel. first_step: the steps that earlier stages have taken."""

    def callback(step: int, denoised: Tensor, *_) -> None:
        image = latent_preview(denoised, model.get_model_object("latent_format"))
        preview = ("JPEG", image, PREVIEW_SIZE) if image else None
        bar.update_absolute(first_step + step + 1, None, preview)

    return callback


def latent_preview(latents: Tensor, latent_format) -> Image.Image | None:
    """Views down, times across, in approximate colours, of latents [V, C, F, h, w]."""
    first = latent_format.latent_rgb_factors
    if first is None:
        return None
    bias = latent_format.latent_rgb_factors_bias or [0.0, 0.0, 0.0]
    # The embedded autoencoder codes the first latent frame by other components than the rest.
    rest, rest_bias = getattr(latent_format, "later_rgb_factors", (first, bias))
    latents = latents.float().cpu()
    parts = [
        torch.einsum("vcfhw,ck->vhfwk", part, torch.tensor(factors)) + torch.tensor(offset)
        for part, factors, offset in (
            (latents[:, :, :1], first, bias),
            (latents[:, :, 1:], rest, rest_bias),
        )
    ]
    sheet = torch.cat(parts, dim=2).flatten(2, 3).flatten(0, 1)  # [V*h, F*w, 3]
    pixels = ((sheet + 1) * 127.5).clamp(0, 255).to(torch.uint8).numpy()
    image = Image.fromarray(pixels)
    factor = max(1, PREVIEW_SIZE // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
