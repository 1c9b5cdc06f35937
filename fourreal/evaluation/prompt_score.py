"""Whether a grid shows what its prompt says: every object it names, by colour, shape and motion.

An object is found by its colour in most cells, its shape told by its silhouettes in all views that
show it whole, and its path in space compared with the word of motion: its kind, and whether it is
as large as in the scenes that the word was taken from. What is said to rest must rest. A prompt is
right when all of this holds for all of its objects, nothing is there in a colour that it does not
name, and the views differ as those of an arc of cameras do.
"""

import re
from collections import defaultdict
from dataclasses import astuple, dataclass
from functools import cache

import torch
from torch import Tensor

from fourreal.metrics.motions import ASTRAY, LIT_ASTRAY, Movement, look_change, path_of, view_change
from fourreal.metrics.objects import WHITE, color_mask, grey_set, shown
from fourreal.metrics.silhouettes import Classes, silhouettes
from fourreal.scenes import SceneBatch, describe, scene_seed
from fourreal.scenes.describe import COLORS, MOTIONS, SHAPES

MOST_CELLS = 0.75  # of the grid show an object's colour
UNNAMED = 0.5  # of the grid shows something that the prompt does not name
# Change of look over time. Of validation scenes, boxes and ellipsoids that spin have at least
# 0.032, those that rest at most 0.023, where a shadow passes.
TURNS = 0.028
VIEWS_TURN = 0.012  # change from the first to the last view; exact scenes have at least 0.016
SIZES = 0.7, 1.3  # of the least and the greatest motion that a word means
CALIBRATED = 130  # training scenes whose silhouettes are known
MEASURED = 400  # training scenes whose paths are known
LOOKED_AT = [0, 2, 5, 7], [0, 5, 10, 15, 20, 25]  # views and times of the first
PARTS = ("found", "shape", "motion", "extent")
MEASURED_MOTIONS = ("bounce", "orbit", "slide", "swing")  # whose size is told
ROUND_ABOUT = ("sphere", "cylinder")  # shapes whose spinning cannot be seen


@dataclass(frozen=True)
class NamedObject:
    """An object that a prompt names: keys of COLORS, SHAPES and MOTIONS ("still" where the prompt
    says nothing), the shape None where it is no shape of these scenes."""

    color: str
    shape: str | None
    motion: str

    @property
    def words(self) -> tuple:
        """Colour, shape and motion."""
        return astuple(self)


SHAPE_WORDS = {word: shape for shape, words in SHAPES.items() for word in words}
MOTION_WORDS = {
    word.split()[-1]: motion for motion, words in MOTIONS.items() for word in words if word
}


@cache
def objects_of(prompt: str) -> tuple[NamedObject, ...]:
    """The objects that a prompt names by a colour: "a small red ball bouncing" and the like."""
    words, found = re.findall(r"[a-z]+", prompt.lower()), []
    for index, word in enumerate(words):
        if word in COLORS:
            shape, motion, next_word = [*words[index + 1 : index + 4], "", "", ""][:3]
            motion = next_word if motion == "standing" else motion
            found.append(
                NamedObject(word, SHAPE_WORDS.get(shape), MOTION_WORDS.get(motion, "still"))
            )
    return tuple(found)


def object_masks(frames: Tensor, colors: tuple[str, ...]) -> list[tuple[Tensor, Tensor]]:
    """For each object of a grid [V, T, 3, H, W] by its colour: its pixels [V, T, H, W], and those
    of all others, which may hide a part of it."""
    masks = [color_mask(frames, color) for color in colors]
    none = torch.zeros_like(masks[0])
    return [(mask, sum((m for m in masks if m is not mask), none)) for mask in masks]


def silhouettes_by_shape(
    split: str, scenes: range, height: int, width: int, lit: bool = False
) -> dict[str, list[list[Tensor]]]:
    """By shape: for each object of exact scenes, how each view describes it (see silhouettes); with
    lit, only of one object of each scene, painted white in a grey set, its lit side."""
    described = defaultdict(list)
    for index in scenes:
        description = describe(scene_seed(split, index), 8, 29)
        if lit:
            description.floor_color = description.wall_color = "grey"
            description.things[index % len(description.things)].color = WHITE
        frames = SceneBatch([description]).select(*LOOKED_AT).draw(height, width)[0]
        masks = object_masks(frames, tuple(thing.color for thing in description.things))
        for thing, (mask, others) in zip(description.things, masks):
            if not lit or thing.color == WHITE:
                described[thing.shape].append(silhouettes(mask, frames, others))
    return described


@cache
def shape_classes(height: int, width: int, lit: bool = False) -> Classes:
    """The classes of shapes at a frame size, calibrated on exact training scenes; with lit, those
    of the lit sides of white objects in grey sets."""
    described = silhouettes_by_shape("train", range(CALIBRATED), height, width, lit)
    rows = {shape: torch.stack([v for o in seen for v in o]) for shape, seen in described.items()}
    return Classes.fit(rows)


def told_shape(views: list[Tensor], classes: Classes) -> str | None:
    """The shape that the views tell together, None where there is none."""
    return classes.tell(torch.stack(views)) if views else None


@cache
def motion_sizes(num_frames: int) -> dict[str, tuple[float, float, float]]:
    """Least, median and greatest size of each kind of motion in training scenes of num_frames."""
    sizes = defaultdict(list)
    for index in range(MEASURED):
        for thing in describe(scene_seed("train", index), 1, num_frames).things:
            path = torch.as_tensor(thing.positions, dtype=torch.float32)
            sizes[thing.motion].append(Movement.of(path).size_as(thing.motion))
    return {
        kind: tuple(torch.tensor(found).quantile(torch.tensor([0.02, 0.5, 0.98])).tolist())
        for kind, found in sizes.items()
    }


@dataclass(frozen=True)
class ObjectScore:
    """Whether an object is found, has its shape, moves as it should, and as far; the size of its
    motion as a multiple of the median that its word means (NaN without a path); and the shape that
    its silhouettes tell."""

    found: bool
    shape: bool
    motion: bool
    extent: bool
    size: float = float("nan")
    told: str | None = None

    @property
    def right(self) -> bool:
        return self.found and self.shape and self.motion and self.extent


def score_object(frames: Tensor, named: NamedObject, mask: Tensor, others: Tensor) -> ObjectScore:
    """How a grid [V, T, 3, H, W] in [0, 1] shows an object (see object_masks). What is no shape of
    these scenes is never right."""
    found = float(shown(mask).float().mean()) >= MOST_CELLS
    views = silhouettes(mask[:, ::4], frames[:, ::4], others[:, ::4])
    lit = named.color == WHITE and grey_set(frames)
    told = told_shape(views, shape_classes(frames.shape[-2], frames.shape[-1], lit))
    shape = named.shape is not None and told == named.shape
    path = path_of(mask, others, LIT_ASTRAY if lit else ASTRAY)
    if path is None:
        return ObjectScore(found, shape, False, False, told=told)
    movement, (least, median, most) = Movement.of(path), motion_sizes(frames.shape[1])[named.motion]
    if named.motion in MEASURED_MOTIONS:
        kind = movement.kind == named.motion
        size = movement.size_as(named.motion)
        extent = SIZES[0] * least <= size <= SIZES[1] * most
        return ObjectScore(found, shape, kind, extent, size / median, told)
    in_place = movement.kind == "in place"
    turns = look_change(mask, frames) > TURNS
    as_said = turns == (named.motion == "spin") or named.shape in ROUND_ABOUT
    return ObjectScore(found, shape, in_place and as_said, in_place, told=told)


def object_scores(frames: Tensor, prompt: str) -> list[tuple[NamedObject, ObjectScore]]:
    """How a grid [V, T, 3, H, W] in [0, 1] shows each object of a prompt."""
    objects = objects_of(prompt)
    masks = object_masks(frames, tuple(named.color for named in objects))
    return [(named, score_object(frames, named, *own)) for named, own in zip(objects, masks)]


def shows_no_other(frames: Tensor, colors: set[str]) -> bool:
    """Whether a grid [V, T, 3, H, W] shows nothing in a colour that is not among `colors`, in half
    of its cells; white aside, which sets and skies can be."""
    unnamed = COLORS.keys() - colors - {WHITE}
    cells = frames[:, ::4]
    return all(float(shown(color_mask(cells, c)).float().mean()) < UNNAMED for c in unnamed)


def prompt_scores(
    frames: Tensor, scores: list[tuple[NamedObject, ObjectScore]]
) -> dict[str, float]:
    """Of a grid and the scores of its objects: found, shape, motion, extent, the share of the
    objects that are found, have their shape, move as said, and as far; views, 1 where the views
    show different sides; only, 1 where nothing has a colour that is not named; prompt: 1 where all
    of it is right. NaN where the prompt names none."""
    if not scores:
        return dict.fromkeys((*PARTS, "views", "only", "prompt"), float("nan"))
    shares = {part: sum(getattr(s, part) for _, s in scores) / len(scores) for part in PARTS}
    views = view_change(frames) > VIEWS_TURN
    only = shows_no_other(frames, {named.color for named, _ in scores})
    right = views and only and all(s.right for _, s in scores)
    return shares | {"views": float(views), "only": float(only), "prompt": float(right)}
