"""What moves is cut out of frames of one time, and what rests is not."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F

from fourreal.cameras import unproject
from fourreal.moving_objects.segmentation import (
    STEP,
    Cutout,
    alike_parts,
    bounded,
    clustered,
    components,
    flooded,
    hidden_parts,
    leaves,
    mostly_in,
    moving_objects,
    spread_labels,
    voted,
    without_rims,
)
from fourreal.neighborhoods import blurred, eroded, grown, ring_filled
from fourreal.scenes import make_scene, scene_seed

from .cards import BLUE, CAMERAS, GREEN, RED, SIZE, Card, CardScene, both_references


def test_each_object_that_moves_is_cut_out_and_those_that_rest_are_not():
    """Three cards, of which one rests: each of the others without its rim of one pixel."""
    moves = {"step": (0.06, 0.04, 0.0)}
    cards = [
        Card((-0.5, -0.2, 2.5), RED, **moves),
        Card((0.1, 0.5, 2.6), GREEN, 0.2),
        Card((0.6, 0.0, 3.0), BLUE, **moves),
    ]
    scene = CardScene(cards)
    found = moving_objects(scene.generated(both_references()), scene.depth, CAMERAS, 0)
    assert len(found) == 2
    for item, number in zip(found, (1, 3), strict=True):
        wanted = scene.shown[:, 0] == number
        assert (item.mask & ~wanted).sum() == 0
        assert (item.mask & wanted).sum() > 0.7 * wanted.sum()
        center = torch.tensor(cards[number - 1].center)
        torch.testing.assert_close(item.center, center, atol=0.03, rtol=0)
        square = torch.cartesian_prod(*[torch.linspace(-0.3, 0.3, 99)] * 2).norm(dim=1)
        assert item.radius == pytest.approx(float(square.quantile(0.9)), rel=0.15)
        torch.testing.assert_close(
            item.depth[item.mask], torch.full_like(item.depth[item.mask], float(center[2]))
        )


def test_views_outvote_one_that_errs():
    """A square is missing in one view's mask, and one is too much in another's."""
    scene = CardScene([Card((0.0, 0.0, 2.5), RED)])
    exact = scene.shown[:, 0] == 1
    wrong = exact.clone()
    wrong[1, 28:34, 28:34] = False
    wrong[2, 5:12, 40:46] = True
    assert wrong[1].sum() < exact[1].sum() and wrong[2].sum() > exact[2].sum()
    found = voted(wrong, scene.frames[:, 0], scene.depth[:, 0], CAMERAS)
    rims = grown(exact, 1) & ~eroded(exact, 1)
    assert torch.equal(found[~rims], exact[~rims])


def test_what_stands_in_front_may_hide_more():
    """A pillar stands before a card in the second and fourth view, or in none: hidden are pixels
    of the pillar alone, those behind which the other views see the card."""
    for place, wanted in ((0.15, [False, True, False, True]), (0.5, [False] * 4)):
        cards = [
            Card((-0.4, 0.0, 2.5), RED, step=(-0.04, 0.05, 0)),
            Card((place, 0, 1.5), BLUE, 0.2),
        ]
        scene, alone = CardScene(cards), CardScene(cards[:1])
        (item,) = moving_objects(scene.generated(both_references()), scene.depth, CAMERAS, 0)
        behind = (alone.shown[:, 0] == 1) & (scene.shown[:, 0] == 2)
        assert (behind.flatten(1).sum(1) > 20).tolist() == wanted
        assert item.hidden.flatten(1).any(1).tolist() == wanted
        assert not (item.hidden & ~grown(behind, 2)).any()
        assert item.hidden[behind].float().mean() > 0.8 or not any(wanted)


def test_beyond_the_edge_there_may_be_more():
    """Of an object that reaches the frame's edge by more than three pixels, and of one that is not
    in the frame; not of one that stands inside."""
    mask = torch.zeros(4, SIZE, SIZE, dtype=torch.bool)
    mask[0, 20:40, 10:20] = True
    mask[1, 20:40, :9] = True
    mask[2, 61:, 10:13] = True
    depth = torch.full(mask.shape, 2.0)
    points = unproject(depth, *CAMERAS)[0][mask[0]]
    hidden = hidden_parts(mask, points, depth, CAMERAS)
    edge = torch.ones_like(mask[0])
    edge[1:-1, 1:-1] = False
    assert not hidden[0].any() and not hidden[2].any()
    assert torch.equal(hidden[1], edge) and torch.equal(hidden[3], edge)


def test_parts_are_filled_where_most_of_them_is_found():
    """Two halves of different colours: of one 60% are found, of the other 40%."""
    colors = torch.zeros(1, 3, 20, 20)
    colors[..., 10:] = 0.5
    mask = torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[:, :12, :10] = mask[:, :8, 10:] = True
    found = mostly_in(mask, alike_parts(torch.ones_like(mask), colors))
    assert found[..., :10].all() and not found[..., 10:].any()


def test_a_piece_of_a_larger_surface_is_no_part_of_an_object():
    """A red square whose lower right quarter is grey as the ground, and a grey strip to the left
    of it: the strip goes on beyond the mask on all of its boundary but 12 pixels, the quarter on
    half of its 24, unless depth says where it ends."""
    colors = torch.full((1, 3, 40, 40), 0.5)
    colors[0, :, 10:22, 10:22] = torch.tensor(RED)[:, None, None]
    colors[..., 16:22, 16:22] = 0.5
    square, strip = torch.zeros(2, 1, 40, 40, dtype=torch.bool)
    square[:, 10:22, 10:22] = strip[:, 10:22, 6:10] = True
    quarter = square.clone()
    quarter[:, :16] = quarter[..., :16] = False
    flat = torch.full((1, 40, 40), 2.0)
    assert torch.equal(bounded(square | strip, colors, flat), square)
    step = torch.where(square, 1.9, 2.0)
    assert torch.equal(bounded(square | strip, colors, step), square)
    quarter[:, 22, 16:22] = True  # of its 26 pixels of boundary 14 are open now
    assert torch.equal(bounded(quarter, colors, flat), torch.zeros_like(quarter))
    assert torch.equal(bounded(quarter, colors, torch.where(quarter, 1.9, 2.0)), quarter)
    everywhere = torch.ones_like(square)  # the frame's edge is no boundary
    assert bounded(everywhere, torch.full_like(colors, 0.5), flat).all()


def test_a_piece_of_the_wall_that_is_generated_otherwise_is_no_object():
    """From the fifth time on it is as dark in all views as if something had left there."""
    scene = CardScene([Card((-0.5, -0.2, 2.5), RED, step=(0.0, 0.04, 0.0))])
    soft = scene.generated(both_references())
    x, y, _ = unproject(torch.full((4, SIZE, SIZE), 4.0), *CAMERAS).unbind(-1)
    piece = (x > 0.3) & (x < 0.9) & (y.abs() < 0.4)
    assert piece.flatten(1).sum(1).min() > 80 and not piece[(scene.shown == 1).any(1)].any()
    later = torch.zeros_like(scene.shown, dtype=torch.bool)
    later[:, 4:] = piece[:, None]
    soft = torch.where(later[:, :, None], 0.1, soft)
    depth = torch.where(later, 4.6, scene.depth)
    (item,) = moving_objects(soft, depth, CAMERAS, 0)
    assert not (item.mask & piece).any()
    soft[:, 0] = torch.where(piece[:, None], 0.9, soft[:, 0])  # it did leave: a card of that colour
    assert len(moving_objects(soft, depth, CAMERAS, 0)) == 2


def test_what_stands_still_while_others_pass_does_not_leave():
    """Of four parts that change their colours one is seen to have left its place, one is covered
    by something nearer, one is shaded at times, and one is seldom different, but deeper then."""
    frames, depth = torch.full((1, 10, 3, 9, 40), 0.5), torch.full((1, 10, 9, 40), 2.0)
    for part in range(4):
        frames[..., 10 * part : 10 * part + 10] += 0.1 * part
    mask = torch.ones(1, 9, 40, dtype=torch.bool)
    mask[..., 9::10] = False
    frames[:, 4:, :, :, :10], depth[:, 4:, :, :10] = 0.1, 3.0
    frames[:, 4:, :, :, 10:20], depth[:, 4:, :, 10:20] = 0.1, 1.5
    frames[:, 4:, :, :, 20:30] *= 0.5
    frames[:, 9:, :, :, 30:], depth[:, 9:, :, 30:] = 0.1, 3.0
    found = leaves(frames, depth, mask, 0)
    assert [bool(found[0, 4, 10 * part + 4]) for part in range(4)] == [True, False, False, True]
    assert torch.equal(found, mask & found[:, 4:5, 4::10].repeat_interleave(10, 2))
    frames[:, 8:, :, :, 20:30], depth[:, 8:, :, 20:30] = 0.1, 3.0  # it does leave, after that
    assert leaves(frames, depth, mask, 0)[0, 4, 24]


@pytest.mark.parametrize(("other", "deeper", "moves"), [(8, 2, False), (8, 4, True), (16, 4, True)])
def test_what_is_seldom_different_moves_if_it_is_often_deeper_then(other, deeper, moves):
    """Of a hundred times."""
    frames, depth = torch.full((1, 100, 3, 9, 9), 0.5), torch.full((1, 100, 9, 9), 2.0)
    frames[:, -other:], depth[:, -deeper:] = 0.1, 3.0
    mask = torch.ones(1, 9, 9, dtype=torch.bool)
    assert (leaves(frames, depth, mask, 0) == moves).all()


def test_the_floor_under_a_ball_that_passes_is_no_object():
    """Seen by views whose depth of the floor is not sure."""
    scene = make_scene(scene_seed("validation", 35), 8, 29, 64, 64)
    frames = blurred(scene.frames, 1.2)
    frames[:, 0] = scene.frames[:, 0]
    torch.manual_seed(0)
    rough = 1 + 0.06 * torch.randn(8, 29, 4, 4)
    rough = F.interpolate(rough, (64, 64), mode="bilinear")
    depth = scene.depth * torch.where(rough > 1, rough, 1)
    depth[:, 0] = scene.depth[:, 0]
    moves = (scene.depth / scene.depth[:, :1]).amax(1) > 1.05
    objects = moving_objects(frames, depth, (scene.extrinsics, scene.intrinsics), 0)
    assert objects
    for item in objects:
        assert (item.mask & grown(moves, 2)).sum() > 0.9 * item.mask.sum()


@pytest.mark.parametrize("number", [3, 7, 10])
def test_it_finds_what_moves_in_drawn_scenes(number):
    """Soft frames but for the first time: what is found is what moves, and nearly all of it."""
    scene = make_scene(scene_seed("validation", number), 8, 29, 64, 64)
    frames = blurred(scene.frames, 1.2)
    frames[:, 0] = scene.frames[:, 0]
    found = moving_objects(frames, scene.depth, (scene.extrinsics, scene.intrinsics), 0)
    mask, wanted = torch.stack([item.mask for item in found]).any(0), scene.moving[:, 0]
    assert (mask & wanted).sum() > 0.9 * mask.sum()
    assert (mask & wanted).sum() > 0.9 * wanted.sum()


def test_where_nothing_moves_nothing_is_found():
    scene = CardScene([Card((0.0, 0.0, 2.5), RED)])
    assert moving_objects(scene.generated(both_references()), scene.depth, CAMERAS, 0) == []


def flooded_by_hand(start, where, colors, depth):
    """One pixel after the other."""
    reached = start & where
    open_ = [tuple(place) for place in reached.nonzero().tolist()]
    while open_:
        view, y, x = open_.pop()
        for row, column in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if not (0 <= row < where.shape[1] and 0 <= column < where.shape[2]):
                continue
            step = (colors[view, :, y, x] - colors[view, :, row, column]).abs().max()
            upper, lower = (view, min(y, row), min(x, column)), (view, max(y, row), max(x, column))
            slope = abs(depth[lower] / depth[upper] - 1)
            place = view, row, column
            if where[place] and not reached[place] and step < STEP and slope < 0.02:
                reached[place] = True
                open_.append(place)
    return reached


def test_flooding_stops_at_steps_of_colour_and_of_depth():
    torch.manual_seed(0)
    colors = 0.1 * torch.rand(2, 3, 20, 24).round(decimals=1)
    colors = torch.where(torch.rand(2, 1, 20, 24) < 0.6, colors[:, :, :1, :1], colors)
    depth = torch.where(torch.rand(2, 20, 24) < 0.8, 2.0, 3.0)
    where, start = torch.rand(2, 20, 24) < 0.9, torch.rand(2, 20, 24) < 0.03
    wanted = flooded_by_hand(start, where, colors, depth)
    assert (start & where).sum() + 30 < wanted.sum() < where.sum() - 30
    assert torch.equal(flooded(start, where, colors, depth), wanted)
    more = flooded(start, where, colors)
    assert torch.equal(more, flooded_by_hand(start, where, colors, torch.ones_like(depth)))


@pytest.mark.parametrize("edges", [0, 30, 60, 200])
def test_components_of_a_graph_are_named_by_their_first_node(edges):
    torch.manual_seed(edges)
    ends = torch.randint(80, (2, edges))
    wanted = list(range(80))
    for _ in range(80):
        for a, b in ends.T.tolist():
            wanted[a] = wanted[b] = min(wanted[a], wanted[b])
    assert components(80, ends).tolist() == wanted


def test_a_long_chain_is_one_component():
    chain = torch.randperm(5000, generator=torch.Generator().manual_seed(0))
    assert not components(5000, torch.stack([chain[:-1], chain[1:]])).any()


def test_points_are_of_one_object_where_their_cubes_touch():
    torch.manual_seed(1)
    points, gap = torch.rand(150, 3, dtype=torch.float64) - 3, 0.1
    cubes = ((points - points.amin(0)) / gap).floor()
    near = (cubes[:, None] - cubes).abs().amax(-1) <= 1
    same = near.clone()
    for _ in range(150):
        same = (same.double() @ near.double()) > 0
    labels = clustered(points, gap)
    assert torch.equal(labels[:, None] == labels, same)
    assert 5 < len(labels.unique()) < 100
    assert len(clustered(points[:0], gap)) == 0


def test_labels_spread_in_rings_with_the_depth_beside_them():
    labels = torch.full((1, 5, 9), -1)
    labels[:, :, 0], labels[:, :, 8] = 4, 7
    mask = torch.ones_like(labels, dtype=torch.bool)
    mask[0, :, 6] = False
    depth = torch.full(labels.shape, 99.0)
    depth[:, :, 0], depth[:, :, 8] = 2.0, 5.0
    found, filled = spread_labels(labels, mask, torch.zeros(1, 3, 5, 9), depth)
    assert found[0, 2].tolist() == [4, 4, 4, 4, 4, 4, -1, 7, 7]
    assert filled[0, 2].tolist() == [2, 2, 2, 2, 2, 2, 99, 5, 5]


def test_where_objects_touch_labels_end_at_the_step_of_colour():
    """However much farther the sure part of one of them is from it."""
    colors = torch.full((1, 3, 5, 12), 0.2)
    colors[..., 6:] = 0.7
    labels = torch.full((1, 5, 12), -1)
    labels[..., :6], labels[..., 9:] = 4, 7
    mask = torch.ones_like(labels, dtype=torch.bool)
    found, filled = spread_labels(labels, mask, colors, torch.where(labels == 4, 2.0, 3.0))
    assert found[0, 2].tolist() == 6 * [4] + 6 * [7]
    assert filled[0, 2].tolist() == 6 * [2] + 6 * [3]


def test_labels_go_farther_where_colors_hardly_change():
    """By five pixels in any case, and to a part's end where it has a third of it and no other label
    is there."""
    cases = (
        ([12], [0], 12),  # one part, 6 of 12 pixels are reached, then all
        ([4, 8], [0], 6),  # two colours: none of the second is reached but two pixels, then it ends
        ([30], [0], 6),  # 6 of 30: too little of it
        ([12], [0, 11], 6),  # both ends have labels of their own
    )
    for widths, starts, reached in cases:
        shades = torch.cat([torch.full((w,), 0.3 * n) for n, w in enumerate(widths)])
        colors = shades.expand(1, 3, 3, -1)
        labels = torch.full((1, 3, len(shades)), -1)
        for number, column in enumerate(starts):
            labels[:, :, column] = number
        mask, depth = torch.ones_like(labels, dtype=torch.bool), torch.full(labels.shape, 2.0)
        found, _ = spread_labels(labels, mask, colors, depth)
        assert (found[0, 1] == 0).sum() == reached


def test_the_rim_of_an_object_is_no_object():
    """Around a square lies a ring, whose depth is between its own and the ground's; another square
    stands by itself, and a large one touches the first."""
    labels = torch.full((1, 60, 60), -1)
    labels[:, 7:27, 7:27] = 2
    labels[:, 10:24, 10:24] = 5
    labels[:, 40:52, 40:52] = 3
    labels[:, 10:24, 27:50] = 9
    assert without_rims(labels, torch.tensor([9, 5, 2, 3])).tolist() == [9, 5, 3]


def test_rings_are_means_of_what_is_known_beside_them():
    """A plain loop in float64 is the twin."""
    torch.manual_seed(0)
    maps, known = torch.rand(2, 3, 12, 10), torch.rand(2, 12, 10) < 0.05
    where = torch.rand(2, 12, 10) < 0.85
    wanted, done = maps.double() * known[:, None], known.clone()
    for _ in range(40):
        before = done.clone()
        for n, y, x in product(range(2), range(12), range(10)):
            rows, columns = slice(max(0, y - 1), y + 2), slice(max(0, x - 1), x + 2)
            around = before[n, rows, columns]
            if where[n, y, x] and not before[n, y, x] and around.any():
                wanted[n, :, y, x] = wanted[n, :, rows, columns][:, around].mean(1)
                done[n, y, x] = True
    found = ring_filled(maps, known, where)
    assert done.sum() > 3 * known.sum()
    torch.testing.assert_close(found, wanted.float())


def test_a_cutout_has_the_share_of_each_pixel_that_is_its_own():
    """Antialiased frames of a card over the exact plate: alpha is the share that 4 x 4 rays hit,
    and colours are the card's own, without the wall's."""
    card = Card((-0.3, 0.1, 2.5), RED, step=(0.1, 0.05, 0.0))
    scene, plate = CardScene([card]), CardScene([]).frames[:, 0]
    frames = scene.frames[:, 0]
    found = moving_objects(scene.generated(both_references()), scene.depth, CAMERAS, 0)
    cutout = Cutout.of(found[0], frames, plate)
    hit = scene.drawn(0, 4)[2].float()
    wanted = torch.nn.functional.avg_pool2d(hit[:, None], 4)
    assert ((wanted > 0.1) & (wanted < 0.9)).sum() > 200
    rims = (cutout.alpha - wanted).abs()
    assert rims.mean() < 0.002 and rims.quantile(0.999) < 0.25
    made = plate + cutout.alpha * (cutout.colors - plate)
    assert (made - frames).abs().mean() < 0.001
    whole = found[0].mask[:, None].float()
    assert rims.mean() < 0.2 * (whole - wanted).abs().mean()
