"""Warping into other cameras: what is known is right, and what is not known is not claimed."""

import logging
import math
from dataclasses import replace

import pytest
import torch

from fourreal.cameras import (
    arc_cameras,
    pixel_grid,
    pixel_intrinsics,
    point_ahead,
    project,
    unproject,
)
from fourreal.gaussians import Gaussians, GaussianScene
from fourreal.neighborhoods import beside_jumps, grown
from fourreal.reconstruction.from_depth import scene_from_depth
from fourreal.rendering import render
from fourreal.scenes import make_scene, scene_seed
from fourreal.warp import (
    LAST,
    NEAREST,
    THICKNESS,
    TOLERANCE,
    SeenSurface,
    unseen_in_front,
    warp_grid,
)

SIZE = 64
CAMERA, LENS = torch.eye(3, 4), pixel_intrinsics(torch.tensor(0.9), SIZE, SIZE)
INSTANCES = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])


def exact(seed, size, num_frames, given):
    """A procedural scene, and the scene made of one of its views."""
    truth = make_scene(scene_seed("validation", seed), 8, num_frames, size, size)
    one = slice(given, given + 1)
    view = (truth.depth[one], truth.extrinsics[one], truth.intrinsics[one])
    return truth, view, scene_from_depth(truth.frames[one], *view)


def psnr(a, b, mask):
    return float(-10 * (a - b).square().movedim(-3, -1)[mask].mean().log10())


# -- against exact answers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "size", "given", "least"),
    [(1, 64, 0, 31), (2, 64, 4, 33), pytest.param(3, 192, 0, 36, marks=pytest.mark.slow)],
)
def test_known_pixels_show_what_is_there(seed, size, given, least):
    truth, (depth, *camera), scene = exact(seed, size, 3, given)
    warped = warp_grid(scene, truth.extrinsics, truth.intrinsics, size, size)
    known = warped.missing[:, :, 0] == 0
    known[given] = False
    assert psnr(warped.frames, truth.frames, known) > least
    assert known[[v for v in range(8) if v != given]].float().mean() > 0.45

    # The same pixels coloured by the object that they are on.
    palette = INSTANCES[truth.instances].movedim(-1, 2)
    one = slice(given, given + 1)
    colored = scene_from_depth(palette[one], depth, *camera, moving=truth.moving[one])
    wrong = 0
    for time in range(3):
        drawn = render(colored.at(time), truth.extrinsics, truth.intrinsics, size, size).color
        nearest = (drawn[..., None, :] - INSTANCES).square().sum(-1).argmin(-1)
        wrong += int(((nearest != truth.instances[:, time]) & known[:, time]).sum())
    assert wrong <= 0.01 * int(known.sum())


def card_before_a_wall(num_times=5, size=SIZE):
    """A bright card that slides before a textured wall: frames [1, T, 3, H, W], depth
    [1, T, H, W] of CAMERA, and a function that draws the exact answer for another camera."""

    def answer(extrinsics, intrinsics, time):
        """Colours [3, H, W] and whether the card is seen [H, W]."""
        rays = pixel_grid(size, size).flatten(0, 1)
        rays = torch.cat([rays, torch.ones(len(rays), 1)], -1) @ torch.linalg.inv(intrinsics).T
        rays = rays @ extrinsics[:, :3]
        center = -extrinsics[:, :3].T @ extrinsics[:, 3]
        wall = center + rays * ((4 - center[2]) / rays[:, 2:])
        card = center + rays * ((2 - center[2]) / rays[:, 2:])
        left = -0.5 + time / (num_times - 1) - 0.2
        on_card = (card[:, 0] > left) & (card[:, 0] < left + 0.4) & (card[:, 1].abs() < 0.25)
        waves = [0.5 + 0.3 * torch.sin(wall[:, i] * f) for i, f in ((0, 3.0), (1, 4.0), (0, 5.0))]
        color = torch.where(on_card[:, None], torch.tensor([1.0, 0.9, 0.1]), torch.stack(waves, -1))
        return color.T.view(3, size, size), on_card.view(size, size)

    lens = pixel_intrinsics(torch.tensor(0.9), size, size)
    drawn = [answer(CAMERA, lens, t) for t in range(num_times)]
    depth = torch.stack([torch.where(card, 2.0, 4.0) for _, card in drawn])
    return torch.stack([color for color, _ in drawn])[None], depth[None], answer


def test_background_uncovered_at_another_time_is_known_at_all_times():
    frames, depth, answer = card_before_a_wall()
    scene = scene_from_depth(frames, depth, CAMERA[None], LENS[None])
    centre = point_ahead(CAMERA, 3.0)
    cameras = arc_cameras(CAMERA, LENS, 5, degrees=40, centre=centre, given=2)
    warped = warp_grid(scene, *cameras, SIZE, SIZE, grow=0)
    checked = 0
    for view in (0, 1, 3, 4):
        camera = cameras[0][view], cameras[1][view]
        for time in range(5):
            color, card = answer(*camera, time)
            in_input = depth[0, time] < 3
            hidden_now, inside = read(in_input, at_depth(*camera, 4.0))
            # But for lines of sight through what the card may be thick, and its dropped rims.
            rims = grown(in_input[None], 5)[0]
            near_card = [read(rims, at_depth(*camera, z))[0] for z in torch.linspace(2, 2.3, 8)]
            uncovered = hidden_now & inside & ~card & ~torch.stack(near_card).any(0)
            checked += int(uncovered.sum())
            assert (warped.missing[view, time, 0][uncovered] == 0).all()
            error = (warped.frames[view, time] - color).abs().amax(0)[uncovered]
            assert not len(error) or error.max() < 0.08
    assert checked > 400


@pytest.mark.parametrize("wrong", [0.85, 1.15])
def test_what_moves_at_a_depth_in_doubt_is_not_known_from_beside(wrong):
    """A card whose depth is wrong is drawn in a wrong place, and its own place shows the wall."""
    frames, depth, answer = card_before_a_wall()
    card = depth < 3
    cameras = arc_cameras(CAMERA, LENS, 5, degrees=40, centre=point_ahead(CAMERA, 3.0), given=2)

    def known(confidence):
        guess = torch.where(card, wrong * depth, depth)
        scene = scene_from_depth(frames, guess, CAMERA[None], LENS[None], confidence=confidence)
        return warp_grid(scene, *cameras, SIZE, SIZE, grow=0)

    def misplaced(warped):
        """Known pixels that show the card where the wall is, or the wall where the card is."""
        exact = [[answer(*camera, time)[0] for time in range(5)] for camera in zip(*cameras)]
        error = warped.frames - torch.stack([torch.stack(view) for view in exact])
        return int(((error.abs().amax(2) > 0.3) & (warped.missing[:, :, 0] == 0)).sum())

    unsure = torch.where(card, 1 + 1e-6, 6.0)
    unknown, said, sure = known(None), known(unsure), known(torch.where(card, 1.001, 6.0))
    assert misplaced(unknown) > 150 and misplaced(said) < 20
    assert torch.equal(sure.missing, unknown.missing)  # 1.001 is doubt enough for no one
    assert torch.equal(said.missing[2], unknown.missing[2])  # in its own view it stays
    # What is far from the card stays known: half of what was, or more.
    assert said.known_share.mean() > 0.5 * unknown.known_share.mean()
    still = known(torch.full_like(depth, 1.0))  # what stands still is seen at many times
    assert torch.equal(still.missing, said.missing)


def at_depth(extrinsics, intrinsics, z):
    """Where the lines of sight [H, W] of a camera pass a depth of CAMERA: points [H, W, 3]."""
    near = unproject(torch.ones(SIZE, SIZE), extrinsics, intrinsics)
    center = -extrinsics[:, :3].T @ extrinsics[:, 3]
    return center + (near - center) * ((z - center[2]) / (near - center)[..., 2:])


def read(mask, points):
    """A mask [H, W] of CAMERA's image at world points [H, W, 3], and which lie well inside it."""
    pixels = project(points.flatten(0, 1), CAMERA, LENS)[0].view(SIZE, SIZE, 2)
    inside = ((pixels > 2) & (pixels < SIZE - 2)).all(-1)
    x, y = pixels.floor().long().clamp(0, SIZE - 1).unbind(-1)
    return mask[y, x], inside


def test_what_moves_is_drawn_only_at_its_own_time():
    frames, depth, answer = card_before_a_wall()
    scene = scene_from_depth(frames, depth, CAMERA[None], LENS[None])
    warped = warp_grid(scene, CAMERA[None], LENS[None], SIZE, SIZE, grow=0)
    for time in range(5):
        _, card = answer(CAMERA, LENS, time)
        bright = (warped.frames[0, time] - torch.tensor([1, 0.9, 0.1])[:, None, None]).abs().sum(
            0
        ) < 0.2
        assert not (bright & ~card).any()
        assert (bright & card).sum() > 0.5 * card.sum()


def test_the_foreground_lets_nothing_shine_through():
    frames, depth, answer = card_before_a_wall()
    scene = scene_from_depth(frames, depth, CAMERA[None], LENS[None])
    cameras = arc_cameras(CAMERA, LENS, 5, degrees=60, centre=point_ahead(CAMERA, 2.0), given=2)
    warped = warp_grid(scene, *cameras, SIZE, SIZE, grow=0)
    for view in range(5):
        for time in (1, 2, 3):
            color, card = answer(cameras[0][view], cameras[1][view], time)
            inner = ~grown(~card[None], 4)[0]
            assert inner.any()
            assert (warped.missing[view, time, 0][inner] == 0).all()
            assert (warped.frames[view, time] - color).abs().amax(0)[inner].max() < 0.02


@pytest.mark.parametrize("size", [64, 128, 192])
def test_a_slanted_floor_has_no_pin_holes_from_steeper_views(size):
    lens = pixel_intrinsics(torch.tensor(0.8), size, size)
    level = torch.tensor(
        [[1.0, 0, 0, 0], [0, 0.906, -0.423, 0], [0, 0.423, 0.906, 0]]
    )  # 25 degrees down
    below = 1.0  # the floor's height under the camera

    def floor(extrinsics):
        near = unproject(torch.ones(size, size), extrinsics, lens)
        center = -extrinsics[:, :3].T @ extrinsics[:, 3]
        ray = near - center
        return center + ray * ((below - center[1]) / ray[..., 1:2])

    depth = project(floor(level).flatten(0, 1), level, lens)[1].view(1, 1, size, size)
    assert depth.min() > 0 and depth.max() < 100
    frames = torch.full((1, 1, 3, size, size), 0.8)
    scene = scene_from_depth(frames, depth, level[None], lens[None])
    centre = point_ahead(level, depth.median().item())
    cameras = arc_cameras(level, lens, 4, degrees=45, elevation=20, centre=centre)
    warped = warp_grid(scene, *cameras, size, size, grow=0)
    for view in range(4):
        hit = floor(cameras[0][view]).flatten(0, 1)
        pixels, distance = project(hit, level, lens)
        inside = ((pixels > 3) & (pixels < size - 3)).all(-1) & (distance > 0)
        inside = inside.view(size, size)
        assert inside.float().mean() > 0.3
        assert (warped.missing[view, 0, 0][inside] == 0).all()


@pytest.mark.parametrize("elsewhere", [0.0, 0.1])
def test_the_search_for_unseen_space_agrees_with_a_plain_loop(elsewhere, monkeypatch):
    truth, _, _ = exact(5, SIZE, 1, 0)
    camera = truth.extrinsics[0], truth.intrinsics[0]
    doubt = elsewhere * (truth.instances[0, 0] > 0)
    surface = SeenSurface(truth.depth[0, 0], *camera, doubt)
    depth, camera = truth.depth[6, 0], (truth.extrinsics[6], truth.intrinsics[6])
    points = unproject(depth, *camera).flatten(0, 1)
    center = -camera[0][:, :3].T @ camera[0][:, 3]

    plain = torch.zeros(len(points), dtype=torch.bool)
    for share in torch.linspace(NEAREST, LAST, 1000):
        pixels, z = project(center + share * (points - center), *camera_of(surface))
        x, y = pixels.floor().long().clamp(0, SIZE - 1).unbind(-1)
        seen, more = surface.depth[y, x], doubt[y, x]
        begin, end = seen * (1 + TOLERANCE - more), seen * (1 + THICKNESS + more)
        plain |= (z > 0) & (z > begin) & (z < end)
    assert plain.sum() > 100

    found = unseen_in_front(points, center, [surface])
    assert (found & plain).sum() > 0.7 * plain.sum()  # in steps of two pixels
    assert (found & ~plain).sum() < 0.1 * plain.sum()
    monkeypatch.setattr("fourreal.warp.STRIDE", 0.2)
    fine = unseen_in_front(points, center, [surface])
    assert (fine ^ plain).sum() < 0.05 * plain.sum()


def camera_of(surface):
    return surface.extrinsics, surface.intrinsics


def test_what_one_camera_cannot_see_another_may():
    """The space behind a card is unseen from the front, but free for a camera beside it."""
    front = torch.full((SIZE, SIZE), 4.0)
    front[24:40, 24:40] = 2.0
    beside = torch.tensor(
        [[0.0, 0, -1, 2.2], [0, 1, 0, 0], [1, 0, 0, 3]]
    )  # from the left, at z 2.2
    points, center = torch.tensor([[0.0, 0.0, 3.9]]), torch.tensor([1.5, 0.0, 1.0])
    one = SeenSurface(front, CAMERA, LENS)
    two = SeenSurface(torch.full((SIZE, SIZE), 6.0), beside, LENS)
    assert unseen_in_front(torch.tensor([[-0.2, 0.0, 2.5]]), center, [one]).all()
    assert not unseen_in_front(torch.tensor([[-0.2, 0.0, 2.5]]), center, [one, two]).any()
    assert not unseen_in_front(points, torch.zeros(3), [two]).any()


# -- jumps --------------------------------------------------------------------------------------


def test_slanted_planes_and_creases_are_no_jumps():
    rows = torch.arange(40.0)
    plane = 1 / (0.2 + 0.01 * rows)  # 5 % of disparity per pixel at the top
    crease = 1 / (0.3 + 0.01 * (rows - 20).clamp_min(0))
    for profile in (plane, crease):
        depth = profile[:, None].expand(40, 30)[None]
        assert not beside_jumps(depth).any()
        assert not beside_jumps(depth.transpose(1, 2)).any()


@pytest.mark.parametrize("ramp", [0, 2])
def test_two_pixels_on_either_side_of_a_jump_are_beside_it(ramp):
    profile = torch.full((40,), 2.0)
    profile[20 + ramp :] = 3.0
    profile[20 : 20 + ramp] = torch.linspace(2, 3, ramp + 2)[1:-1]  # as networks blur it
    found = beside_jumps(profile.expand(1, 30, 40))[0]
    assert (found == found[:1]).all()
    assert found[0].nonzero()[:, 0].tolist() == list(range(18, 22 + ramp))


# -- holes, references and options --------------------------------------------------------------


def sheet(num_views=1):
    """One time of a grey sheet at depth 2 that covers the left half of the image."""
    depth = torch.full((1, 1, SIZE, SIZE), 2.0)
    scene = scene_from_depth(
        torch.full((1, 1, 3, SIZE, SIZE), 0.7), depth, CAMERA[None], LENS[None]
    )
    left = scene.static.means[:, 0] < 0
    return replace(scene, static=scene.static[left])


def test_holes_are_grey_and_grow_by_the_pixels_asked_for():
    holes = []
    for grow in (0, 2, 5):
        warped = warp_grid(sheet(), CAMERA[None], LENS[None], SIZE, SIZE, grow=grow)
        missing = warped.missing[0, 0, 0]
        assert (missing == missing[:1]).all() and missing.unique().tolist() == [0, 1]
        assert (warped.frames[0, 0][:, missing == 1] == 0.5).all()
        assert (warped.frames[0, 0][:, missing == 0] - 0.7).abs().max() < 1e-3
        assert warped.known_share.tolist() == pytest.approx([1 - missing.mean().item()])
        holes.append(int(missing[0].sum()))
    assert holes[0] in (SIZE // 2, SIZE // 2 - 1)
    assert [n - holes[0] for n in holes] == [0, 2, 5]


def test_specks_of_known_pixels_go_and_wide_areas_stay():
    scene = sheet()
    lonely = scene.static.means[:, 0] > -0.02
    alone = replace(scene, static=scene.static[lonely])
    assert warp_grid(alone, CAMERA[None], LENS[None], SIZE, SIZE, grow=0).missing.all()


def test_reference_cells_are_known_whole_and_repainting_leaves_them():
    frames = torch.rand(2, 1, 3, SIZE, SIZE)
    cells = torch.tensor([[False], [True]])
    cameras = CAMERA.expand(2, 3, 4), LENS.expand(2, 3, 3)
    warped = warp_grid(sheet(), *cameras, SIZE, SIZE, references=(frames, cells))
    assert torch.equal(warped.frames[1], frames[1]) and not warped.missing[1].any()
    assert 0 < warped.missing[0].mean() < 1
    again = warp_grid(sheet(), *cameras, SIZE, SIZE, references=(frames, cells), repaint_all=True)
    assert torch.equal(again.frames, warped.frames)  # the warp stays, as a draft
    assert again.missing[0].all() and not again.missing[1].any()


def test_soft_pixels_are_missing_below_min_alpha():
    scene = sheet()
    faint = replace(scene, static=replace(scene.static, opacities=scene.static.opacities * 0.3))
    assert warp_grid(faint, CAMERA[None], LENS[None], SIZE, SIZE, min_alpha=0.9).missing.all()
    warped = warp_grid(faint, CAMERA[None], LENS[None], SIZE, SIZE, min_alpha=0.5)
    known = warped.missing[0, 0, 0] == 0
    assert known.any()
    assert (warped.frames[0, 0][:, known] - 0.7).abs().max() < 1e-3  # not darkened


def test_splats_without_input_cameras_are_drawn_as_they_are():
    static = sheet().static
    scene = GaussianScene(
        static, [Gaussians.empty()], torch.zeros(0, 3, 4), torch.zeros(0, 3, 3), 1, 1
    )
    warped = warp_grid(scene, CAMERA[None], LENS[None], SIZE, SIZE)
    assert 0.3 < warped.known_share[0] < 0.6


def test_views_far_from_the_inputs_are_named(caplog):
    centre = point_ahead(CAMERA, 2.0)
    with caplog.at_level(logging.WARNING, "fourreal.warp"):
        warp_grid(sheet(), *arc_cameras(CAMERA, LENS, 3, degrees=45, centre=centre), 16, 16)
        assert not caplog.records
        warp_grid(sheet(), *arc_cameras(CAMERA, LENS, 3, degrees=100, centre=centre), 16, 16)
    assert "2 of 3 views look from up to 100 degrees" in caplog.text


def test_progress_counts_the_times_and_may_end_the_work():
    calls = []
    warp_grid(sheet(), CAMERA[None], LENS[None], 16, 16, progress=lambda *a: calls.append(a))
    assert calls == [(1, 1)]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        warp_grid(sheet(), CAMERA[None], LENS[None], 16, 16, progress=stop)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"extrinsics": torch.zeros(0, 3, 4), "intrinsics": torch.zeros(0, 3, 3)}, "same V"),
        ({"intrinsics": LENS.expand(2, 3, 3)}, "same V"),
        ({"extrinsics": torch.full((1, 3, 4), math.nan)}, "not finite"),
        ({"min_alpha": 0}, "min_alpha is 0"),
        ({"grow": -1}, "grow -1"),
        (
            {"references": (torch.zeros(1, 1, 3, 8, 8), torch.ones(1, 1))},
            r"\(1, 1, 3, 64, 64\) and \(1, 1\)",
        ),
    ],
)
def test_unusable_arguments_are_refused_in_one_sentence(arguments, words):
    usual = {"extrinsics": CAMERA[None], "intrinsics": LENS[None], "width": SIZE, "height": SIZE}
    with pytest.raises(ValueError, match=words):
        warp_grid(sheet(), **(usual | arguments))
