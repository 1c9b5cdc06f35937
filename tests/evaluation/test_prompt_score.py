"""What a prompt names, and whether a grid shows it."""

import pytest
import torch

from fourreal.evaluation import prompt_score as score
from fourreal.evaluation.rivals import colored_squares, exact_and_rivals, still_copy
from fourreal.scenes import SceneBatch, describe, make_scene, scene_seed

FRAMES, SIZE = 29, 64


@pytest.mark.parametrize(
    ("prompt", "objects"),
    [
        ("a small red ball bouncing", [("red", "sphere", "bounce")]),
        (
            "a blue cube sliding past a white egg standing still in a grey room",
            [("blue", "box", "slide"), ("white", "ellipsoid", "still")],
        ),
        (
            "a cyan can, a big green block resting and a yellow egg swinging on a plain floor",
            [
                ("cyan", "cylinder", "still"),
                ("green", "box", "still"),
                ("yellow", "ellipsoid", "swing"),
            ],
        ),
        ("A Red Dragon circling", [("red", None, "orbit")]),
        ("a ball", []),
    ],
)
def test_objects_are_read_from_a_prompt(prompt, objects):
    assert [named.words for named in score.objects_of(prompt)] == objects


def test_the_objects_of_every_caption_are_those_of_its_scene():
    for index in range(200):
        description = describe(scene_seed("validation", index), 1, 1)
        drawn = [(thing.color, thing.shape, thing.motion) for thing in description.things]
        assert [named.words for named in score.objects_of(description.caption)] == drawn


@pytest.fixture(scope="module")
def few_examples():
    """A calibration on fewer scenes than the evaluation's."""
    before, score.CALIBRATED = score.CALIBRATED, 20
    score.shape_classes.cache_clear()
    yield
    score.CALIBRATED = before
    score.shape_classes.cache_clear()


def scene_with(motion: str, shapes: tuple[str, ...] = ()) -> tuple[torch.Tensor, str]:
    """Exact frames and caption of a validation scene of one object that moves like this."""
    for index in range(200):
        seed = scene_seed("validation", index)
        description = describe(seed, 1, 1)
        (thing, *more) = description.things
        if not more and thing.motion == motion and (not shapes or thing.shape in shapes):
            scene = make_scene(seed, 8, FRAMES, SIZE, SIZE)
            return scene.frames, scene.caption
    raise AssertionError(motion)


@pytest.mark.parametrize(
    "motion",
    [
        *("bounce", "slide"),
        *(pytest.param(motion, marks=pytest.mark.slow) for motion in ("orbit", "swing")),
    ],
)
def test_a_moving_object_is_right_and_its_still_picture_is_not(few_examples, motion):
    frames, caption = scene_with(motion)
    ((named, exact),) = score.object_scores(frames, caption)
    assert exact.found and exact.motion and exact.extent, (named, exact)
    assert 0.5 < exact.size < 1.7
    ((_, still),) = score.object_scores(still_copy(frames), caption)
    assert not still.motion and not still.right
    ((_, squares),) = score.object_scores(colored_squares(caption, frames), caption)
    assert not squares.right


def test_half_of_a_motion_is_too_little(few_examples):
    """A slide that is shown for a quarter of its time, four times slower."""
    frames, caption = scene_with("slide")
    slow = frames[:, (torch.arange(FRAMES) // 6)]
    ((_, found),) = score.object_scores(slow, caption)
    assert found.found and not found.right and found.size < 0.6


def test_what_spins_must_turn_and_what_rests_must_not(few_examples):
    frames, caption = scene_with("spin", ("box",))
    words = caption.replace("rotating", "spinning")
    ((_, spinning),) = score.object_scores(frames, words)
    ((_, told_to_rest),) = score.object_scores(frames, words.replace("spinning", "resting"))
    assert spinning.motion and not told_to_rest.motion
    held = frames[:, :1].expand_as(frames)
    ((_, rests),) = score.object_scores(held, words.replace("spinning", "resting"))
    ((_, should_turn),) = score.object_scores(held, words)
    assert rests.motion and not should_turn.motion


def test_shapes_of_unseen_scenes_are_told(few_examples):
    """With a quarter of the evaluation's calibration; its confusion matrix is in the card."""
    described = score.silhouettes_by_shape("validation", range(12), SIZE, SIZE)
    classes = score.shape_classes(SIZE, SIZE)
    told = [
        (shape, score.told_shape(views, classes))
        for shape, objects in described.items()
        for views in objects
        if views
    ]
    assert sum(a == b for a, b in told) > 0.7 * len(told), told


def test_a_prompt_is_right_when_all_is_right_of_all(few_examples):
    right = score.ObjectScore(True, True, True, True, 1.0)
    wrong = score.ObjectScore(True, False, True, True, 1.0)
    named = score.NamedObject("red", "box", "slide")
    turning = torch.rand(2, 3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    turning = turning.expand(-1, -1, 3, -1, -1)
    found = score.prompt_scores(turning, [(named, right), (named, wrong)])
    shares = {"found": 1, "shape": 0.5, "motion": 1, "extent": 1}
    assert found == {**shares, "views": 1, "only": 1, "prompt": 0}
    assert score.prompt_scores(turning, [(named, right)])["prompt"] == 1
    more = turning.clone()
    more[..., :4, :4] = torch.tensor([0.12, 0.25, 0.88])[:, None, None]  # something blue as well
    found = score.prompt_scores(more, [(named, right)])
    assert (found["only"], found["prompt"]) == (0, 0)
    one_view = turning[:1].expand_as(turning)
    assert score.prompt_scores(one_view, [(named, right)])["prompt"] == 0
    assert all(value != value for value in score.prompt_scores(turning, []).values())


def test_exact_scenes_are_right_more_often_than_all_that_stands_for_them(few_examples):
    """Three scenes: blur, which sharpness tells, shows no more prompts; what stands still, shows
    one view or squares of the colours shows none."""
    right: dict[str, float] = {}
    for index in (0, 3, 8):
        description = describe(scene_seed("validation", index), 8, FRAMES)
        frames, caption = SceneBatch([description]).draw(SIZE, SIZE)[0], description.caption
        rows = exact_and_rivals(frames) | {"squares": colored_squares(caption, frames)}
        for name, shown in rows.items():
            found = score.prompt_scores(shown, score.object_scores(shown, caption))["prompt"]
            right[name] = right.get(name, 0) + found
    assert right["exact"] >= 2 and right["exact"] >= right["exact_blurred_1"]
    assert right["still_copy"] == right["one_view"] == right["squares"] == 0, right
