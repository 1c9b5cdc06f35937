"""Cameras and depth moved to where the views agree, against exact scenes and a plain loop."""

import math

import pytest
import torch

from fourreal.cameras import project, relative_to_first, to_homogeneous, unproject
from fourreal.cameras.screws import even_movement, screw, skew
from fourreal.evaluation.evaluate_reconstruction import rotation_error
from fourreal.reconstruction import Reconstructor, bundle_adjustment
from fourreal.reconstruction.bundle_adjustment import (
    COLOR_SOFTNESS,
    DEPTH_SOFTNESS,
    DEPTH_WEIGHT,
    HIDDEN,
    adjust_cameras,
    adjust_depth,
    cells_of_pixels,
    contradictions,
    disagreement,
    neighboring_pairs,
    starting_cells,
)
from fourreal.scenes import make_scene, scene_seed

from ..tiny import tiny_model

VIEWS = [0, 2, 4, 6]


@pytest.fixture(scope="module")
def scene():
    """Four views of an exact scene: images [V, 3, H, W], depth [V, H, W], cameras."""
    whole = make_scene(scene_seed("validation", 3), 8, 1, 64, 64)
    cameras = whole.extrinsics[VIEWS], whole.intrinsics[VIEWS]
    return whole.frames[VIEWS, 0], whole.depth[VIEWS, 0], cameras


def moved(cameras, degrees, shift, zoom):
    """Cameras that are all turned and shifted but for the first one, and zoomed."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(len(cameras[0]), 3, generator=generator)
    turn = torch.linalg.matrix_exp(skew(axes / axes.norm(dim=1, keepdim=True) * math.pi / 180))
    turn = torch.matrix_power(turn, degrees)
    extrinsics = turn @ cameras[0]
    extrinsics[..., 3] += shift * torch.randn(len(axes), 3, generator=generator)
    extrinsics[0] = cameras[0][0]
    intrinsics = cameras[1].clone()
    intrinsics[:, 0, 0] *= zoom
    intrinsics[:, 1, 1] *= zoom
    return relative_to_first(extrinsics), intrinsics


def test_cameras_come_back_to_exact_ones(scene):
    images, depth, cameras = scene
    wrong = moved(cameras, degrees=2, shift=0.05, zoom=1.02)
    units = torch.tensor([1.0, 1.03, 0.97, 1.02])
    with torch.inference_mode():  # as inside ComfyUI
        (extrinsics, intrinsics), factors = adjust_cameras(
            images[None], (depth * units[:, None, None])[None], wrong
        )
    before, after = (rotation_error(e, cameras[0]) for e in (wrong[0], extrinsics))
    assert before > 1.9 and after < 0.6
    assert torch.equal(extrinsics[0], wrong[0][0])
    zooms = (intrinsics / cameras[1])[:, [0, 1], [0, 1]]
    assert torch.allclose(zooms, zooms[0, 0].expand_as(zooms)) and (zooms - 1).abs().max() < 0.03
    assert torch.allclose(intrinsics[:, :2, 2], cameras[1][:, :2, 2])
    corrected = factors * units
    assert (corrected / corrected.mean() - 1).abs().max() < (units / units.mean() - 1).abs().max()


def test_cameras_of_an_even_movement_come_back_to_the_exact_step():
    whole = make_scene(scene_seed("validation", 3), 5, 1, 64, 64)
    images, depth = whole.frames[:, :1].transpose(0, 1), whole.depth[:, :1].transpose(0, 1)
    count = torch.arange(5)[:, None]
    off = screw(count * torch.tensor([0.0, 0.02, 0.005, 0.02, 0.0, 0.01]))
    extrinsics = even_movement((to_homogeneous(off) @ to_homogeneous(whole.extrinsics))[:, :3])
    (found, _), _ = adjust_cameras(images, depth, (extrinsics, whole.intrinsics), even=True)
    before, after = (rotation_error(e, whole.extrinsics) for e in (extrinsics, found))
    assert before > 2 and after < 0.5
    torch.testing.assert_close(found, even_movement(found), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[0], extrinsics[0], atol=1e-6, rtol=0)


def test_exact_cameras_stay(scene):
    images, depth, cameras = scene
    found, factors = adjust_cameras(images[None], depth[None], cameras)
    assert rotation_error(found[0], cameras[0]) < 0.2
    assert (factors - 1).abs().max() < 0.01


def test_views_that_show_nothing_stay(scene):
    _, depth, cameras = scene
    grey = torch.full((1, len(depth), 3, 64, 64), 0.5)
    found, factors = adjust_cameras(grey, torch.full_like(depth, 3.0)[None], cameras, steps=0)
    assert found is cameras and torch.equal(factors, torch.ones(4))


def test_depth_of_a_thing_comes_nearer_to_exact_depth(scene):
    images, depth, cameras = scene
    thing = (images[:, 0] - images[:, 2] > 0.3).float()  # the orange cube
    assert 0.01 < thing.mean() < 0.2
    off = torch.tensor([0.06, -0.05, 0.05, -0.06])[:, None, None]
    with torch.inference_mode():
        found = adjust_depth(images, depth * (1 + off * thing), cameras)
    error = ((found / depth - 1).abs() * thing).sum() / thing.sum()
    assert error < 0.6 * 0.055
    elsewhere = (found / depth - 1).abs()[thing == 0]
    assert elsewhere.median() < 0.003


@pytest.mark.parametrize("off", [0.12, -0.14])
def test_a_thing_that_is_far_off_in_one_view_is_found(off, scene, monkeypatch):
    images, depth, cameras = scene
    thing = images[:, 0] - images[:, 2] > 0.3
    wrong = depth.clone()
    wrong[0] *= 1 + off * thing[0]

    def error():
        found = adjust_depth(images, wrong, cameras)
        errors = (found / depth - 1).abs()
        return errors[0][thing[0]].median(), errors[~thing]

    with torch.inference_mode():
        own, elsewhere = error()
        monkeypatch.setattr(bundle_adjustment, "STARTS", (0.0,))
        without, _ = error()
    assert own < 0.045 and without > 0.085
    assert elsewhere.median() < 0.003


def test_cells_begin_where_a_plain_loop_finds_the_least_error(monkeypatch):
    monkeypatch.setattr(bundle_adjustment, "STARTS", (0.0, 0.2, -0.2))
    monkeypatch.setattr(bundle_adjustment, "START_CELLS", 3)
    generator = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    images, depth = random(3, 3, 8, 10), 2 + random(3, 8, 10)
    depth[1, :, :5] *= 1.4
    extrinsics = torch.eye(3, 4, dtype=torch.float64).repeat(3, 1, 1)
    extrinsics[:, 0, 3] = torch.tensor([0.0, 0.5, -0.6])
    intrinsics = torch.tensor([[8.0, 0, 5], [0, 8, 4], [0, 0, 1]]).double().repeat(3, 1, 1)
    cameras, pairs = (extrinsics, intrinsics), (torch.tensor([0, 0, 1]), torch.tensor([1, 2, 0]))
    found = starting_cells(images, depth, cameras, pairs, cells_of_pixels(images))
    assert found.shape == (3, 1, 8, 4, 5)
    luma = (images * torch.tensor(bundle_adjustment.LUMA).view(3, 1, 1)).sum(1)
    tried = [
        contradictions(images, depth, depth * math.exp(start), cameras, pairs, 0.15)
        for start in (0.0, 0.2, -0.2)
    ]
    chosen = set()
    for view, shade, row, column in torch.cartesian_prod(*map(torch.arange, (3, 8, 4, 5))).tolist():
        costs, counted = {}, []
        for start, (errors, counts) in zip((0.0, 0.2, -0.2), tried):
            error = count = 0.0
            for pair, y, x in torch.cartesian_prod(*map(torch.arange, (3, 8, 10))).tolist():
                own = round(7 * luma[view, y, x].item()), round(3 * y / 7), round(4 * x / 9)
                near = max(abs(a - b) for a, b in zip(own, (shade, row, column))) <= 1
                if near and pairs[0][pair] == view:
                    error += errors[pair, y, x].item()
                    count += counts[pair, y, x].item()
            counted.append(count)
            if count > 0.5 * counted[0]:
                costs[start] = error / count + start**2
        wanted = min(costs, key=costs.__getitem__) if counted[0] else 0.0
        assert found[view, 0, shade, row, column].item() == pytest.approx(wanted)
        chosen.add((bool(counted[0]), wanted))
    assert chosen == {(False, 0.0), (True, 0.0), (True, 0.2), (True, -0.2)}
    assert not found[2].any()  # a view that is warped into none


def test_depth_that_is_no_number_spoils_no_other(scene):
    images, depth, cameras = scene
    broken = depth.clone()
    broken[0, 3, 4], broken[1, 5, 6], broken[2, 7, 8] = torch.nan, torch.inf, 0
    usable = broken.isfinite() & (broken > 0)
    found = adjust_depth(images, broken, cameras)
    assert torch.equal(found.isfinite() & (found > 0), usable)
    assert (found / depth - 1).abs()[usable].median() < 0.003
    _, factors = adjust_cameras(images[None], broken[None], cameras)
    assert factors.isfinite().all()


def test_large_images_are_corrected_at_their_own_size():
    large = make_scene(scene_seed("validation", 3), 8, 1, 144, 192)
    images, depth = large.frames[VIEWS, 0], large.depth[VIEWS, 0]
    thing = (images[:, 0] - images[:, 2] > 0.3).float()
    off = torch.tensor([0.06, -0.05, 0.05, -0.06])[:, None, None]
    with torch.inference_mode():
        views = large.extrinsics[VIEWS], large.intrinsics[VIEWS]
        found = adjust_depth(images, depth * (1 + off * thing), views)
    assert found.shape == depth.shape
    assert ((found / depth - 1).abs() * thing).sum() / thing.sum() < 0.6 * 0.055


def test_disagreement_is_that_of_a_plain_loop():
    torch.manual_seed(0)
    images, depth = torch.rand(2, 3, 6, 7, dtype=torch.float64), 2 + torch.rand(2, 6, 7).double()
    extrinsics = torch.eye(3, 4, dtype=torch.float64).repeat(2, 1, 1)
    extrinsics[1, 0, 3] = 0.3
    intrinsics = torch.tensor([[6.0, 0, 3.5], [0, 6, 3], [0, 0, 1]]).double().repeat(2, 1, 1)
    pairs = torch.tensor([0, 1]), torch.tensor([1, 0])
    found = disagreement(images, depth, (extrinsics, intrinsics), pairs)
    errors = []
    for here, there in ((0, 1), (1, 0)):
        points = unproject(depth[here], extrinsics[here], intrinsics[here]).reshape(-1, 3)
        places, far = project(points[None], extrinsics[there, None], intrinsics[there, None])
        for index, ((x, y), distance) in enumerate(zip(places[0].tolist(), far[0].tolist())):
            if not (0 < x < 7 and 0 < y < 6):
                continue
            row, column = divmod(index, 7)
            left, top = math.floor(x - 0.5), math.floor(y - 0.5)
            color, log = torch.zeros(3, dtype=torch.float64), 0.0
            for j, i in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
                weight = (1 - abs(y - 0.5 - j)) * (1 - abs(x - 0.5 - i))
                j, i = min(max(j, 0), 5), min(max(i, 0), 6)
                color += weight * images[there, :, j, i]
                log += weight * math.log(depth[there, j, i])
            behind = math.log(distance) - log
            if behind >= HIDDEN:
                continue
            change = (color - images[here, :, row, column]).abs().mean().item()
            error = change / (change + COLOR_SOFTNESS)
            errors.append(error + DEPTH_WEIGHT * abs(behind) / (abs(behind) + DEPTH_SOFTNESS))
    assert 20 < len(errors) < 84
    assert found.item() == pytest.approx(sum(errors) / len(errors), rel=1e-6)


def test_each_view_is_paired_with_its_nearest_ones():
    extrinsics = torch.eye(3, 4).repeat(4, 1, 1)
    extrinsics[:, 0, 3] = -torch.tensor([0.0, 3.0, 1.0, 2.2])  # centres along a line
    here, there = neighboring_pairs(extrinsics, 1)
    assert set(zip(here.tolist(), there.tolist())) == {
        *((0, 2), (2, 0)),
        *((1, 3), (3, 1)),
    }
    here, there = neighboring_pairs(extrinsics[:1], 3)
    assert not len(here) and not len(there)


def test_a_reconstruction_is_adjusted_unless_told_otherwise():
    reconstructor, frames = Reconstructor(tiny_model()), torch.rand(3, 2, 3, 32, 32)
    cameras = reconstructor(frames, adjust=False)
    adjusted = reconstructor(frames)
    assert not torch.equal(cameras.depth, adjusted.depth)
    given = cameras.extrinsics, cameras.intrinsics
    found = reconstructor(frames, cameras=given)
    assert torch.allclose(found.extrinsics, given[0], atol=1e-5)
    alone = reconstructor(frames[:1]), reconstructor(frames[:1], adjust=False)
    assert torch.equal(alone[0].depth, alone[1].depth)  # one view has none to agree with
