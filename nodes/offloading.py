"""The reconstructor under ComfyUI's memory management: its weights come to the device and leave it.

ComfyUI moves what a ModelPatcher holds, and can leave a part of it in main memory, but only layers
of its own classes (comfy.ops).
"""

import os

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor, nn

from fourreal.reconstruction import Reconstruction, Reconstructor, Tracks
from fourreal.reconstruction.tracking import SEQUENCE


def make_offloadable(module: nn.Module) -> None:
    """Give leaf layers ComfyUI's classes in place, so that their weights may stay off the device.

    The numbers are the same; comfy.ops moves a layer's weights when it runs.
    """
    kinds = ("Linear", "Conv2d", "ConvTranspose2d", "LayerNorm")
    classes = {getattr(nn, kind): getattr(comfy.ops.disable_weight_init, kind) for kind in kinds}
    for part in module.modules():
        if type(part) in classes:
            part.__class__ = classes[type(part)]


def load_reconstructor(path: str | os.PathLike, dtype: torch.dtype) -> "ComfyReconstructor":
    """A reconstructor from a file of any of the known kinds; dtype of its transformer.

    It is loaded to where ComfyUI keeps what is not at work. Raises ValueError as
    Reconstructor.from_file does.
    """
    device = comfy.model_management.unet_offload_device()
    return ComfyReconstructor(Reconstructor.from_file(path, device=device, dtype=dtype))


class ComfyReconstructor:
    """A Reconstructor, of whatever file, whose weights ComfyUI moves to the device and back."""

    def __init__(self, reconstructor: Reconstructor):
        self.reconstructor = reconstructor
        if reconstructor.track_head is not None:
            # The reconstructor itself moves it, to track; else it would lie on the device for
            # nothing.
            del reconstructor.model.track_head
        make_offloadable(reconstructor.model)
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            reconstructor.model,
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.unet_offload_device(),
        )

    @property
    def license_note(self) -> str:
        return self.reconstructor.license_note

    def __call__(self, frames: Tensor, **options) -> Reconstruction:
        """As Reconstructor, after ComfyUI has made room on the device."""
        self.load(self.memory_required(frames, options.get("resolution"), options.get("window")))
        return self.reconstructor(frames, **options)

    def track(self, frames: Tensor, points: Tensor, *place: int, **options) -> Tracks:
        """As Reconstructor.track, after ComfyUI has made room on the device."""
        head = self.reconstructor.track_head
        if head is not None:
            sequence = frames.flatten(0, 1)[: 1 + SEQUENCE]
            needed = self.memory_required(sequence, options.get("resolution"), None)
            self.load(needed + sum(weight.nbytes for weight in head.parameters()))
        return self.reconstructor.track(frames, points, *place, **options)

    def load(self, needed: int) -> None:
        """Bring the network to the device, beside so many bytes of room for its work."""
        comfy.model_management.load_models_gpu([self.patcher], memory_required=needed)
        # Single parameters (tokens, LayerScale) belong to no layer that ComfyUI can offload.
        for part in self.reconstructor.model.modules():
            if not hasattr(part, "comfy_cast_weights"):
                for parameter in part.parameters(recurse=False):
                    parameter.data = parameter.data.to(self.patcher.load_device)

    def memory_required(self, frames: Tensor, resolution: int | None, window: int | None) -> int:
        """Bytes that activations of one run need: tokens of a window, and one pass of a head."""
        config = self.reconstructor.model.config
        height, width = frames.shape[-2:]
        scale = (resolution or config.img_size) / max(height, width)
        pixels = round(height * scale) * round(width * scale)
        tokens = len(frames) * (window or 1) * (pixels // config.patch_size**2 + 5)
        # In float32: about 32 rows of the width (kept levels, queries, keys, values, the MLP);
        # about 4 maps of the decoder's features for every frame of a pass.
        rows = tokens * config.embed_dim * 32 * 4
        maps = min(len(frames) * (window or 1), 8) * pixels * config.dpt_features * 4 * 4
        return rows + maps
