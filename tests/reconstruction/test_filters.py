"""Which pixels stay, at which depth, and what merges."""

import torch

from fourreal.cameras import project, unproject
from fourreal.gaussians import Gaussians
from fourreal.reconstruction import Filters, pose_encoding_to_cameras
from fourreal.reconstruction.filters import (
    consistent,
    depth_jump,
    keep_pixels,
    merge_voxels,
    sharpen_depth,
)


def test_depth_edges_are_flying_pixels_not_slopes_nor_steps():
    row = torch.arange(16.0)
    plane = (1 / (0.05 + 0.02 * row)).expand(1, 16, 16)  # a floor seen at a low angle
    assert depth_jump(plane).max() < 1e-4
    step = torch.ones(1, 16, 16)
    step[..., 8:] = 3
    assert depth_jump(step).max() == 0
    flying = step.clone()
    flying[..., 8] = 1.8
    assert (depth_jump(flying)[0, :, 8] > 0.2).all()
    flying[..., 8] = 3
    assert depth_jump(flying).max() == 0


def test_depth_gets_its_edges_from_the_image():
    """A box before a wall whose depth is blurred, and shrunk by two pixels on one side."""
    inside = torch.zeros(1, 24, 24, dtype=torch.bool)
    inside[:, 8:18, 6:20] = True
    images = torch.where(inside[:, None], torch.tensor([0.1, 0.6, 0.1]).view(1, 3, 1, 1), 0.5)
    exact = torch.where(inside, 2.0, 4.0)
    blurred = torch.where(inside & (torch.arange(24)[:, None] >= 10), 2.0, 4.0)
    blurred = torch.nn.functional.avg_pool2d(blurred[:, None], 3, 1, 1, count_include_pad=False)
    blurred = blurred[:, 0]
    wrong = (blurred - exact).abs() > 0.2
    assert wrong.sum() > 60
    sharp = sharpen_depth(images, blurred, 0.3)
    assert ((sharp - exact).abs() > 0.2).sum() < wrong.sum() / 2
    assert torch.equal(sharp[:, :4], blurred[:, :4])  # far from any edge
    slope = 2 + torch.arange(24.0).expand(1, 24, 24) / 24
    assert torch.equal(sharpen_depth(images, slope, 0.3), slope)
    # A dense twin of a pixel at the edge, in float64.
    y, x = 9, 12
    rows, columns = slice(y - 3, y + 4), slice(x - 3, x + 4)
    color = images[0, :, y, x, None, None]
    unlike = (images[0, :, rows, columns] - color).double().square().sum(0).flatten()
    weight = torch.exp(-unlike / (2 * 0.1**2))
    depths, order = blurred[0, rows, columns].flatten().sort()
    middle = torch.searchsorted(weight[order].cumsum(0), weight.sum() / 2)
    assert sharp[0, y, x] == depths[middle]


def test_points_that_other_views_look_through_are_inconsistent():
    encoding = torch.tensor([[0.2 * v, 0, 0, 0, 0, 0, 1, 1, 1] for v in (-1, 0, 1)])
    extrinsics, intrinsics = pose_encoding_to_cameras(encoding, 24, 24)
    depth, grey = torch.full((3, 24, 24), 4.0), torch.full((3, 3, 24, 24), 0.5)
    assert consistent(grey, depth, extrinsics, intrinsics, 0.05).all()
    depth[0, 10:14, 10:14] = 1.5  # floats before a wall that the others see
    kept = consistent(grey, depth, extrinsics, intrinsics, 0.05)
    assert not kept[0, 10:14, 10:14].any()
    assert kept.sum() == kept.numel() - 16  # the wall behind it is hidden, not contradicted
    points = unproject(depth, extrinsics, intrinsics)[0, 12, 12].view(1, 1, 3).expand(3, 1, 3)
    assert (project(points, extrinsics, intrinsics)[1] < 3).all()


def test_points_on_a_surface_that_others_see_in_another_colour_are_inconsistent():
    encoding = torch.tensor([[0.2 * v, 0, 0, 0, 0, 0, 1, 1, 1] for v in (-1, 0, 1)])
    extrinsics, intrinsics = pose_encoding_to_cameras(encoding, 24, 24)
    depth, images = torch.full((3, 24, 24), 4.0), torch.full((3, 3, 24, 24), 0.5)
    images[0, 0, 10:14, 10:14] = 0.9  # the red rim of a thing, at the depth of the wall
    kept = consistent(images, depth, extrinsics, intrinsics, 0.05)
    assert not kept[0, 10:14, 10:14].any() and kept.sum() == kept.numel() - 16
    images[0, 0, 10:14, 10:14] = 0.65  # light may change that much
    assert consistent(images, depth, extrinsics, intrinsics, 0.05).all()
    # An edge of colour that is a pixel away in the other views, which look from the same place.
    edge = torch.zeros(3, 3, 24, 24)
    edge[..., :12], edge[0, ..., 12] = 1, 1
    alike = extrinsics[:1].expand(3, -1, -1), intrinsics[:1].expand(3, -1, -1)
    assert consistent(edge, depth, *alike, 0.05).all()


def test_doubtful_points_stay_where_nothing_else_would_be_drawn():
    encoding = torch.tensor([[0.2 * v, 0, 0, 0, 0, 0, 1, 1, 1] for v in (-1, 0, 1)])
    extrinsics, intrinsics = pose_encoding_to_cameras(encoding, 24, 24)
    depth, sure = torch.full((3, 24, 24), 4.0), torch.ones(3, 24, 24)
    depth[0, :, 10], depth[0, :, 11:14] = 2.5, 2.0  # a post, and points that fly beside it
    assert (depth_jump(depth)[0, :, 10] > 0.1).all()
    grey = torch.full((3, 3, 24, 24), 0.5)
    kept = keep_pixels(grey, depth, sure, extrinsics, intrinsics, Filters(consistency=0))
    assert not kept[0, :, 10].any() and kept.sum() == kept.numel() - 24
    # The other views showed the wall there. Alone, the view would be left with a gap.
    alone = grey[:1], depth[:1], sure[:1], extrinsics[:1], intrinsics[:1]
    assert keep_pixels(*alone, Filters(consistency=0)).all()
    # What is left out on purpose stays out.
    assert not keep_pixels(*alone, Filters(border=0.1))[:, 0].any()


def test_voxels_merge_by_weight():
    means = torch.tensor([[0.1, 0.1, 0.1], [0.3, 0.1, 0.1], [1.5, 0.1, 0.1]])
    quaternions = torch.eye(4)[:3]
    gaussians = Gaussians(
        means, quaternions, torch.ones(3, 3), torch.tensor([0.2, 0.6, 0.9]), torch.zeros(3, 1, 3)
    )
    merged, most = merge_voxels(gaussians, 1.0, torch.tensor([1.0, 3.0, 1.0]))
    assert torch.allclose(merged.means, torch.tensor([[0.25, 0.1, 0.1], [1.5, 0.1, 0.1]]))
    assert torch.allclose(merged.opacities, torch.tensor([0.5, 0.9]))
    assert torch.equal(merged.quaternions, quaternions[1:])
    assert most.tolist() == [3, 1]
