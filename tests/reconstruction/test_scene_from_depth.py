"""Scenes from depth maps: surfaces without gaps, what stands still, the sky, photos and videos."""

import math

import pytest
import torch

from fourreal.cameras import pixel_intrinsics, project, quaternion_to_matrix, unproject
from fourreal.gaussians import harmonics_to_rgb
from fourreal.reconstruction.from_depth import SKY, scene_from_depth, surface_gaussians
from fourreal.reconstruction.gaussian_head import FOOTPRINT
from fourreal.scenes import make_scene, scene_seed
from fourreal.warp import warp_grid

SIZE = 48
CAMERA, LENS = torch.eye(3, 4), pixel_intrinsics(torch.tensor(0.9), SIZE, SIZE)
VIEW = CAMERA[None], LENS[None]


def truth(seed=2, num_frames=9, num_views=4, size=SIZE):
    return make_scene(scene_seed("validation", seed), num_views, num_frames, size, size)


def psnr(a, b, mask):
    return float(-10 * (a - b).square().movedim(-3, -1)[mask].mean().log10())


def plane(slope, size=SIZE):
    """Depth [H, W] of a plane that leads away to the right by `slope` in x per unit of depth."""
    x = (torch.arange(size) + 0.5 - size / 2) / LENS[0, 0]
    return (3 / (1 - slope * x)).expand(size, size)


def test_a_gaussian_covers_its_pixels_share_of_a_slanted_surface():
    depth = plane(1.2)
    image = torch.rand(3, SIZE, SIZE)
    keep = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    keep[20, 30] = True
    one = surface_gaussians(image, depth, CAMERA, LENS, keep)
    points = unproject(depth, CAMERA, LENS)
    torch.testing.assert_close(one.means[0], points[20, 30])
    torch.testing.assert_close(harmonics_to_rgb(one.harmonics)[0], image[:, 20, 30])
    axes = quaternion_to_matrix(one.quaternions)[0] * one.scales[0]
    covariance = axes @ axes.T
    across, down = points[20, 31] - points[20, 30], points[21, 30] - points[20, 30]
    expected = FOOTPRINT**2 * (across.outer(across) + down.outer(down))
    normal = torch.linalg.cross(across, down)
    normal = normal / normal.norm()
    torch.testing.assert_close(normal @ expected @ normal, torch.tensor(0.0), atol=1e-9, rtol=0)
    flat = covariance - (normal @ covariance @ normal) * normal.outer(normal)
    torch.testing.assert_close(flat, expected, atol=1e-6, rtol=1e-3)
    assert one.scales[0].min() > 0 and torch.linalg.det(axes) > 0


def test_surfaces_do_not_stretch_over_a_jump():
    depth = torch.full((SIZE, SIZE), 4.0)
    depth[:, :20] = 2.0
    keep = torch.ones(SIZE, SIZE, dtype=torch.bool)
    scales = surface_gaussians(torch.zeros(3, SIZE, SIZE), depth, CAMERA, LENS, keep).scales
    pixel = (FOOTPRINT * depth / LENS[0, 0]).flatten()
    assert (scales.amax(-1) / pixel).max() < 1.5


def test_drawn_from_its_own_camera_a_scene_is_its_frames():
    scene = truth()
    made = scene_from_depth(scene.frames[:1], scene.depth[:1], *view_of(scene))
    warped = warp_grid(made, *view_of(scene), SIZE, SIZE, grow=0)
    known = warped.missing[:, :, 0] == 0
    assert known.float().mean() > 0.8
    assert psnr(warped.frames, scene.frames[:1], known) > 34
    assert made.fps == 8.0 and (made.width, made.height) == (SIZE, SIZE)


def test_every_gaussian_has_the_confidence_of_its_pixel():
    scene = truth(num_views=2)
    camera = scene.extrinsics[:2], scene.intrinsics[:2]
    rows = torch.arange(SIZE * SIZE).view(SIZE, SIZE).expand_as(scene.depth[:2]).float()
    sure = 1 + rows + SIZE * SIZE * torch.arange(2)[:, None, None, None]  # and its view's
    cells = torch.tensor([[True] * 9, [True] + [False] * 8])
    made = scene_from_depth(
        scene.frames[:2], scene.depth[:2], *camera, cells=cells, confidence=sure
    )
    assert made.confidences is not None and len(made.confidences) == 10
    parts = [made.static, *made.dynamic]
    assert [len(part) for part in parts] == [len(own) for own in made.confidences]
    for part, own in zip(parts, made.confidences):
        view = (own > SIZE * SIZE).long()
        pixels, _ = project(part.means[None].expand(2, -1, -1), *camera)
        x, y = pixels[view, torch.arange(len(own))].floor().long().unbind(-1)
        assert torch.equal(own, 1.0 + y * SIZE + x + SIZE * SIZE * view)
    assert scene_from_depth(scene.frames[:2], scene.depth[:2], *camera).confidences is None
    with pytest.raises(ValueError, match="the confidence has the shape"):
        scene_from_depth(scene.frames[:2], scene.depth[:2], *camera, confidence=sure[:1])


def view_of(scene, view=slice(0, 1)):
    return scene.extrinsics[view], scene.intrinsics[view]


def test_what_stands_still_is_stored_once_and_the_rest_at_its_own_time():
    scene = truth()
    made = scene_from_depth(scene.frames[:1], scene.depth[:1], *view_of(scene))
    pixels = SIZE * SIZE
    assert 0.7 * pixels < len(made.static) <= pixels
    moving = scene.moving[0].flatten(1).sum(1)
    for time in range(9):
        assert 0 < len(made.dynamic[time]) < 0.35 * pixels
        assert len(made.dynamic[time]) > 0.3 * moving[time]


def test_a_moving_mask_makes_even_unchanging_pixels_dynamic():
    frames = torch.full((1, 3, 3, SIZE, SIZE), 0.5)
    depth = torch.full((1, 3, SIZE, SIZE), 2.0)
    moving = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.bool)
    moving[0, 1, 10:20, 10:20] = True
    assert not sum(map(len, scene_from_depth(frames, depth, *VIEW).dynamic))
    made = scene_from_depth(frames, depth, *VIEW, moving=moving)
    assert len(made.static) <= SIZE * SIZE - 100
    assert len(made.dynamic[1]) >= 100


def test_depth_of_each_time_in_a_unit_of_its_own_is_brought_to_one():
    scene = truth()
    units = torch.tensor([1, 0.6, 1.3, 2.0, 0.5, 1.1, 0.9, 3.0, 0.7])
    same = scene_from_depth(scene.frames[:1], scene.depth[:1], *view_of(scene))
    mixed = scene.depth[:1] * units[:, None, None]
    made = scene_from_depth(scene.frames[:1], mixed, *view_of(scene))
    assert abs(len(made.static) - len(same.static)) < 5
    torch.testing.assert_close(
        made.dynamic[7].means.mean(0), same.dynamic[7].means.mean(0), atol=1e-3, rtol=1e-3
    )


def test_the_sky_is_far_and_still_and_its_depth_is_not_read():
    torch.manual_seed(0)
    frames = torch.full((1, 4, 3, SIZE, SIZE), 0.4)
    frames[:, :, :, :20] = 0.6 + 0.3 * torch.rand(1, 4, 3, 20, SIZE)  # drifting clouds
    depth = torch.full((1, 4, SIZE, SIZE), 2.0)
    depth[:, :, :20] = torch.nan
    sky = torch.zeros(1, 4, SIZE, SIZE, dtype=torch.bool)
    sky[:, :, :20] = True
    frames[0, 2, :, 5:12, 5:12], depth[0, 2, 5:12, 5:12] = 0.0, 1.5  # a bird, once
    sky[0, 2, 5:12, 5:12] = False
    made = scene_from_depth(frames, depth, *VIEW, sky=sky)
    far = made.static.means[:, 2] > 10
    assert far.sum() > 18 * SIZE - 100
    torch.testing.assert_close(made.static.means[far, 2], torch.full((int(far.sum()),), 2 * SKY))
    assert [len(part) > 0 for part in made.dynamic] == [False, False, True, False]
    assert (made.dynamic[2].means[:, 2] < 1.6).all()


def test_photos_add_what_one_of_them_cannot_see():
    scene, size = truth(num_frames=1, size=96), 96
    shares = []
    for views in (slice(0, 1), slice(0, 4, 3), slice(0, 4)):
        maps = scene.frames[views], scene.depth[views], *view_of(scene, views)
        camera = view_of(scene, slice(None))
        warped = warp_grid(scene_from_depth(*maps), *camera, size, size, grow=1)
        known = warped.missing[:, :, 0] == 0
        shares.append(known.float().mean().item())
        assert psnr(warped.frames, scene.frames, known) > 29
    assert shares[0] + 0.1 < shares[1] < shares[2]
    assert shares[2] > 0.88


def test_photos_and_a_video_make_one_animated_scene_without_ghosts():
    scene, size = truth(5, num_frames=5, size=96), 96
    cells = torch.zeros(4, 5, dtype=torch.bool)
    cells[0], cells[:, 0] = True, True
    hidden = ~cells[..., None, None]
    frames = scene.frames.masked_fill(hidden[..., None], torch.nan)  # not to be read
    depth = scene.depth.masked_fill(hidden, torch.nan)
    made = scene_from_depth(frames, depth, scene.extrinsics, scene.intrinsics, cells=cells)
    assert torch.equal(made.observed, cells)
    video = scene_from_depth(scene.frames[:1], scene.depth[:1], *view_of(scene))
    camera = view_of(scene, slice(None))
    joint, alone = (warp_grid(s, *camera, size, size, grow=1) for s in (made, video))
    known = joint.missing[:, 1:, 0] == 0
    assert psnr(joint.frames[:, 1:], scene.frames[:, 1:], known) > 29
    assert (joint.known_share[1:] > alone.known_share[1:] + 0.1).all()
    # Nothing of what moves stays behind where the photos saw it.
    left = scene.moving[:, 0] & ~scene.moving[:, 4] & (joint.missing[:, 4, 0] == 0)
    error = (joint.frames[:, 4] - scene.frames[:, 4]).abs().amax(1)[left]
    assert left.sum() > 500 and (error > 0.3).float().mean() < 0.1


def test_what_moves_and_is_then_covered_does_not_stay_behind():
    """A card goes behind a nearer one: the part of it that is seen last looked still until then."""
    frames = torch.full((1, 6, 3, SIZE, SIZE), 0.8)
    depth = torch.full((1, 6, SIZE, SIZE), 4.0)
    frames[0, :3, :, 10:30, 4:22], depth[0, :3, 10:30, 4:22] = 0.3, 3
    frames[0, 3:, :, 10:30, 14:40], depth[0, 3:, 10:30, 14:40] = 0.1, 2
    made = scene_from_depth(frames, depth, *VIEW)
    assert ((made.static.means[:, 2] - 3).abs() > 0.5).all()
    for time, part in enumerate(made.dynamic):
        at_card = (part.means[:, 2] - 3).abs() < 0.1
        assert at_card.any() == (time < 3)
        assert at_card.sum() >= (15 * 14 if time < 3 else 0)  # without its rims


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depth": torch.ones(1, 4, SIZE, SIZE)}, "depth has the shape"),
        ({"sky": torch.zeros(1, 3, 8, 8)}, "sky mask has the shape"),
        ({"moving": torch.zeros(1, 2, SIZE, SIZE)}, "moving mask has the shape"),
        ({"depth": torch.full((1, 3, SIZE, SIZE), math.nan)}, "6912 pixels that are not positive"),
        ({"depth": torch.zeros(1, 3, SIZE, SIZE)}, "mark them as sky"),
        ({"sky": torch.ones(1, 3, SIZE, SIZE)}, "no depth is left"),
        ({"cells": torch.zeros(1, 3)}, "at least one frame of each view"),
        ({"extrinsics": CAMERA.expand(2, 3, 4)}, "needed for 1 views"),
    ],
)
def test_maps_that_do_not_fit_are_refused_in_one_sentence(changes, words):
    maps = {
        "frames": torch.zeros(1, 3, 3, SIZE, SIZE),
        "depth": torch.ones(1, 3, SIZE, SIZE),
        "extrinsics": CAMERA[None],
        "intrinsics": LENS[None],
    }
    with pytest.raises(ValueError, match=words):
        scene_from_depth(**(maps | changes))
