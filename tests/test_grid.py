"""The V x T grid: layouts, references and contact sheets."""

import pytest
import torch

from fourreal.grid import (
    check_shared_cell,
    check_size,
    contact_sheet,
    frames_to_images,
    grid_to_sequence,
    images_to_frames,
    num_latent_frames,
    reference_mask,
    sampling_stages,
    sequence_to_grid,
    tile_views,
)
from fourreal.scenes import make_scene, scene_seed


def numbered(num_views=3, num_times=5, height=2, width=4):
    """Frames [V, T, 3, H, W] whose every pixel is 10 v + t."""
    number = 10 * torch.arange(num_views)[:, None] + torch.arange(num_times)
    return number[:, :, None, None, None].expand(-1, -1, 3, height, width).float()


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: (x + 0.05 * torch.randn_like(x)).clamp(0, 1),  # grain
        lambda x: (1.3 * x).clamp(0, 1),  # other light
        lambda x: x**1.4,
        lambda x: x.roll(1, -1),
        lambda x: (x * 16).round() / 16,
    ],
)
@pytest.mark.parametrize("size", [32, 256])  # larger ones are compared at 64 pixels
def test_references_may_differ_by_codecs_light_and_small_shifts(change, size):
    torch.manual_seed(0)
    scene = make_scene(scene_seed("validation", 3), 2, 2, size, size).frames
    check_shared_cell(scene[0], torch.cat([change(scene[:1, 0]), scene[1:, 0]]))


@pytest.mark.parametrize("seed", range(4))
def test_references_of_two_scenes_or_moments_are_refused(seed):
    """A fixed view of one scene with photos of another, and a mirrored one."""
    row, column = (make_scene(scene_seed("validation", s), 2, 1, 48, 64).frames for s in (seed, 9))
    for wrong in (column[:, 0], row[:, 0].flip(-1)):
        with pytest.raises(ValueError, match=r"one cell of the grid, but show different.*video's"):
            check_shared_cell(row[0], wrong)
    grey = torch.full_like(row[0], 0.5)
    check_shared_cell(grey, grey + 0.03 * torch.rand_like(grey))  # nothing that could correlate
    with pytest.raises(ValueError, match="show different things"):
        check_shared_cell(grey, grey + 0.3)


@pytest.mark.parametrize("frames, latents", [(1, 1), (5, 2), (29, 8), (81, 21)])
def test_latent_frames_are_one_and_then_one_per_four(frames, latents):
    assert num_latent_frames(frames) == latents


@pytest.mark.parametrize("frames, below, above", [(0, 1, 5), (2, 1, 5), (28, 25, 29), (30, 29, 33)])
def test_other_lengths_are_refused_with_the_nearest_valid_ones(frames, below, above):
    with pytest.raises(ValueError, match=rf"{frames}\b.*use {below} or {above}\."):
        num_latent_frames(frames)


def test_sizes_must_be_multiples():
    check_size(288, 512, 16)
    with pytest.raises(ValueError, match=r"width is 500.*use 496 or 512"):
        check_size(288, 500, 16)
    with pytest.raises(ValueError, match=r"height is 0.*use 16 or 32"):
        check_size(0, 512, 16)


def test_stages_make_the_missing_references_before_the_rest():
    def stages(row, columns, views=3, frames=4):
        return sampling_stages(reference_mask(views, frames, row, columns))

    assert stages(False, 0) == [(3, 1), (1, 4), (3, 4)]
    assert stages(True, 0) == [(3, 1), (3, 4)]
    assert stages(False, 2) == [(1, 4), (3, 4)]
    assert stages(True, 1) == stages(True, 4) == [(3, 4)]
    assert stages(False, 0, views=1) == [(1, 4)] and stages(False, 0, frames=1) == [(3, 1)]


def test_images_are_view_major():
    images = frames_to_images(numbered())
    assert images.shape == (15, 2, 4, 3)
    assert images[1 * 5 + 3, 0, 0, 0] == 13
    assert torch.equal(images_to_frames(images, 3), numbered())


def test_images_with_alpha_lose_it():
    images = torch.cat([frames_to_images(numbered()), torch.zeros(15, 2, 4, 1)], dim=-1)
    assert torch.equal(images_to_frames(images, 3), numbered())


@pytest.mark.parametrize("num_views", [0, 4])
def test_images_that_do_not_fill_a_grid_are_refused(num_views):
    with pytest.raises(ValueError, match=f"15 images cannot be split into {num_views}"):
        images_to_frames(frames_to_images(numbered()), num_views)


def test_latents_become_one_sequence_and_return():
    grid = torch.randn(3, 4, 5, 2, 2)
    sequence = grid_to_sequence(grid)
    assert sequence.shape == (1, 4, 15, 2, 2)
    assert torch.equal(sequence[0, :, 2 * 5 + 1], grid[2, :, 1])
    assert torch.equal(sequence_to_grid(sequence, 3), grid)


def test_references_are_the_first_row_and_column():
    both = reference_mask(3, 4, fixed_view=True, columns=1)
    assert both.tolist() == [[True] * 4, [True] + [False] * 3, [True] + [False] * 3]
    assert reference_mask(3, 4, fixed_view=True, columns=0).sum() == 4
    assert reference_mask(3, 4, fixed_view=False, columns=1).sum() == 3
    assert not reference_mask(3, 4, fixed_view=False, columns=0).any()


def test_views_are_tiled_left_to_right_and_top_to_bottom():
    video = tile_views(numbered(num_views=5))
    assert video.shape == (5, 3, 2 * 2, 3 * 4)
    corners = video[2, 0, ::2, ::4]
    assert corners.tolist() == [[2, 12, 22], [32, 42, 0]]
    shapes = [tile_views(numbered(n, 1, 1, 1)).shape[-2:] for n in (1, 2, 3, 4, 8, 9)]
    assert shapes == [(1, 1), (1, 2), (1, 3), (2, 2), (2, 4), (2, 5)]


def test_the_contact_sheet_has_views_down_and_times_across():
    sheet = contact_sheet(numbered(2, 9), max_times=3)
    assert sheet.shape == (3, 2 * 2 + 2, 3 * 4 + 2 * 2)
    assert sheet[0, ::4, ::6].tolist() == [[0, 4, 8], [10, 14, 18]]
    assert (sheet[:, 2:4] == 1).all()  # the gaps are white
    assert (sheet[:, :, 4:6] == 1).all()
