"""Whether a grid shows what its prompt says: every object it names, by colour, shape and motion.

An object is found by its colour in most cells, its shape told by its silhouettes in most views, and
its path in space compared with the word of motion: its kind, and whether it is as large as in the
scenes that the word was taken from. What is said to rest must rest. A prompt is right when all of
this holds for all of its objects, and the views differ as those of an arc of cameras do.
"""

import re
from collections import defaultdict
from dataclasses import astuple, dataclass
from functools import cache

import torch
from torch import Tensor

from fourreal.metrics.motions import Movement, look_change, path_of, view_change
from fourreal.metrics.objects import color_mask, shown
from fourreal.metrics.silhouettes import Classes, silhouettes
from fourreal.scenes import SceneBatch, describe, scene_seed
from fourreal.scenes.describe import COLORS, MOTIONS, SHAPES

MOST_CELLS = 0.75  # of the grid show an object's colour
MOST_VIEWS = 0.5  # of the views that show an object tell its shape
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


def silhouettes_by_shape(
    split: str, scenes: range, height: int, width: int
) -> dict[str, list[list[Tensor]]]:
    """By shape: for each object of exact scenes, how each view describes it (see silhouettes)."""
    described = defaultdict(list)
    for index in scenes:
        description = describe(scene_seed(split, index), 8, 29)
        frames = SceneBatch([description]).select(*LOOKED_AT).draw(height, width)[0]
        for thing in description.things:
            views = silhouettes(color_mask(frames, thing.color), frames)
            described[thing.shape].append(views)
    return described


@cache
def shape_classes(height: int, width: int) -> Classes:
    """The classes of shapes at a frame size, calibrated on exact training scenes."""
    described = silhouettes_by_shape("train", range(CALIBRATED), height, width)
    rows = {shape: torch.stack([v for o in seen for v in o]) for shape, seen in described.items()}
    return Classes.fit(rows)


def told_shape(views: list[Tensor], classes: Classes) -> str | None:
    """The shape that most of the views tell, None where less than MOST_VIEWS agree."""
    told = [classes.tell(view) for view in views]
    best = max(set(told), key=told.count, default=None)
    return best if best and told.count(best) >= MOST_VIEWS * len(told) else None


@cache
def motion_sizes(num_frames: int) -> dict[str, tuple[float, float, float]]:
    """Least, median and greatest size of each kind of motion in training scenes of num_frames."""
    sizes = defaultdict(list)
    for index in range(MEASURED):
        for thing in describe(scene_seed("train", index), 1, num_frames).things:
            path = torch.as_tensor(thing.positions, dtype=torch.float32)
            sizes[thing.motion].append(Movement.of(path).size)
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


def score_object(frames: Tensor, named: NamedObject) -> ObjectScore:
    """How a grid [V, T, 3, H, W] in [0, 1] shows an object. What is no shape of these scenes is
    never right."""
    mask = color_mask(frames, named.color)
    found = float(shown(mask).float().mean()) >= MOST_CELLS
    views = silhouettes(mask[:, ::4], frames[:, ::4])
    told = told_shape(views, shape_classes(*frames.shape[-2:]))
    shape = named.shape is not None and told == named.shape
    path = path_of(mask)
    if path is None:
        return ObjectScore(found, shape, False, False, told=told)
    movement, (least, median, most) = Movement.of(path), motion_sizes(frames.shape[1])[named.motion]
    if named.motion in MEASURED_MOTIONS:
        kind = movement.kind == named.motion
        extent = SIZES[0] * least <= movement.size <= SIZES[1] * most
        return ObjectScore(found, shape, kind, extent, movement.size / median, told)
    in_place = movement.kind == "in place"
    turns = look_change(mask, frames) > TURNS
    as_said = turns == (named.motion == "spin") or named.shape in ROUND_ABOUT
    return ObjectScore(found, shape, in_place and as_said, in_place, told=told)


def object_scores(frames: Tensor, prompt: str) -> list[tuple[NamedObject, ObjectScore]]:
    """How a grid [V, T, 3, H, W] in [0, 1] shows each object of a prompt."""
    return [(named, score_object(frames, named)) for named in objects_of(prompt)]


def prompt_scores(
    frames: Tensor, scores: list[tuple[NamedObject, ObjectScore]]
) -> dict[str, float]:
    """Of a grid and the scores of its objects: found, shape, motion, extent, the share of the
    objects that are found, have their shape, move as said, and as far; views, 1 where the views
    show different sides; prompt: 1 where all of it is right. NaN where the prompt names none."""
    if not scores:
        return dict.fromkeys((*PARTS, "views", "prompt"), float("nan"))
    shares = {part: sum(getattr(s, part) for _, s in scores) / len(scores) for part in PARTS}
    views = view_change(frames) > VIEWS_TURN
    right = views and all(s.right for _, s in scores)
    return shares | {"views": float(views), "prompt": float(right)}
