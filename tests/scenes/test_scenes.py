"""Procedural scenes: exactness, determinism, captions."""

import math

import pytest
import torch

from fourreal.cameras import invert, pixel_grid, project, unproject
from fourreal.metrics.pixels import psnr
from fourreal.reconstruction.gaussian_head import gaussians_from_depth
from fourreal.rendering import render
from fourreal.scenes import SceneBatch, describe, make_scene, scene_seed
from fourreal.scenes.describe import COLORS, MOTIONS, SHAPES


def test_exact_depth_and_cameras_render_the_frames():
    """Catches half-pixel, axis and order mistakes: Gaussians from exact depth, rendered at the
    input cameras, are the frames."""
    for index, time in ((0, 4), (1, 0)):
        scene = make_scene(scene_seed("test", index), 2, 5, 256, 256)
        depth, frames = scene.depth[:, time], scene.frames[:, time]
        gaussians = gaussians_from_depth(
            frames, depth, torch.ones_like(depth), scene.extrinsics, scene.intrinsics
        )
        gaussians.scales = gaussians.scales * 0.4  # small: a fifth of a pixel
        rendering = render(gaussians, scene.extrinsics, scene.intrinsics, 256, 256)
        assert psnr(rendering.color.movedim(-1, 1), frames) >= 32


def test_views_agree_on_the_points_they_both_see():
    scene = make_scene(scene_seed("test", 3), 4, 1, 96, 96)
    points = unproject(scene.depth[0, 0], scene.extrinsics[0], scene.intrinsics[0])
    pixels, depth = project(points.view(-1, 3), scene.extrinsics[3], scene.intrinsics[3])
    column, row = pixels.floor().long().unbind(-1)
    inside = (column >= 0) & (column < 96) & (row >= 0) & (row < 96)
    seen = scene.depth[3, 0][row.clamp(0, 95), column.clamp(0, 95)]
    visible = inside & ((depth / seen - 1).abs() < 0.02)
    same = scene.instances[3, 0][row.clamp(0, 95), column.clamp(0, 95)]
    assert visible[inside].float().mean() > 0.7
    agree = same[visible] == scene.instances[0, 0].flatten()[visible]
    assert agree.float().mean() > 0.98


def test_depth_of_a_sphere_is_that_of_the_formula():
    """Second source: float64 quadratic for one sphere, at pixel centres."""
    index = next(
        i for i in range(200) if describe(scene_seed("test", i), 1, 1).things[0].shape == "sphere"
    )
    description = describe(scene_seed("test", index), 1, 1)
    description.things = description.things[:1]
    batch = SceneBatch([description])
    depth, instances, _ = (x[0, 0, 0] for x in batch.geometry(64, 64))
    sphere = description.things[0]
    k = batch.intrinsics(64, 64)[0, 0].double()
    pixels = pixel_grid(64, 64, dtype=torch.float64)
    local = torch.cat([(pixels - k[:2, 2]) / k[0, 0], torch.ones(64, 64, 1).double()], -1)
    to_world = invert(batch.extrinsics[0, 0].double())
    direction, origin = local @ to_world[:, :3].T, to_world[:, 3]
    center, radius = torch.tensor(sphere.positions[0]), float(sphere.half_extents[0])
    b = (direction * (origin - center)).sum(-1)
    a = direction.square().sum(-1)
    root = b**2 - a * ((origin - center).square().sum() - radius**2)
    expected = (-b - root.clamp_min(0).sqrt()) / a
    hit = instances == 1
    assert hit.sum() > 40 and (root[hit] > -1e-4).all()
    assert torch.allclose(depth[hit].double(), expected[hit], atol=1e-3)


def test_masks_say_what_moves():
    for index in range(6):
        scene = make_scene(scene_seed("test", index), 2, 9, 48, 48)
        things = describe(scene.seed, 2, 9).things
        mobile = [i + 1 for i, t in enumerate(things) if t.motion != "still"]
        expected = torch.isin(scene.instances, torch.tensor(mobile))
        assert torch.equal(scene.moving, expected) and scene.moving.any()
        still = ~(scene.moving | scene.moving[:, :1]).any(1, keepdim=True).expand_as(scene.moving)
        assert (scene.depth.diff(dim=1).abs() < 1e-5)[still[:, 1:]].all()


def test_seeds_decide_everything_and_splits_do_not_meet():
    first, again = (make_scene(scene_seed("train", 5), 2, 5, 32, 32) for _ in range(2))
    assert torch.equal(first.frames, again.frames) and first.caption == again.caption
    other = make_scene(scene_seed("test", 5), 2, 5, 32, 32)
    assert not torch.equal(first.frames, other.frames)
    ends = [(scene_seed(s, 0), scene_seed(s, 2**32 - 1)) for s in ("train", "validation", "test")]
    assert ends[0][1] < ends[1][0] and ends[1][1] < ends[2][0]
    with pytest.raises(ValueError, match="splits are"):
        scene_seed("tset", 0)


def test_a_scene_is_the_same_at_every_length_and_number_of_views():
    long, short = (make_scene(scene_seed("train", 7), v, t, 32, 32) for v, t in ((5, 9), (2, 5)))
    assert torch.allclose(long.frames[0, :5], short.frames[0], atol=1e-5)
    assert torch.allclose(long.frames[-1, :5], short.frames[-1], atol=1e-5)
    assert long.caption == short.caption


def test_batches_equal_single_scenes():
    seeds = [scene_seed("train", i) for i in range(3)]
    together = SceneBatch([describe(s, 2, 2) for s in seeds]).draw(24, 24)
    for seed, frames in zip(seeds, together):
        alone = SceneBatch([describe(seed, 2, 2)]).draw(24, 24)[0]
        assert torch.allclose(frames, alone, atol=1e-5)


def test_captions_name_objects_colours_and_motions():
    for index in range(50):
        description = describe(scene_seed("train", index), 1, 1)
        for thing in description.things:
            assert thing.color in description.caption
            assert any(word in description.caption for word in SHAPES[thing.shape])
            assert any(word in description.caption for word in MOTIONS[thing.motion])
    assert len(COLORS) == 8


def test_cameras_lie_on_an_arc_around_the_scene():
    description = describe(scene_seed("train", 1), 8, 1)
    flat = description.camera_positions[:, [0, 2]]
    radii = (flat**2).sum(-1) ** 0.5
    assert radii.std() < 1e-6
    span = math.acos((flat[0] @ flat[-1]) / radii[0] ** 2)
    assert math.radians(30) < span < math.radians(60)


def test_the_compiled_program_draws_the_same_with_any_number_of_objects(monkeypatch):
    """One program serves all scenes: places for three objects, each of any shape."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    counts = set()
    for index in range(6):
        description = describe(scene_seed("train", index), 2, 2)
        counts.add(len(description.things))
        expected = SceneBatch([description]).draw(24, 24)
        assert torch.equal(SceneBatch([description]).draw_compiled(24, 24), expected)
    assert len(counts) > 1
