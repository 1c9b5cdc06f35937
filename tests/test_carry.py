"""What given frames show of generated ones: only what the depth of both agrees on."""

import pytest
import torch
from torch.nn.functional import avg_pool2d

from fourreal.cameras import project, unproject
from fourreal.carry import carried, carry_first_time, carry_references, shows_same, without_specks
from fourreal.metrics.pixels import psnr
from fourreal.neighborhoods import blurred, eroded
from fourreal.scenes import make_scene, scene_seed
from fourreal.warp import HOLE, reference_cells

from .pretend_cuda import PretendCuda

VIEWS, TIMES, SIZE = 3, 3, 64


@pytest.fixture(scope="module")
def scene():
    return make_scene(scene_seed("validation", 1), VIEWS, TIMES, SIZE, SIZE)


@pytest.fixture(scope="module")
def soft(scene):
    """The scene as a model might draw it."""
    frames = avg_pool2d(scene.frames.flatten(0, 1), 5, 1, 2, count_include_pad=False)
    return frames.view_as(scene.frames)


def given(scene, **which):
    return reference_cells((VIEWS, TIMES, SIZE, SIZE), **which)


def seen_by_first(scene, depth):
    """Pixels [V, T, H, W] of the scene that its first view sees at that time, in float64."""
    extrinsics, intrinsics = scene.extrinsics.double(), scene.intrinsics.double()
    seen = torch.zeros(depth.shape, dtype=torch.bool)
    for view in range(VIEWS):
        for time in range(TIMES):
            points = unproject(depth[view, time].double(), extrinsics[view], intrinsics[view])
            pixels, ways = project(points.view(1, -1, 3), extrinsics[:1], intrinsics[:1])
            column, row = pixels[0].floor().long().view(SIZE, SIZE, 2).unbind(-1)
            inside = (column >= 0) & (column < SIZE) & (row >= 0) & (row < SIZE)
            there = depth[0, time][row.clamp(0, SIZE - 1), column.clamp(0, SIZE - 1)]
            seen[view, time] = inside & ((there / ways.view(SIZE, SIZE) - 1).abs() < 0.05)
    return seen


def test_a_video_is_carried_into_what_it_sees_of_the_other_views(scene, soft):
    cameras = scene.extrinsics, scene.intrinsics
    references = given(scene, fixed_view=scene.frames[0])
    found = carried(soft, scene.depth, cameras, references)
    assert torch.equal(found.frames[0], scene.frames[0]) and not found.missing[0].any()
    known = found.missing[1:, :, 0] < 0.5
    assert not (known & ~seen_by_first(scene, scene.depth)[1:]).any()
    assert 0.55 < known.float().mean() < 0.65
    exact, made = (frames[1:].movedim(2, -1)[known] for frames in (scene.frames, soft))
    shown = found.frames[1:].movedim(2, -1)[known]
    assert psnr(shown, exact) > 35 and psnr(shown, exact) > psnr(made, exact) + 5
    assert (found.frames[1:].movedim(2, -1)[~known] == HOLE).all()


def test_where_the_depth_of_two_views_differs_nothing_is_carried(scene, soft):
    """One thing is 10% nearer in the first view than in the others."""
    cameras = scene.extrinsics, scene.intrinsics
    references = given(scene, fixed_view=scene.frames[0])
    wrong = scene.depth.clone()
    wrong[0] = torch.where(scene.instances[0] == 1, 0.9 * wrong[0], wrong[0])
    before, after = (
        carried(soft, depth, cameras, references).missing[1:, :, 0] < 0.5
        for depth in (scene.depth, wrong)
    )
    thing = scene.instances[1:] == 1
    assert (before & thing).sum() > 100
    assert (after & thing).sum() < 0.02 * (before & thing).sum()
    assert (after & ~thing).sum() > 0.9 * (before & ~thing).sum()


def test_specks_are_neither_carried_nor_left_out():
    """An area of 22 x 12 pixels with a gap of one pixel, a gap of 3 x 3, and a pixel that may
    not be closed; and a speck of two. A pixel of the area's rim and around gaps is its margin."""
    seen = torch.zeros(1, 30, 20, dtype=torch.bool)
    seen[:, 2:24, 2:14] = True
    seen[:, 9:12, 9:12] = False
    seen[:, 5, 5] = seen[:, 18, 8] = False
    seen[:, 27, 16:18] = True
    perhaps = torch.ones_like(seen)
    perhaps[:, 18, 8] = False
    wanted = torch.zeros_like(seen)
    wanted[:, 3:23, 3:13] = True
    wanted[:, 8:13, 8:13] = False
    wanted[:, 17:20, 7:10] = False
    assert torch.equal(without_specks(seen, perhaps), wanted)


def test_photos_are_carried_through_time_where_all_stands_still(scene, soft):
    cameras = scene.extrinsics, scene.intrinsics
    found = carried(soft, scene.depth, cameras, given(scene, freeze_time=scene.frames[:, 0]))
    assert torch.equal(found.frames[:, 0], scene.frames[:, 0])
    known = found.missing[:, 1:, 0] < 0.5
    assert (
        not (known & scene.moving[:, 1:]).any()
        or psnr(
            found.frames[:, 1:].movedim(2, -1)[known & scene.moving[:, 1:]],
            scene.frames[:, 1:].movedim(2, -1)[known & scene.moving[:, 1:]],
        )
        > 25
    )
    still = (scene.frames == scene.frames[:, :1]).all(dim=2)[:, 1:]
    assert (known & still).sum() > 0.4 * still.sum()
    first = scene.frames[:, :1].expand(-1, TIMES - 1, -1, -1, -1).movedim(2, -1)
    torch.testing.assert_close(
        found.frames[:, 1:].movedim(2, -1)[known], first[known], atol=1e-4, rtol=0
    )


def test_a_photo_of_the_same_camera_goes_before_the_video_of_another(scene, soft):
    """Where all stands still; where it does not, the video shows more than the photo does."""
    cameras = scene.extrinsics, scene.intrinsics
    video, photos = scene.frames[0], scene.frames[:, 0]
    both, alone, column = (
        carried(soft, scene.depth, cameras, given(scene, **which))
        for which in (
            {"fixed_view": video, "freeze_time": photos},
            {"fixed_view": video},
            {"freeze_time": photos},
        )
    )
    still = column.missing[1:, 1:] < 0.5
    same = (both.frames == column.frames)[1:, 1:].all(dim=2, keepdim=True)
    assert same[still].all()
    same = (both.frames == alone.frames)[1:, 1:].all(dim=2, keepdim=True)
    assert same[~still].all() and (both.missing <= alone.missing).all()
    assert (both.known_share[1:] > column.known_share[1:] + 0.01).all()


def test_what_a_camera_saw_before_needs_no_depth(scene, soft):
    """Photos stay where a generated frame shows the same, however wrong its depth is, up to the
    edges of things that rest; not where it is of another colour."""
    cameras = scene.extrinsics, scene.intrinsics
    photos = given(scene, freeze_time=scene.frames[:, 0])
    wrong = scene.depth * torch.linspace(0.5, 2, TIMES).view(1, -1, 1, 1)
    found, right = (carried(soft, d, cameras, photos) for d in (wrong, scene.depth))
    assert torch.equal(found.frames, right.frames)
    still = (scene.frames == scene.frames[:, :1]).all(dim=2)
    still = torch.stack([eroded(times, 9) for times in still])
    assert still[:, 1:].sum() > 1000 and (found.missing[:, :, 0][still] == 0).all()
    other = soft.clone()
    other[:, 1:, :, 20:40, 20:40] += 0.08
    changed = carried(other, scene.depth, cameras, photos).missing[:, 1:, 0] > 0.5
    assert changed[..., 24:36, 24:36].all()
    still[..., 10:50, 10:50] = False  # what the square's blur does not reach
    assert still[:, 1:].sum() > 1000 and not changed[still[:, 1:]].any()


@pytest.mark.parametrize(("height", "softness"), [(128, 1.5), (40, 0.5)])
def test_blurring_says_what_stands_still(height, softness):
    """An edge that moves by a pixel has moved; one that is blurred where it is has not."""
    frame, moved = (
        (torch.arange(40.0) > column).float().expand(3, height, 40).clone() for column in (20, 21)
    )
    assert shows_same(frame, blurred(frame, softness)).all()
    same = shows_same(frame, blurred(moved, softness))
    assert not same[:, 20:22].any() and same[:, :14].all() and same[:, 30:].all()


def test_it_runs_where_the_depth_lies(scene, soft):
    """The photos in main memory, the depth on a pretend GPU: the same numbers, back on the CPU."""
    cameras = scene.extrinsics, scene.intrinsics
    references = given(scene, fixed_view=scene.frames[0], freeze_time=scene.frames[:, 0])
    wanted = carried(soft, scene.depth, cameras, references)
    with PretendCuda():
        found = carried(soft, scene.depth.to("cuda"), cameras, references)
    assert found.frames.device.type == found.missing.device.type == "cpu"
    assert torch.equal(found.missing, wanted.missing)
    torch.testing.assert_close(found.frames, wanted.frames)


def test_a_grid_gets_what_its_references_show_and_keeps_the_rest(scene, soft):
    """By a reconstructor that knows the answer; it must be shown the references' own cells."""

    def reconstructor(frames, cameras, **_):
        assert torch.equal(frames[0], scene.frames[0])
        assert torch.equal(frames[1:, 1:], soft[1:, 1:])
        assert cameras == "first"
        return scene

    references = given(scene, fixed_view=scene.frames[0], freeze_time=scene.frames[:, 0])
    made, cameras = carry_references(reconstructor, soft, references)
    assert torch.equal(cameras[0], scene.extrinsics)
    known = carried(soft, scene.depth, cameras, references)
    assert torch.equal(made[0], scene.frames[0]) and torch.equal(made[:, 0], scene.frames[:, 0])
    shown = (known.missing < 0.5).expand_as(made)
    torch.testing.assert_close(made[shown], known.frames[shown])
    assert psnr(made[1:, 1:], scene.frames[1:, 1:]) > psnr(soft[1:, 1:], scene.frames[1:, 1:])


def test_of_a_grid_made_of_text_the_first_time_is_the_reference(scene, soft):
    """Its cameras are an even movement."""
    asked = []

    def reconstructor(frames, cameras, **_):
        asked.append(cameras)
        return scene

    references = given(scene, freeze_time=soft[:, 0])
    made, cameras = carry_first_time(reconstructor, soft)
    wanted, _ = carry_references(reconstructor, soft, references, "even")
    assert asked == ["even", "even"] and torch.equal(cameras[0], scene.extrinsics)
    assert torch.equal(made, wanted) and torch.equal(made[:, 0], soft[:, 0])


def test_depth_of_another_shape_is_refused_in_a_sentence(scene, soft):
    references = given(scene, fixed_view=scene.frames[0])
    with pytest.raises(ValueError, match="one depth map for each frame") as caught:
        carried(soft, scene.depth[:1], (scene.extrinsics, scene.intrinsics), references)
    assert "\n" not in str(caught.value)
