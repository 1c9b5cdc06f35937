"""What a score must not mistake for the real thing: exact grids blurred, a still picture in every
cell, and what costs no video model.

Each table has these rows beside the model's, and keeps only scores that put them in their order.
"""

from functools import cache

import torch
from torch import Tensor

from fourreal.evaluation.prompt_score import objects_of
from fourreal.neighborhoods import blurred
from fourreal.scenes import describe_scenes, make_scene, scene_seed
from fourreal.scenes.describe import COLORS

TRAINING_SCENES = 27000  # that the embedded video model saw: the first of the training seeds
BLURS = (1.0, 2.0)  # pixels
SQUARE = 12  # of a frame's height go into the side of a square


def blurred_rows(frames: Tensor, blurs: tuple[float, ...] = BLURS) -> dict[str, Tensor]:
    """The rows of frames [..., H, W] blurred by so many pixels."""
    return {f"exact_blurred_{sigma:g}": blurred(frames, sigma) for sigma in blurs}


def still_copy(frames: Tensor) -> Tensor:
    """The first cell of a grid [V, T, 3, H, W] in all cells."""
    return frames[:1, :1].expand_as(frames)


def mean_image(frames: Tensor) -> Tensor:
    """The mean of all cells of a grid [V, T, 3, H, W] in all cells."""
    return frames.mean((0, 1), keepdim=True).expand_as(frames)


def exact_and_rivals(frames: Tensor) -> dict[str, Tensor]:
    """The rows that every table has: an exact grid [V, T, 3, H, W], blurred, its first cell in all
    cells, and its first view in all views."""
    rows = {"still_copy": still_copy(frames), "one_view": frames[:1].expand_as(frames)}
    return {"exact": frames, **blurred_rows(frames), **rows}


def colored_squares(prompt: str, frames: Tensor) -> Tensor:
    """Still squares of the colours that a prompt names on grey, of the size of a grid `frames`."""
    squares = torch.full_like(frames[:1, :1], 0.5)
    height, width = frames.shape[-2:]
    side = height // SQUARE
    for index, color in enumerate(named.color for named in objects_of(prompt)):
        left = (index + 1) * width // 5
        place = squares[..., height // 2 : height // 2 + side, left : left + side]
        place.copy_(torch.tensor(COLORS[color]).view(3, 1, 1).expand_as(place))
    return squares.expand_as(frames)


@cache
def training_captions() -> tuple[str, ...]:
    """The captions of the scenes that the embedded video model was trained on."""
    return tuple(scene.caption for scene in describe_scenes("train", range(TRAINING_SCENES), 1, 1))


@cache
def training_objects() -> frozenset:
    """The sets of objects that training scenes showed together."""
    return frozenset(frozenset(objects_of(caption)) for caption in training_captions())


def is_new(prompt: str) -> bool:
    """Whether no training scene has exactly a prompt's objects: colours, shapes and motions."""
    return frozenset(objects_of(prompt)) not in training_objects()


def nearest_training_grid(prompt: str, frames: Tensor) -> Tensor:
    """The exact grid, of the size of `frames`, of the training scene whose caption is nearest to a
    prompt: that has most of its objects, then most of their colours, shapes and motions, and no
    others. The best that costs no video model."""
    wanted = objects_of(prompt)

    def nearness(caption: str) -> tuple[int, int, int]:
        found = objects_of(caption)
        alike = sum(
            max((len(set(a.words) & set(b.words)) for b in found if b.color == a.color), default=0)
            for a in wanted
        )
        return len(set(wanted) & set(found)), alike, -abs(len(found) - len(wanted))

    captions = training_captions()
    best = max(range(len(captions)), key=lambda i: nearness(captions[i]))
    num_views, num_frames, _, height, width = frames.shape
    return make_scene(scene_seed("train", best), num_views, num_frames, height, width).frames
