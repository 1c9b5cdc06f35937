"""Cameras between this project and core's 3D nodes, and paths."""

import pytest
import torch

from ..comfyui import needs_comfyui


@needs_comfyui
@torch.inference_mode()
@pytest.mark.parametrize("view", [0, 1])
def test_core_renders_the_splat_of_a_scene_upright_and_in_the_same_place(nodes, view):
    from comfy_extras.nodes_gaussian_splat import RenderSplat

    from fourreal.cameras import look_at, pixel_intrinsics
    from fourreal.gaussians import Gaussians, rgb_to_harmonics

    colours = torch.eye(3)
    moving = Gaussians(
        torch.tensor([[-0.4, -0.5, 2.0], [0.5, 0.3, 3.0], [0.1, 0.4, 1.5]]),
        torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.9, 0.0, 0.0, 0.4], [0.8, 0.6, 0.0, 0.0]]),
        torch.tensor([[0.1, 0.05, 0.05]] * 3),
        torch.full((3,), 0.95),
        rgb_to_harmonics(colours),
    )
    intrinsics = pixel_intrinsics(torch.deg2rad(torch.tensor([60.0, 50.0])), 64, 64)
    eye, target, up = torch.tensor([[0.7, -0.4, -0.3], [0.1, 0.1, 2.0], [0.1, -1.0, 0.2]])
    extrinsics = torch.stack([torch.eye(4)[:3], look_at(eye, target, up)])
    scene = nodes.types.CachedScene(Gaussians.empty(), [moving], extrinsics, intrinsics, 64, 64)
    camera = nodes.SceneCamera.execute(scene, view).args[0]
    path = nodes.CameraPathNode.execute(scene, "fixed_view", 1, 0, camera=camera).args[0]
    torch.testing.assert_close(path.extrinsics[0], extrinsics[view])
    torch.testing.assert_close(path.intrinsics[0], intrinsics[view])
    ours = nodes.RenderSplats.execute(scene, path, 0, 0, "#000000").args[0][0]
    again = nodes.RenderSplats.execute(
        nodes.SceneToSplat.execute(scene, -1).args[0], path, 0, 0, "#000000"
    ).args[0][0]
    assert torch.equal(again, ours)
    splat = nodes.SceneToSplat.execute(scene, -1).args[0]
    core = RenderSplat.execute(
        splat, 64, 64, 1, 1.0, 1.0, 0.0, 0.0, "color", "#000000", camera_info=camera
    ).args[0][0]
    position = torch.stack(torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij"))
    for channel in range(3):  # one Gaussian each
        centres = [
            (position * image[..., channel]).sum((1, 2)) / image[..., channel].sum()
            for image in (ours, core)
        ]
        # Core puts pixel centres at whole numbers (cx.round() with cx0 = width / 2), half a
        # pixel beside gsplat's and ours.
        assert (centres[1] - centres[0] - 0.5).abs().max() < 0.3, centres


def test_a_camera_path_follows_its_time_schedule_and_refuses_a_camera_it_cannot_use(nodes):
    from fourreal.cameras import pixel_intrinsics
    from fourreal.gaussians import Gaussians

    eye = torch.eye(4)[None, :3].repeat(2, 1, 1)
    intrinsics = pixel_intrinsics(torch.ones(2), 64, 64)
    scene = nodes.types.CachedScene(
        Gaussians.empty(), [Gaussians.empty()] * 5, eye, intrinsics, 64, 64
    )
    camera = nodes.SceneCamera.execute(scene, 1).args[0]

    def times(*given) -> list[int]:
        return nodes.CameraPathNode.execute(scene, *given).args[0].times.tolist()

    assert times("fixed_view", 0, 0) == [0, 1, 2, 3, 4]
    assert times("freeze_time", 3, 2) == [2, 2, 2]
    assert times("inputs", 9, 0, "ping_pong") == [0, 1, 2, 3, 4, 3, 2, 1, 0]
    with pytest.raises(ValueError, match="choose fixed_view, or connect"):
        times("orbit", 5, 0, "auto", camera)
    with pytest.raises(ValueError, match="only perspective"):
        times("fixed_view", 5, 0, "auto", camera | {"cameraType": "orthographic"})
    several = [nodes.SceneCamera.execute(scene, view).args[0] for view in (1, 0, 1)]
    path = nodes.CameraPathNode.execute(scene, "inputs", 5, 0, "auto", several).args[0]
    assert len(path.times) == 5
    with pytest.raises(ValueError, match="views 0 to 1"):
        nodes.SceneCamera.execute(scene, 2)


def test_given_cameras_are_the_path(nodes):
    """Each of them as it is, whatever the kind; time goes on as ever."""
    from fourreal.cameras import look_at, pixel_intrinsics, to_homogeneous
    from fourreal.gaussians import Gaussians

    lens = pixel_intrinsics(torch.ones(1), 48, 64)
    scene = nodes.types.CachedScene(
        Gaussians.empty(), [Gaussians.empty()] * 5, torch.eye(3, 4)[None], lens, 64, 48
    )
    eyes = torch.linspace(-30, 30, 9)[:, None] * torch.tensor([1.0, 0, 0])  # far outside
    up = torch.tensor([0.0, -1, 0])
    views = torch.stack([look_at(eye, torch.tensor([0.0, 0, 4]), up) for eye in eyes])
    lenses = lens.repeat(9, 1, 1)
    lenses[:, 0, 0] = torch.linspace(40, 60, 9)

    def path(*given, **more):
        cameras = {"extrinsics": to_homogeneous(views), "intrinsics": lenses}
        return nodes.CameraPathNode.execute(scene, *given, **cameras | more).args[0]

    for kind in ("orbit", "fixed_view"):
        found = path(kind, 0, 0)
        assert torch.equal(found.extrinsics, views) and torch.equal(found.intrinsics, lenses)
        assert (found.width, found.height) == (64, 48)
        assert found.times.tolist() == [0, 0, 1, 2, 2, 2, 3, 4, 4]
    assert path("freeze_time", 9, 3).times.tolist() == [3] * 9
    one = path("orbit", 0, 0, "ping_pong", extrinsics=views, intrinsics=lens)
    assert one.intrinsics.shape == (9, 3, 3) and one.times.max() == 4
    camera = nodes.SceneCamera.execute(scene, 0).args[0]
    for wrong, words in (
        ({"intrinsics": None}, "connect both"),
        ({"extrinsics": None}, "connect both"),
        ({"intrinsics": lenses[:4]}, r"extrinsics are \[9, 4, 4\] and the intrinsics \[4, 3, 3\]"),
        ({"intrinsics": lenses * 20}, "outside the scene's images of 64 x 48"),
        ({"camera": camera}, "both connected"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            path("orbit", 0, 0, **wrong)
        assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="frames is 5, but 9 cameras are connected"):
        path("orbit", 5, 0)
