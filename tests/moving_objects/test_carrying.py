"""Objects are drawn where they move to, sharply, and only where that is right."""

from types import SimpleNamespace

import pytest
import torch

from fourreal.cameras import project, unproject
from fourreal.carry import carry_references
from fourreal.metrics.pixels import psnr
from fourreal.moving_objects import carry_objects
from fourreal.moving_objects.carrying import Scenery, ghosts, plate_of, squared_steps
from fourreal.moving_objects.segmentation import MovingObject, moving_objects
from fourreal.neighborhoods import eroded, grown
from fourreal.warp import HOLE

from ..pretend_cuda import PretendCuda
from .cards import BLUE, CAMERAS, GREEN, RED, SIZE, TIMES, Card, CardScene, both_references

MOVING = Card((-0.4, 0.0, 2.5), RED, step=(0.08, 0.02, -0.02))


def changing(scene):
    """Pixels [V, T, 1, H, W] that do not show what they do at the first time, none of the first."""
    return (scene.shown != scene.shown[:, :1])[:, :, None]


def carried_of(cards, given=None, softness=1.5):
    scene, given = CardScene(cards), both_references() if given is None else given
    soft = scene.generated(given, softness)
    frames, depth = carry_objects(soft, scene.depth, CAMERAS, given)
    return scene, soft, frames, depth


def over(frames, scene):
    where = changing(scene).expand_as(frames)
    return psnr(frames[where], scene.frames[where])


def test_what_moves_is_as_sharp_as_the_photos():
    scene, soft, frames, depth = carried_of([MOVING])
    given = both_references()
    assert torch.equal(frames[given], soft[given]) and torch.equal(depth[given], scene.depth[given])
    assert over(soft, scene) < 27 and over(frames, scene) > over(soft, scene) + 5
    there = scene.shown[1:, 1:] == 1
    off = (depth[1:, 1:][there] / scene.depth[1:, 1:][there] - 1).abs()
    assert off.quantile(0.9) < 0.01


def test_nothing_changes_away_from_what_moves():
    """Farther from it and from its path than a ghost may be."""
    scene, soft, frames, depth = carried_of([MOVING, Card((0.6, -0.5, 3), GREEN, 0.2)])
    path = grown((scene.shown == 1).any(1), 10)
    away = ~path[:, None].expand_as(scene.shown)
    assert away.float().mean() > 0.3
    assert torch.equal(frames.movedim(2, -1)[away], soft.movedim(2, -1)[away])
    assert torch.equal(depth[away], scene.depth[away])


def test_what_stands_before_an_object_hides_it():
    """A card passes behind a pillar that rests: the pillar stays, and so does its depth."""
    scene, soft, frames, depth = carried_of([MOVING, Card((0.35, 0.0, 1.8), GREEN, 0.12)])
    before = CardScene([MOVING]).shown == 1
    front = scene.shown == 2
    assert (front & before)[1:].sum() > 300
    assert over(frames, scene) > over(soft, scene) + 2.5
    assert (depth == scene.depth)[front].float().mean() > 0.99
    off, before = ((x - scene.frames).abs().amax(2)[front] for x in (frames, soft))
    assert (off <= before + 1e-3).float().mean() > 0.98


@pytest.mark.parametrize("step", [(0.0, 0.0, 0.0), (0.08, 0.02, 0.0)], ids=["spins", "rolls"])
def test_an_object_that_turns_is_left_as_generated(step):
    scene, soft, frames, depth = carried_of([Card((-0.4, 0, 2.5), RED, step=step, turn=0.15)])
    assert torch.equal(frames, soft) and torch.equal(depth, scene.depth)


@pytest.mark.parametrize("softness", [1e-3, 0.4, 0.8])
def test_what_is_generated_as_sharply_as_its_photo_stays(softness):
    """Whatever the path: it is the object at its place and in its light, not one that was moved."""
    scene, soft, frames, depth = carried_of([MOVING], softness=softness)
    where = grown((scene.shown[1:, 1:] == 1).flatten(0, 1), 2)
    energy = [squared_steps(x[1:, 1:].flatten(0, 1))[where].sum() for x in (soft, scene.frames)]
    as_sharp = bool(energy[0] > 2 / 3 * energy[1])
    assert as_sharp == (softness < 0.5)
    assert torch.equal(frames, soft) == torch.equal(depth, scene.depth) == as_sharp
    assert as_sharp or over(frames, scene) > over(soft, scene)


def test_steps_of_colour_are_squared_to_the_right_and_below():
    torch.manual_seed(0)
    frames = torch.rand(2, 3, 5, 6, dtype=torch.float64)
    found = squared_steps(frames)
    for y in range(5):
        for x in range(6):
            beside = [frames[..., y, x + 1]] if x < 5 else []
            beside += [frames[..., y + 1, x]] if y < 4 else []
            wanted = sum((frames[..., y, x] - other).square().sum(1) for other in beside)
            torch.testing.assert_close(found[:, y, x], wanted + torch.zeros(2).double())


def carried_with_another_colour_once(given):
    """As carried_of; at time 5 the object is blue."""
    scene, other = CardScene([MOVING]), CardScene([Card(MOVING.center, BLUE, step=MOVING.step)])
    scene.frames[:, 5] = other.frames[:, 5]
    soft = scene.generated(given)
    return scene, soft, *carry_objects(soft, scene.depth, CAMERAS, given)


def test_times_at_which_an_object_does_not_fit_are_left_as_generated():
    """It has another colour at one time, of which the given video tells."""
    scene, soft, frames, depth = carried_with_another_colour_once(both_references())
    assert torch.equal(frames[:, 5], soft[:, 5]) and torch.equal(depth[:, 5], scene.depth[:, 5])
    assert over(frames, scene) > over(soft, scene) + 3


def test_one_that_turns_does_not_hinder_another():
    cards = [MOVING, Card((0.6, -0.6, 3), BLUE, 0.25, step=(0.01, 0.0, 0.0), turn=0.2)]
    scene, soft, frames, _ = carried_of(cards)
    turning = (scene.shown == 2)[:, :, None].expand_as(frames)
    assert turning.sum() > 10000 and (frames == soft)[turning].float().mean() > 0.99
    assert over(frames, scene) > over(soft, scene) + 3


def test_around_one_that_turns_all_stays_as_generated():
    """It rolls along beside another, 4 pixels from it."""
    rolling = Card((-0.4, 0.75, 2.5), BLUE, step=MOVING.step, turn=0.15)
    scene, soft, frames, _ = carried_of([MOVING, rolling])
    assert over(frames, scene) > over(soft, scene) + 1
    beside = grown((scene.shown == 2).flatten(0, 1), 3).view_as(scene.shown)
    beside &= ~grown((scene.shown == 1).flatten(0, 1), 1).view_as(scene.shown)
    assert (frames == soft).all(2)[beside].float().mean() > 0.995


@pytest.mark.parametrize("which", ["video", "two photos"])
def test_without_photos_of_three_views_nothing_changes(which):
    given = both_references()
    given[:, 0] &= which != "video"
    given[2:, 0] &= which != "two photos"
    _, soft, frames, depth = carried_of([MOVING], given)
    same, untouched = carry_objects(soft, depth, CAMERAS, given)
    assert same is soft and untouched is depth and torch.equal(frames, soft)


def photos_alone():
    given = torch.zeros_like(both_references())
    given[:, 0] = True
    return given


def test_with_photos_alone_the_generated_frames_say_where_an_object_is():
    scene, soft, frames, depth = carried_of([MOVING], photos_alone())
    assert torch.equal(frames[:, 0], soft[:, 0])
    assert over(soft, scene) < 27 and over(frames, scene) > over(soft, scene) + 4
    there = scene.shown[:, 1:] == 1
    off = (depth[:, 1:][there] / scene.depth[:, 1:][there] - 1).abs()
    assert off.quantile(0.9) < 0.015


@pytest.mark.parametrize("step", [(0.0, 0.0, 0.0), (0.08, 0.02, 0.0)], ids=["spins", "rolls"])
def test_with_photos_alone_what_turns_is_left_as_generated(step):
    card = Card((-0.4, 0, 2.5), RED, step=step, turn=0.15)
    scene, soft, frames, depth = carried_of([card], photos_alone())
    assert torch.equal(frames, soft) and torch.equal(depth, scene.depth)


def test_with_photos_alone_one_time_that_does_not_fit_leaves_all_as_generated():
    """It has another colour at one time: sharp and soft would alternate."""
    scene, soft, frames, depth = carried_with_another_colour_once(photos_alone())
    assert torch.equal(frames, soft) and torch.equal(depth, scene.depth)


def test_a_view_without_a_photo_keeps_what_was_generated():
    given = both_references()
    given[2, 0] = False
    scene, soft, frames, _ = carried_of([MOVING], given)
    assert torch.equal(frames[2], soft[2])
    others = [1, 3]
    where = changing(scene).expand_as(frames)[others]
    made, before = (psnr(x[others][where], scene.frames[others][where]) for x in (frames, soft))
    assert made > before + 5


def test_where_nothing_moves_nothing_changes():
    """And the bar comes to its end."""
    scene, soft, frames, _ = carried_of([Card((0.0, 0.0, 2.5), RED)])
    assert torch.equal(frames, soft)
    told = []
    carry_objects(soft, scene.depth, CAMERAS, both_references(), told.append)
    assert told == [TIMES]


def test_of_an_object_at_the_frames_edge_what_its_photo_shows_is_drawn():
    """In the third view the card is cut by the edge at the first time; later all of it is there,
    and what lay beyond the edge is as it was generated, as is all around that."""
    card = Card((0.65, 0, 2.5), RED, step=(-0.07, 0.01, 0))
    scene, soft, frames, _ = carried_of([card])
    objects = moving_objects(soft, scene.depth, CAMERAS, 0)
    (hidden,) = [item.hidden.flatten(1).any(1).tolist() for item in objects]
    assert hidden == [False, False, True, False]
    where = changing(scene).expand_as(frames)
    for view in range(1, 4):
        made, before = (
            psnr(x[view][where[view]], scene.frames[view][where[view]]) for x in (frames, soft)
        )
        assert made > before + 2
    shift = card.at(TIMES - 1) - card.at(0)
    depth = torch.full((1, SIZE, SIZE), 2.5)
    cameras = CAMERAS[0][2:3], CAMERAS[1][2:3]
    moved = (unproject(depth, *cameras) - shift).flatten(1, 2)
    x = project(moved, *cameras)[0].view(SIZE, SIZE, 2)[..., 0]
    new = (scene.shown[2, -1] == 1) & (x > SIZE)
    assert new.sum() > 40
    assert torch.equal(frames[2, -1][:, new], soft[2, -1][:, new])
    drawn = (scene.shown[2, -1] == 1) & (x < SIZE - 3)
    assert (frames[2, -1] - scene.frames[2, -1]).abs().amax(0)[drawn].median() < 0.02
    assert (soft[2, -1] - scene.frames[2, -1]).abs().amax(0)[drawn].median() > 0.02


def test_where_objects_pass_each_other_the_nearer_one_has_the_depth():
    cards = [
        Card((-0.45, 0.05, 2.3), RED, 0.25, step=(0.1, 0.0, 0.0)),
        Card((0.5, -0.1, 3.0), BLUE, 0.35, step=(-0.08, 0.0, 0.0)),
    ]
    scene, _, _, depth = carried_of(cards)
    for number in (1, 2):
        alone = CardScene([cards[number - 1]]).shown == 1
        both = alone & (scene.shown != number) if number == 2 else scene.shown == 1
        both = torch.stack([eroded(view, 2) for view in both])[1:]
        assert both.sum() > 300
        off = (depth / scene.depth - 1).abs()[1:][both]
        assert off.quantile(0.9) < 0.03


def test_the_plate_is_the_scene_without_its_objects():
    """Where an object was it is what is seen there later; a place that it never leaves takes the
    colours beside it."""
    scene, bare = CardScene([MOVING]), CardScene([])
    objects = moving_objects(scene.frames, scene.depth, CAMERAS, 0)
    plate = plate_of(scene.frames, scene.depth, objects, 0)
    left = (scene.shown[:, 0] == 1) & (scene.shown[:, 1:] == 0).sum(1).gt(2)
    assert left.sum() > 500
    off = (plate[:, :3] - bare.frames[:, 0]).abs().amax(1)
    assert off[left].quantile(0.95) < 0.05
    assert (plate[:, 3][left] / 4 - 1).abs().quantile(0.95) < 0.02
    elsewhere = ~grown(scene.shown[:, 0] == 1, 3)
    assert torch.equal(
        plate[:, :3].movedim(1, -1)[elsewhere], scene.frames[:, 0].movedim(1, -1)[elsewhere]
    )


def test_the_plate_is_of_what_looks_least_like_the_object():
    """Seen through its smear four times and bare once: nearer to bare than to the mean."""
    red, grey = torch.tensor(RED).view(3, 1, 1), torch.tensor(0.6)
    mask, depth = torch.zeros(1, 9, 9, dtype=torch.bool), torch.full((1, 6, 9, 9), 3.0)
    mask[:, 3:6, 3:6], depth[:, 0, 3:6, 3:6] = True, 2.0
    frames = torch.full((1, 6, 3, 9, 9), 0.6)
    frames[:, 0, :, 3:6, 3:6], frames[:, 1:5, :, 3:6, 3:6] = red, (red + grey) / 2
    item = MovingObject(mask, depth[:, 0], torch.zeros_like(mask), torch.zeros(3), torch.ones(()))
    plate = plate_of(frames, depth, [item], 0)
    off = (plate[0, :3, 4, 4] - 0.6).abs().amax()
    mean = (frames[0, 1:, :, 4, 4].mean(0) - 0.6).abs().amax()
    assert off < mean / 2 and plate[0, 3, 4, 4] == pytest.approx(3.0)


def test_a_smear_is_taken_away_with_soft_edges(monkeypatch):
    """An object itself replaces all of what was generated; around it shares fall off."""
    made, drawn = [], Scenery.view_at

    def view_at(self, frames, shifts, put, views):
        made.append((self.layer(0, shifts[0], views)[1], drawn(self, frames, shifts, put, views)))
        return made[-1][1]

    monkeypatch.setattr(Scenery, "view_at", view_at)
    carried_of([MOVING])
    for alpha, (_, _, share) in made:
        inside, part = alpha > 0.5, (share > 0.02) & (share < 0.98)
        assert ((share == 1) | (share == 0))[inside].all() and share[inside].mean() > 0.95
        assert part.sum() > 20 and not (part & inside).any()


def test_a_ghost_mixes_colours_and_a_shadow_is_darker():
    """Beside a red object: a mixture of its red with the grey of the plate, below it a shadow,
    above it something blue; and a mixture farther away than a ghost may be."""
    back = torch.full((1, 3, 40, 40), 0.6)
    red, blue = (torch.tensor(color).view(1, 3, 1, 1) for color in (RED, BLUE))
    cover = torch.zeros(1, 40, 40)
    cover[:, 14:26, 14:26] = 1
    colors = torch.where(cover[:, None] > 0, red, back)
    frames, mixture = colors.clone(), (0.6 * back + 0.4 * red)[..., :1, :1]
    frames[..., 16:24, 10:14] = frames[..., 16:24, 34:38] = mixture
    frames[..., 26:30, 14:26] *= 0.6
    frames[..., 10:14, 14:26] = blue
    found = ghosts(frames, back, colors, cover, 6)[0, 0]
    wanted = torch.zeros(40, 40, dtype=torch.bool)
    wanted[16:24, 10:14] = True
    assert found[wanted].all()
    for others in (found[26:30, 14:26], found[10:14, 14:26], found[:, 33:], found[:8]):
        assert not others.any()


def test_it_runs_where_the_frames_lie():
    """On a pretend GPU: the same numbers."""
    scene, soft, wanted, _ = carried_of([MOVING])
    with PretendCuda():
        inputs = [x.to("cuda") for x in (soft, scene.depth, *CAMERAS, both_references())]
        frames, depth = carry_objects(*inputs[:2], (inputs[2], inputs[3]), inputs[4])
        assert frames.device.type == depth.device.type == "cuda"
        frames = frames.cpu()
    torch.testing.assert_close(frames, wanted)
    assert frames.shape[1] == TIMES


def test_carrying_references_carries_what_moves_too():
    """Between the reconstructor's geometry and the pixels that stand still; the bar goes on."""
    scene, told = CardScene([MOVING]), []
    given = both_references()

    def reconstructor(frames, cameras, progress, **_):
        progress(3, 6)
        progress(6, 6)
        return SimpleNamespace(depth=scene.depth, extrinsics=CAMERAS[0], intrinsics=CAMERAS[1])

    references = torch.where(given[:, :, None, None, None], scene.frames, HOLE), given
    soft = scene.generated(torch.zeros_like(given))
    made, _ = carry_references(
        reconstructor, soft, references, progress=lambda *done: told.append(done)
    )
    assert torch.equal(made[given], scene.frames[given])
    assert over(made, scene) > over(soft, scene) + 5
    assert told == [(round(part * TIMES / 6), 2 * TIMES) for part in (3, 6)] + [
        (TIMES + done, 2 * TIMES) for done in range(2, TIMES + 1)
    ]
