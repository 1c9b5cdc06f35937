"""Paths of objects that are known to a fraction of a pixel."""

from itertools import product

import torch

from fourreal.cameras import project, unproject
from fourreal.moving_objects.carrying import plate_of
from fourreal.moving_objects.following import (
    Sprites,
    composited,
    tracked,
    unseen_before,
)
from fourreal.moving_objects.segmentation import Cutout, moving_objects

from .cards import BLUE, CAMERAS, PLACES, RED, SIZE, TIMES, Card, CardScene, both_references

FOCAL = float(CAMERAS[1][0, 0, 0])


def splatted_by_hand(sprites, shift, cameras, height, width):
    """One point after the other, in float64: sums of values and depth [V, C + 1, H, W], weights."""
    total = torch.zeros(len(PLACES), sprites.values.shape[1] + 1, height, width).double()
    weights = torch.zeros(len(PLACES), height, width).double()
    for n in range(len(sprites.view)):
        view = int(sprites.view[n])
        point = (sprites.points[n] + shift).double()
        extrinsics, intrinsics = (c[view].double() for c in cameras)
        x, y, z = extrinsics[:, :3] @ point + extrinsics[:, 3]
        if z <= 0:
            continue
        column = float(intrinsics[0, 0] * x / z + intrinsics[0, 2] - 0.5)
        row = float(intrinsics[1, 1] * y / z + intrinsics[1, 2] - 0.5)
        size = float(sprites.weights[n]) * (float(sprites.depth[n]) / float(z)) ** 2
        for i in range(height):
            for j in range(width):
                share = max(0, 1 - abs(i - row)) * max(0, 1 - abs(j - column)) * size
                values = torch.cat([sprites.values[n].double(), z[None]])
                total[view, :, i, j] += share * values
                weights[view, i, j] += share
    return total, weights


def test_sprites_are_splatted_as_a_plain_loop_does_it():
    """Moved aside, nearer, out of the frame and behind the camera; in float32 to 1e-4."""
    torch.manual_seed(0)
    views, (height, width) = len(PLACES), (9, 11)
    cameras = CAMERAS[0], CAMERAS[1] * torch.tensor([width, height, 1.0])[:, None] / SIZE
    cameras[1][:, 2, 2] = 1
    weights = torch.rand(views, height, width) * (torch.rand(views, height, width) < 0.2)
    values, depth = torch.rand(views, 2, height, width), 2 + torch.rand(views, height, width)
    sprites = Sprites(weights, values, depth, cameras)
    shifts = torch.tensor([[0.0, 0, 0], [0.21, -0.13, -0.6], [1.1, 0, 0.4], [0, 0, -2.4]])
    mean, alpha, surface = sprites.drawn(shifts, cameras, height, width)
    for n, shift in enumerate(shifts):
        total, weight = splatted_by_hand(sprites, shift, cameras, height, width)
        torch.testing.assert_close(alpha[n, :, 0], weight.clamp(max=1).float(), atol=1e-4, rtol=0)
        wanted = total / weight.clamp_min(1e-6)[:, None]
        sure = (weight > 1e-3)[:, None]
        for ours, theirs in ((mean[n], wanted[:, :-1]), (surface[n], wanted[:, -1:])):
            torch.testing.assert_close(ours * sure, (theirs * sure).float(), atol=2e-3, rtol=0)
    own = weights > 0
    same = mean[0].movedim(1, -1)[own], values.movedim(1, -1)[own]
    torch.testing.assert_close(*same, atol=1e-4, rtol=0)


def paths(cards, wrong_by=0):
    """Shifts that are found and true ones [K, T, 3], of cards that move; what is generated stands
    so many pixels too low."""
    scene, given = CardScene(cards), both_references()
    frames = scene.generated(given)
    frames = torch.where(given[:, :, None, None, None], frames, frames.roll(wrong_by, dims=3))
    objects = moving_objects(frames, scene.depth, CAMERAS, 0)
    plate = plate_of(frames, scene.depth, objects, 0)
    cutouts = [Cutout.of(item, frames[:, 0], plate) for item in objects]
    found = tracked(frames, cutouts, plate, CAMERAS, given, 0)
    wanted = [
        torch.stack([card.at(time) - card.at(0) for time in range(TIMES)])
        for card in sorted(cards, key=lambda card: -card.half / card.center[2])
        if any(card.step)
    ]
    return found, torch.stack(wanted)


def test_the_path_of_an_object_is_found_in_soft_frames():
    """Within a quarter of a pixel across, and a hundredth of its depth along the line of sight;
    it moves by 15 pixels."""
    card = Card((-0.4, 0.0, 2.5), RED, step=(0.08, 0.02, -0.03))
    (found,), (wanted,) = paths([card])
    off = (found - wanted).abs()
    assert wanted.norm(dim=1).max() * FOCAL / 2.5 > 15
    assert off[:, :2].max() * FOCAL / 2.5 < 0.25
    assert off[:, 2].max() < 0.025


def test_the_given_video_weighs_most():
    """All views of the generated grid have the object 2 pixels too low, the given video has not."""
    card = Card((-0.4, 0.0, 2.5), RED, step=(0.08, 0.02, 0.0))
    (found,), (wanted,) = paths([card], wrong_by=2)
    off = (found - wanted)[1:] * FOCAL / 2.5
    assert off[:, 1].abs().max() < 0.5


def test_objects_that_pass_each_other_keep_their_own_paths():
    """The nearer one hides the farther one for some times."""
    cards = [
        Card((-0.45, 0.05, 2.3), RED, 0.25, step=(0.1, 0.0, 0.0)),
        Card((0.5, -0.1, 3.0), BLUE, 0.35, step=(-0.08, 0.0, 0.0)),
    ]
    found, wanted = paths(cards)
    off = (found - wanted).abs()[..., :2] * FOCAL / 2.5
    assert off[0].max() < 0.8 and off[1].max() < 0.4


def test_a_given_time_may_be_any():
    """Photos at the last time: the path is found backwards."""
    card = Card((-0.4, 0.0, 2.5), RED, step=(0.08, 0.02, 0.0))
    scene, last = CardScene([card]), TIMES - 1
    given = both_references().flip(1)
    frames = scene.generated(given)
    objects = moving_objects(frames, scene.depth, CAMERAS, last)
    plate = plate_of(frames, scene.depth, objects, last)
    cutouts = [Cutout.of(item, frames[:, last], plate) for item in objects]
    (found,) = tracked(frames, cutouts, plate, CAMERAS, given, last)
    wanted = torch.stack([card.at(time) - card.at(last) for time in range(TIMES)])
    assert (found - wanted)[:, :2].abs().max() * FOCAL / 2.5 < 0.4


def test_what_was_outside_the_frame_is_not_known_later():
    """An object at the left edge that moves to the right by its size brings pixels with it that
    lay beyond the edge."""
    card = Card((-0.95, 0.0, 2.5), RED, step=(0.09, 0.0, 0.0))
    scene = CardScene([card])
    (item,) = moving_objects(scene.generated(both_references()), scene.depth, CAMERAS, 0)
    shift = card.at(8) - card.at(0)
    beyond = unseen_before([item], shift[None], CAMERAS, (SIZE, SIZE))
    depth = torch.full((len(PLACES), SIZE, SIZE), 2.5)
    before = unproject(depth, *CAMERAS).flatten(1, 2) - shift
    pixels = project(before, *CAMERAS)[0].view(-1, SIZE, SIZE, 2)
    left = pixels[..., 0] < 0
    assert item.hidden.flatten(1).any(1).tolist() == [True, True, False, True]
    left[2] = False
    assert (
        not beyond[2].any()
        and (beyond & left).sum() > 500
        and beyond[left & (scene.shown[:, 8] == 1)].all()
    )
    assert not beyond[pixels[..., 0] > 3].any()


def test_behind_what_stands_in_front_nothing_is_known_later():
    """A card that a pillar hides in part comes out from behind it: in the pillar's place at the
    first time its pixels are unseen, in views in which the pillar hides some of it."""
    card = Card((-0.4, 0.0, 2.5), RED, step=(-0.04, 0.05, 0))
    pillar = Card((0.15, 0, 1.5), BLUE, 0.2)
    scene = CardScene([card, pillar])
    (item,) = moving_objects(scene.generated(both_references()), scene.depth, CAMERAS, 0)
    shift = card.at(8) - card.at(0)
    unseen = unseen_before([item], shift[None], CAMERAS, (SIZE, SIZE))
    assert not unseen[[0, 2]].any()
    depth = torch.full((len(PLACES), SIZE, SIZE), 2.5)
    moved = unproject(depth, *CAMERAS) - shift
    of_card = ((moved - torch.tensor(card.center)).abs() < 0.27).all(-1)
    pixels = project(moved.flatten(1, 2), *CAMERAS)[0].view(-1, SIZE, SIZE, 2).long()
    for view in (1, 3):
        column, row = pixels[view].clamp(0, SIZE - 1).unbind(-1)
        behind = of_card[view] & (scene.shown[view, 0][row, column] == 2)
        assert behind.sum() > 10 and unseen[view][behind].float().mean() > 0.95
        shown = of_card[view] & (scene.shown[view, 0][row, column] == 1)
        assert unseen[view][shown].float().mean() < 0.35


def test_the_nearest_layer_of_each_pixel_is_drawn_last():
    """Three layers over a background, against a loop over the pixels."""
    torch.manual_seed(3)
    back = torch.rand(2, 3, 4, 5)
    layers = [
        (torch.rand(2, 3, 4, 5), torch.rand(2, 1, 4, 5), 1 + torch.rand(2, 1, 4, 5))
        for _ in range(3)
    ]
    wanted = back.clone().double()
    for view, row, column in product(range(2), range(4), range(5)):
        at = view, slice(None), row, column
        for colors, alpha, _ in sorted(layers, key=lambda layer: -float(layer[2][at])):
            wanted[at] += alpha[at].double() * (colors[at].double() - wanted[at])
    torch.testing.assert_close(composited(back, layers), wanted.float())
    tried = [tuple(x[None].expand(4, -1, -1, -1, -1) for x in layers[0]), *layers[1:]]
    found = composited(back, tried)  # one of them at four places
    assert found.shape == (4, *back.shape)
    torch.testing.assert_close(found[2], wanted.float())
