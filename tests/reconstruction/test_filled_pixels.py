"""Pixels that a model made up count less than those that were seen."""

import pytest
import torch

from fourreal.gaussians import GaussianScene
from fourreal.metrics.pixels import psnr
from fourreal.reconstruction import Filters, Maps, Reconstructor, StaticSplit, refine_scene
from fourreal.reconstruction.camera_head import pose_encoding_to_cameras
from fourreal.reconstruction.filters import shown_by_others
from fourreal.reconstruction.pixels_to_gaussians import emit_gaussians
from fourreal.rendering import render
from fourreal.scenes import make_scene, scene_seed

from ..tiny import tiny_model

SIZE = 32
INPUTS, HELD_OUT = [0, 2, 4], [1, 3]


def test_a_filled_pixel_gives_way_to_one_that_was_seen_at_the_same_place():
    """Three cameras side by side before a wall: each sees it a pixel further on."""
    encoding = torch.tensor([[1 / 6 * v, 0, 0, 0, 0, 0, 1, 1, 1] for v in (-1, 0, 1)])
    cameras = pose_encoding_to_cameras(encoding, 24, 24)
    shift = cameras[1][0, 0, 0].item() / 6 / 4  # pixels between neighbours at depth 4
    depth = torch.full((3, 24, 24), 4.0)
    filled = torch.zeros(3, 24, 24, dtype=torch.bool)
    filled[0, 5:10, 5:15] = True
    assert torch.equal(shown_by_others(depth, filled, *cameras), filled)
    filled[1:] = True  # nobody saw it
    assert not shown_by_others(depth, filled, *cameras)[0].any()
    filled[1:] = False
    depth[1:] = 2.0  # they see something nearer
    assert not shown_by_others(depth, filled, *cameras)[0].any()
    depth[:], filled[:] = 4.0, False
    filled[0] = True
    columns = shown_by_others(depth, filled, *cameras)[0].all(0)
    assert columns.sum() in (24 - int(shift), 24 - int(shift) - 1)  # the rest only view 0 looks at


@pytest.fixture(scope="module")
def grid():
    """A scene, its frames with holes that were filled in other colours, and where."""
    scene = make_scene(scene_seed("test", 0), num_views=5, num_frames=2, height=SIZE, width=SIZE)
    frames, filled = scene.frames[INPUTS], torch.zeros(3, 2, SIZE, SIZE, dtype=torch.bool)
    filled[1:, :, 8:24, 8:24] = True
    made = torch.where(filled[:, :, None], frames * 0.6 + 0.2, frames)
    return scene, made, filled


def reconstructed(scene, frames, filled):
    cameras = scene.extrinsics[INPUTS], scene.intrinsics[INPUTS]
    maps = Maps.known(scene.depth[INPUTS].transpose(0, 1), *cameras)
    options = Filters(), StaticSplit(), None, None if filled is None else filled.transpose(0, 1)
    *parts, _ = emit_gaussians("none", frames.transpose(0, 1), maps, cameras, *options)
    return GaussianScene(*parts, *cameras, SIZE, SIZE)


def score(found, scene, views):
    cameras = scene.extrinsics[views], scene.intrinsics[views]
    shown = [render(found.at(t), *cameras, SIZE, SIZE).color.movedim(-1, 1) for t in (0, 1)]
    return psnr(torch.stack(shown, 1).clamp(0, 1), scene.frames[views])


def test_views_that_were_never_seen_look_better_when_a_fill_is_known_to_be_one(grid):
    scene, made, filled = grid
    told, untold = (reconstructed(scene, made, which) for which in (filled, None))
    assert score(told, scene, HELD_OUT) > score(untold, scene, HELD_OUT) + 0.5
    assert told.num_gaussians < untold.num_gaussians


def test_refinement_trusts_seen_pixels_more(grid):
    scene, made, filled = grid
    start = reconstructed(scene, made, None)
    told, untold = (refine_scene(start, made, 40, which) for which in (filled, None))
    assert score(told, scene, HELD_OUT) > score(untold, scene, HELD_OUT)


@pytest.mark.slow
def test_the_reconstructor_takes_the_mask_at_the_size_of_the_frames():
    reconstructor = Reconstructor(tiny_model())
    frames, filled = torch.rand(2, 2, 3, 40, 56), torch.zeros(2, 2, 40, 56)
    plain = reconstructor(frames).scene.num_gaussians
    assert reconstructor(frames, filled=filled).scene.num_gaussians == plain
    filled[1] = 1
    assert reconstructor(frames, filled=filled, refine=1).scene.num_gaussians <= plain
    with pytest.raises(ValueError, match=r"filled has the shape \(2, 2, 8, 8\)") as caught:
        reconstructor(frames, filled=filled[..., :8, :8])
    assert "\n" not in str(caught.value)
