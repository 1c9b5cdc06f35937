"""Warp Grid and Paste Known: what leaves their sockets, and what they refuse."""

import pytest
import torch

from fourreal.cameras import arc_cameras, pixel_intrinsics, point_ahead, to_homogeneous
from fourreal.gaussians import Gaussians, rgb_to_harmonics
from fourreal.grid import frames_to_images
from fourreal.warp import warp_grid

SIZE = 32
ARC = {
    "cameras": "arc",
    "num_views": 3,
    "degrees": 30.0,
    "elevation": 10.0,
    "distance": 1.1,
    "given": 0,
    "width": 0,
    "height": 0,
    "num_frames": 0,
    "repaint_all": False,
}


def wall(times=2):
    """A scene of one view: a coloured wall of round Gaussians, another at each time."""
    grid = torch.linspace(-1, 1, 24)
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    means = torch.stack([x, y, torch.full_like(x, 3)], -1).flatten(0, 1)
    count = len(means)
    generator = torch.Generator().manual_seed(0)
    dynamic = [
        Gaussians(
            means,
            torch.tensor([[1.0, 0, 0, 0]]).expand(count, 4),
            torch.full((count, 3), 0.08),
            torch.full((count,), 0.99),
            rgb_to_harmonics(torch.rand(count, 3, generator=generator)),
        )
        for _ in range(times)
    ]
    lens = pixel_intrinsics(torch.tensor([0.6]), SIZE, SIZE)
    return Gaussians.empty(), dynamic, torch.eye(4)[None, :3], lens, SIZE, SIZE


@pytest.fixture
def scene(nodes):
    return nodes.types.CachedScene(*wall())


def warp(nodes, scene, **changes):
    return nodes.WarpGrid.execute(scene, **(ARC | changes)).args


def test_an_arc_is_what_the_library_makes_of_it(nodes, scene):
    found = warp(nodes, scene)
    images, mask, extrinsics, intrinsics, views, times, share, report, *size = found
    centre = point_ahead(scene.extrinsics[0], 3.0)
    camera = scene.extrinsics[0], scene.intrinsics[0]
    arc = {"degrees": 30.0, "elevation": 10.0, "distance": 1.1, "centre": centre}
    cameras = arc_cameras(*camera, 3, **arc)
    warped = warp_grid(scene, *cameras, SIZE, SIZE)
    assert torch.equal(images, frames_to_images(warped.frames))
    assert torch.equal(mask, warped.missing[:, :, 0].flatten(0, 1))
    torch.testing.assert_close(extrinsics, to_homogeneous(cameras[0]))
    torch.testing.assert_close(intrinsics, cameras[1])
    assert (views, times, *size) == (3, 2, SIZE, SIZE)
    assert share == pytest.approx(1 - warped.missing.mean().item(), abs=1e-6)
    shares = ", ".join(f"{100 * part:.0f}%" for part in warped.known_share)
    assert report == f"known of each view: {shares}"


def test_a_wide_arc_is_warned_of_in_the_report(nodes, scene):
    report = warp(nodes, scene, degrees=100.0)[7]
    assert "\nwarning: 2 of 3 views look from up to 100 degrees" in report


def test_a_list_of_cameras_is_the_cameras(nodes, scene):
    many = nodes.types.CachedScene(*wall())
    *_, extrinsics, intrinsics = warp(nodes, scene, degrees=-20.0)[:4]
    many.extrinsics, many.intrinsics = extrinsics[:, :3], intrinsics
    cameras = [nodes.SceneCamera.execute(many, view).args[0] for view in range(3)]
    listed = warp(nodes, scene, camera=cameras)
    torch.testing.assert_close(listed[2], extrinsics, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(listed[3], intrinsics, atol=1e-3, rtol=1e-4)
    own = warp(nodes, many, cameras="views of the scene")
    torch.testing.assert_close(own[2], extrinsics)
    path = nodes.CameraPathNode.execute(scene, "replay", 0, 0, camera=cameras).args[0]
    torch.testing.assert_close(path.extrinsics[0], extrinsics[0, :3], atol=1e-4, rtol=1e-4)


def test_a_splat_is_warped_from_a_camera_or_from_one_before_it(nodes, scene):
    splat = nodes.SceneToSplat.execute(scene, -1).args[0]
    camera = nodes.SceneCamera.execute(scene, 0).args[0]
    images, mask, extrinsics, *_ = warp(nodes, splat, camera=camera, width=32, height=16)
    assert images.shape == (6, 16, 32, 3)
    torch.testing.assert_close(extrinsics[0], torch.eye(4), atol=1e-5, rtol=0)
    # All that is opaque is known, as there was no camera that did not see it.
    same = [torch.eye(4)[None, :3], scene.intrinsics * torch.tensor([0.5, 0.5, 1])[:, None]]
    same[1][0, 0, 2], same[1][0, 1, 2] = 16, 8
    scene.observed = torch.zeros(1, 2)
    assert torch.equal(mask[:2], warp_grid(scene, *same, 32, 16).missing[0, :, 0])
    framed = warp(nodes, splat, num_views=2, width=32, height=24)
    assert framed[0].shape == (4, 24, 32, 3) and framed[6] > 0.1


def test_references_are_known_whole_and_later_times_not_at_all(nodes, scene):
    row, column = torch.full((5, SIZE, SIZE, 3), 0.25), torch.full((3, SIZE, SIZE, 3), 0.75)
    row[0] = 0.75
    found = warp(
        nodes, scene, num_frames=5, given=1, repaint_all=True, fixed_view=row, freeze_time=column
    )
    images, mask = (part.unflatten(0, (3, 5)) for part in found[:2])
    assert torch.equal(images[1], row) and torch.equal(images[:, 0], column)
    cells = torch.zeros(3, 5)
    cells[1], cells[:, 0] = 1, 1
    assert torch.equal(1 - mask.mean((2, 3)), cells)
    assert (images[0, 2:] == 0.5).all()
    assert (images[0, 1] != 0.5).any()  # the draft
    assert found[5] == 5


def test_fewer_times_are_the_first_ones(nodes, scene):
    assert torch.equal(
        warp(nodes, scene, num_frames=1)[0].unflatten(0, (3, 1))[:, 0],
        warp(nodes, scene)[0].unflatten(0, (3, 2))[:, 0],
    )


def test_known_pixels_come_back_from_paste_known(nodes, scene):
    images, mask, *_ = warp(nodes, scene)
    made = torch.rand(images.shape, generator=torch.Generator().manual_seed(1))
    (pasted,) = nodes.PasteKnown.execute(made, 3, images, mask, 0, False).args
    known = mask == 0
    assert torch.equal(pasted[known], images[known]) and torch.equal(pasted[~known], made[~known])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"degrees": 0.0}, "the arc is 0.0 degrees, but must be more than 0"),
        ({"degrees": 400.0}, "the arc is 400.0 degrees"),
        ({"given": 3}, "number 3 of the arc, but must be one of 0 to 2"),
        ({"num_views": 1}, "at least 2 views"),
        ({"fixed_view": torch.zeros(3, SIZE, SIZE, 3)}, "fixed_view has 3 images"),
        ({"freeze_time": torch.zeros(1, SIZE, SIZE, 3)}, "freeze_time has 1 images"),
        ({"freeze_time": torch.zeros(3, 8, SIZE, 3)}, "3 images of 32 x 8 pixels, but this grid"),
    ],
)
def test_wrong_input_of_warp_grid_is_refused_in_one_sentence(nodes, scene, changes, words):
    with pytest.raises(ValueError, match=words) as caught:
        warp(nodes, scene, **changes)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("mask", "warped", "views", "words"),
    [
        ((6, 8, 8), (6, 8, 8, 3), 3, "the masks are 6 of 8 x 8 pixels, but all must be of one"),
        ((5, 16, 16), (6, 16, 16, 3), 3, "the masks are 5 of 16 x 16"),
        ((6, 16, 16), (3, 16, 16, 3), 3, "the warped ones are 3 of 16 x 16"),
        ((6, 16, 16), (6, 16, 16, 3), 4, "6 images cannot be split into 4 views"),
    ],
)
def test_grids_that_do_not_fit_are_refused_by_paste_known(nodes, mask, warped, views, words):
    given = torch.zeros(6, 16, 16, 3), views, torch.zeros(warped), torch.zeros(mask)
    with pytest.raises(ValueError, match=words) as caught:
        nodes.PasteKnown.execute(*given, 15, True)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
