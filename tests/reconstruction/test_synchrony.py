"""Offsets between cameras, from exact tracks of procedural scenes that are shifted in time."""

import pytest
import torch

from fourreal.cameras import project, unproject
from fourreal.reconstruction.synchrony import (
    best_offset,
    frame_offsets,
    line_distances,
    offset_costs,
)
from fourreal.reconstruction.tracking import Tracks
from fourreal.scenes import SceneBatch, describe, scene_seed

SIZE, TIMES = 256, 29
OFFSETS = {0: (0, 3, -2), 1: (0, -5, 4), 2: (0, 0, 6), 3: (0, 7, 0), 11: (0, 7, 1)}


def exact_tracks(index: int, offsets, noise: float = 0.5, seed: int = 0) -> Tracks:
    """Tracks of points on a scene's set and things, view v being `offsets[v]` frames late: its
    frame t shows moment t - offsets[v]. A fifth of the positions is hidden."""
    draw = torch.Generator().manual_seed(seed)
    late, early = max(offsets), -min(offsets)
    start = SceneBatch([describe(scene_seed("test", index), 3, 1)])
    depth, _, moving = (part[0, 0, 0] for part in start.geometry(64, 64))
    moments = TIMES + late + early
    scene = SceneBatch([describe(scene_seed("test", index), 3, moments)])
    cameras = scene.extrinsics[0], scene.intrinsics(SIZE, SIZE)[0]
    seen = unproject(depth[None], cameras[0][:1], scene.intrinsics(64, 64)[0, :1])[0][~moving]
    still = seen[torch.randperm(len(seen), generator=draw)[:150]]
    world = [still.expand(moments, -1, -1)]
    for thing in range(int(scene.exists.sum())):
        own = torch.nn.functional.normalize(torch.randn(12, 3, generator=draw), dim=1)
        turned = torch.einsum(
            "tij,pj->tpi", scene.rotation[0, :, thing], own * scene.half[0, thing]
        )
        world.append(turned + scene.position[0, :, thing, None])
    views = [
        project(torch.cat(world, 1)[late - offset :][:TIMES], extrinsics, intrinsics)[0]
        for offset, extrinsics, intrinsics in zip(offsets, *cameras)
    ]
    positions = torch.stack(views)
    positions += noise * torch.randn(positions.shape, generator=draw)
    visibility = (torch.rand(positions.shape[:3], generator=draw) > 0.2).float()
    visibility *= ((positions > 0) & (positions < SIZE)).all(-1)
    return Tracks(positions, visibility, torch.ones_like(visibility))


@pytest.mark.parametrize("index", OFFSETS)
def test_views_that_are_late_are_found_to_the_frame(index):
    assert tuple(frame_offsets(exact_tracks(index, OFFSETS[index]), SIZE)) == OFFSETS[index]


def test_the_costs_are_lowest_at_the_offset_and_rise_beside_it():
    costs = offset_costs(Tracks(*(part[:2] for part in exact_tracks(0, (0, 3, 0)))), SIZE)
    assert set(costs) == set(range(-14, 15))
    assert min(costs, key=costs.get) == 3
    assert costs[3] + 1 < min(costs[2], costs[4])


def test_wild_positions_and_noise_of_a_pixel_do_not_hide_an_offset_or_invent_one():
    draw = torch.Generator().manual_seed(5)
    found = []
    for index, offsets in ((0, (0, 3, 0)), (1, (0, -5, 0)), (4, (0, 0, 2))):
        tracks = exact_tracks(index, offsets, noise=1.0)
        wild = torch.rand(tracks.visibility.shape, generator=draw) < 0.1
        anywhere = SIZE * torch.rand(tracks.positions.shape, generator=draw)
        positions = torch.where(wild[..., None], anywhere, tracks.positions)
        found.append((tuple(frame_offsets(tracks._replace(positions=positions), SIZE)), offsets))
    assert all(ours == offsets for ours, offsets in found), found


def test_where_tracks_cannot_tell_they_say_nothing():
    tracks = exact_tracks(0, (0, 3, 0))
    still = tracks._replace(positions=tracks.positions[:, :1].expand_as(tracks.positions))
    hidden = tracks._replace(visibility=0 * tracks.visibility)
    unsure = tracks._replace(confidence=0 * tracks.confidence)
    for nothing in (still, hidden, unsure):
        assert frame_offsets(nothing, SIZE) == [0, None, None]
    one = Tracks(*(part[:1] for part in tracks))
    assert frame_offsets(one, SIZE) == [0]


def test_distances_are_those_of_the_cameras_own_epipolar_lines():
    """Exact pairs lie on the lines of F = K^-T [t]x R K^-1; pairs that are shifted do not."""
    scene = SceneBatch([describe(scene_seed("test", 0), 3, 1)])
    extrinsics, intrinsics = scene.extrinsics[0].double(), scene.intrinsics(1, 1)[0].double()
    turn = extrinsics[1, :, :3] @ extrinsics[0, :, :3].T
    x, y, z = extrinsics[1, :, 3] - turn @ extrinsics[0, :, 3]
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    inverse = torch.linalg.inv(intrinsics[:2])
    matrix = inverse[1].T @ cross @ turn @ inverse[0]
    world = torch.randn(1, 40, 3, dtype=torch.float64) * 0.3
    first, second = (project(world[0], extrinsics[v], intrinsics[v])[0] for v in (0, 1))
    assert line_distances(matrix, first, second)[0].max() < 1e-7
    away = second + torch.tensor([0.0, 0.01])
    distances, _ = line_distances(matrix, first, away)
    assert 0.001 < distances.median() < 0.01  # less than the shift, as both points give way


def test_of_motion_that_repeats_itself_the_smallest_offset_is_taken():
    costs = {-4: 0.50, -3: 0.9, -2: 1.5, -1: 2.0, 0: 1.9, 1: 0.8, 2: 0.53, 3: 0.55, 4: 1.0}
    assert best_offset(costs) == 2
    assert best_offset(costs | {-4: 0.3}) == -4  # clearly deeper
