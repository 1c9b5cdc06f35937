"""What a call of the pipeline asks for: texts, and a grid with its references and windows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fourreal.grid import TEMPORAL_STRIDE, check_shared_cell, check_size, num_latent_frames


@dataclass(frozen=True)
class TextRequest:
    """Prompts, or in their place what encode_prompt makes of them, embeddings [1, L, D].

    The negative ones are needed where a call is guided.
    """

    prompt: str | None
    negative_prompt: str | None
    prompt_embeds: Tensor | None
    negative_prompt_embeds: Tensor | None
    guided: bool

    def check(self, width: int, has_encoder: bool) -> None:
        """Raise ValueError, in one sentence, for what a model that reads embeddings of `width`
        numbers cannot use, or not without a text encoder."""
        if (self.prompt is None) == (self.prompt_embeds is None):
            raise ValueError("give either prompt or prompt_embeds, to which it would be encoded.")
        if self.prompt is not None and not self.prompt.strip():
            raise ValueError("the prompt is empty; say what the scene shows and how it moves.")
        needed = {"prompt_embeds": self.prompt_embeds}
        if self.guided:
            needed["negative_prompt_embeds"] = self.negative_prompt_embeds
        missing = [name for name, given in needed.items() if given is None]
        if missing and not has_encoder:
            raise ValueError(
                f"this pipeline has no text encoder, so it needs {' and '.join(missing)}."
            )
        for name, given in needed.items():
            if given is not None and (given.ndim != 3 or given.shape[::2] != (1, width)):
                raise ValueError(
                    f"{name} has shape {tuple(given.shape)}, but this model reads text embeddings "
                    f"[1, L, {width}]; give those of encode_prompt."
                )


@dataclass(frozen=True)
class GridLimits:
    """What a model can make: pixels of height and width come in multiples of size_multiple, it was
    made for max_frames latent frames (T_max) and has max_positions temporal positions. vace:
    whether it is a VACE model, which can be shown a video with a mask."""

    size_multiple: int
    max_frames: int
    max_positions: int
    vace: bool = False


@dataclass(frozen=True)
class GridRequest:
    """A grid of num_views x num_frames frames and what is known of it, as in the pipeline's call.

    fixed_view [T, 3, H, W], freeze_time [V, 3, H, W], image [3, H, W] and video [V, T, 3, H, W] are
    in [0, 1]. mask [V, T, 1, H, W] is 1 where the video is to be generated; without it all of it
    is. reference_images, each [3, h, w] of any size, take one latent frame more each.
    window_frames and window_overlap are in pixel frames.
    """

    num_views: int
    num_frames: int
    height: int
    width: int
    fixed_view: Tensor | None = None
    freeze_time: Tensor | None = None
    image: Tensor | None = None
    window_frames: int | None = None
    window_overlap: int = 1
    video: Tensor | None = None
    mask: Tensor | None = None
    reference_images: tuple[Tensor, ...] = ()

    @property
    def has_both_references(self) -> bool:
        return self.fixed_view is not None and self.freeze_time is not None

    def window_length(self, max_frames: int) -> int:
        """Latent frames of a window, at most, of a model made for max_frames."""
        if self.window_frames:
            return num_latent_frames(self.window_frames)
        return max_frames - len(self.reference_images)

    def check(self, limits: GridLimits) -> None:
        """Raise ValueError, in one sentence, for a grid that a model cannot make."""
        if self.num_views < 1:
            raise ValueError(f"num_views is {self.num_views}, but at least one view is needed.")
        check_size(self.height, self.width, limits.size_multiple)
        num_latent_frames(self.num_frames)
        window = self.window_length(limits.max_frames)
        longest = limits.max_frames - len(self.reference_images)
        if longest < 1:
            raise ValueError(
                f"there are {len(self.reference_images)} reference images, but this model was made "
                f"for {limits.max_frames} latent frames, one of them for each; give fewer."
            )
        if window > longest:
            raise ValueError(
                f"window_frames is {self.window_frames}, but this model was made for at most "
                f"{TEMPORAL_STRIDE * (longest - 1) + 1} frames at a time."
            )
        if num_latent_frames(self.window_overlap) >= window:
            raise ValueError(
                f"window_overlap is {self.window_overlap}, but must be shorter than a window of "
                f"{TEMPORAL_STRIDE * (window - 1) + 1} frames."
            )
        if self.num_views * limits.max_frames > limits.max_positions:
            raise ValueError(
                f"num_views is {self.num_views}, but this model has positions for at most "
                f"{limits.max_positions // limits.max_frames} views."
            )
        self._check_vace(limits.vace)
        self._check_references()

    def _check_vace(self, vace: bool) -> None:
        """Raise ValueError for what only a VACE model can be shown, and a mask without a video."""
        given = {"video": self.video, "mask": self.mask}
        names = [name for name, value in given.items() if value is not None]
        names += ["reference_images"] if self.reference_images else []
        if names and not vace:
            raise ValueError(
                f"{' and '.join(names)} can be shown to a VACE transformer only, which this is "
                "not; load one of VACE, or use fixed_view, freeze_time or image."
            )
        if self.mask is not None and self.video is None:
            raise ValueError("mask says which pixels of video to generate; give video too.")
        for image in self.reference_images:
            if image.ndim != 3 or image.shape[0] != 3 or not torch.isfinite(image).all():
                raise ValueError(
                    f"a reference image has shape {tuple(image.shape)} or NaN, but [3, h, w] of "
                    "finite pixels in [0, 1] is needed."
                )

    def _check_references(self) -> None:
        """Raise ValueError for references that the grid cannot hold."""
        frame = (3, self.height, self.width)
        grid = (self.num_views, self.num_frames)
        for name, given, shape in (
            ("fixed_view", self.fixed_view, (self.num_frames, *frame)),
            ("freeze_time", self.freeze_time, (self.num_views, *frame)),
            ("image", self.image, frame),
            ("video", self.video, (*grid, *frame)),
            ("mask", self.mask, (*grid, 1, *frame[1:])),
        ):
            if given is None:
                continue
            if given.shape != shape:
                raise ValueError(
                    f"{name} has shape {tuple(given.shape)}, but {shape} is needed, as the grid "
                    "has; resize it or change the grid."
                )
            if not torch.isfinite(given).all():
                raise ValueError(f"{name} holds NaN or infinite values; give pixels in [0, 1].")
        if self.fixed_view is not None and self.freeze_time is not None:
            check_shared_cell(self.fixed_view, self.freeze_time)
        if self.image is not None and (self.fixed_view is not None or self.freeze_time is not None):
            raise ValueError(
                "image is the grid's first cell, which fixed_view and freeze_time hold already; "
                "give either image or those."
            )
