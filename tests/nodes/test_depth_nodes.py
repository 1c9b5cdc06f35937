"""Scene from Depth: the packets of core's MoGe and Depth Anything 3, depth images, and refusals."""

import math
from types import SimpleNamespace

import pytest
import torch

from fourreal.cameras import pixel_intrinsics, unproject
from fourreal.reconstruction import scene_from_depth

from ..comfyui import needs_comfyui

HEIGHT, WIDTH = 24, 32
IMAGES = torch.rand(3, HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0))
# A slanted wall: in its inverse depth linear in x.
DEPTH = (1 / torch.linspace(0.25, 0.5, WIDTH)).expand(3, HEIGHT, WIDTH)
WIDGETS = {"depth_image": "near is white", "depth_range": 10.0, "fov": 60.0, "fps": 4.0}


def made(nodes, depth, images=IMAGES, num_views=1, **changes):
    return nodes.SceneFromDepth.execute(images, num_views, depth, **(WIDGETS | changes)).args[0]


def moge(**changes):
    """As core's MoGeInference gives it: intrinsics in widths and heights, infinity in the sky."""
    sky = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.bool)
    sky[:, :4] = True
    focal = torch.tensor([[0.9, 0, 0.5], [0, 1.2, 0.5], [0, 0, 1]]).repeat(3, 1, 1)
    return {
        "image": IMAGES,
        "depth": DEPTH.masked_fill(sky, torch.inf),
        "mask": ~sky,
        "intrinsics": focal,
    } | changes


def means_of(scene):
    return scene.at(0).means


def test_moge_gives_depth_lens_and_sky(nodes):
    scene = made(nodes, moge())
    lens = torch.tensor([[0.9 * WIDTH, 0, WIDTH / 2], [0, 1.2 * HEIGHT, HEIGHT / 2], [0, 0, 1]])
    torch.testing.assert_close(scene.intrinsics, lens[None])
    sky = moge()["depth"].isinf()
    frames = IMAGES.movedim(-1, 1)[None]
    same = scene_from_depth(
        frames, DEPTH[None], torch.eye(3, 4)[None], lens[None], sky=sky[None], fps=4.0
    )
    torch.testing.assert_close(means_of(scene), means_of(same))
    assert scene.fps == 4.0 and scene.num_frames == 3 and means_of(scene)[:, 2].max() > 100


def test_depth_anything_gives_cameras_of_several_views(nodes):
    """Its intrinsics are in pixels of a resized image, here twice as large."""
    extrinsics = torch.eye(4)[:3].repeat(3, 1, 1)
    extrinsics[:, 0, 3] = torch.tensor([0.0, 0.1, 0.2])
    lens = torch.tensor([[60.0, 0, WIDTH], [0, 62.0, HEIGHT], [0, 0, 1]])
    geometry = {
        "depth": DEPTH,
        "mode": "multiview",
        "extrinsics": extrinsics[None],
        "intrinsics": lens.repeat(1, 3, 1, 1),
        "sky": torch.zeros(3, HEIGHT, WIDTH),
    }
    scene = made(nodes, geometry, num_views=3)
    assert torch.equal(scene.extrinsics, extrinsics) and scene.num_frames == 1
    half = lens * torch.tensor([0.5, 0.5, 1])[:, None]
    torch.testing.assert_close(scene.intrinsics, half.expand(3, 3, 3))


def test_a_depth_image_is_read_as_inverse_depth_or_as_depth(nodes):
    near, far = DEPTH.min(), DEPTH.max()
    white = (1 / DEPTH - 1 / far) / (1 / near - 1 / far)
    image = white[..., None].expand(-1, -1, -1, 3)
    scene = made(nodes, image, depth_range=float(far / near))
    lens = pixel_intrinsics(
        torch.tensor(2 * math.atan(math.tan(math.radians(30)) * HEIGHT / WIDTH)), HEIGHT, WIDTH
    )
    assert lens[0, 0].item() == pytest.approx(WIDTH / 2 / math.tan(math.radians(30)), rel=1e-5)
    points = unproject(DEPTH[0] / near, torch.eye(3, 4), lens).flatten(0, 1)
    for again in (scene, made(nodes, DEPTH[..., None] / near, depth_image="distance")):
        distance = torch.cdist(means_of(again), points).amin(1)
        assert len(means_of(again)) > 100 and distance.max() < 1e-3


def test_the_sky_mask_and_known_cameras_are_used(nodes):
    sky = torch.zeros(1, HEIGHT, WIDTH)
    sky[:, :4] = 1
    extrinsics, intrinsics = torch.eye(4)[None].clone(), torch.eye(3)[None] * 30
    extrinsics[0, 2, 3] = 1.0
    cameras = {"extrinsics": extrinsics, "intrinsics": intrinsics}
    scene = made(nodes, DEPTH[..., None], depth_image="distance", sky=sky, **cameras)
    assert torch.equal(scene.extrinsics, extrinsics[:, :3])
    assert torch.equal(scene.intrinsics, intrinsics)
    assert means_of(scene)[:, 2].max() > 100


def test_a_reconstructor_predicts_depth_and_cameras_or_is_given_these(nodes):
    asked = []

    def reconstructor(frames, **options):
        asked.append(options)
        cameras = options.get("cameras", (torch.eye(4)[None, :3], torch.eye(3)[None] * 20))
        return SimpleNamespace(
            depth=DEPTH[None],
            depth_confidence=torch.full_like(DEPTH[None], 2.5),
            extrinsics=cameras[0],
            intrinsics=cameras[1] * torch.ones(1),
        )

    scene = made(nodes, reconstructor)
    assert torch.equal(scene.intrinsics, torch.eye(3)[None] * 20) and "cameras" not in asked[0]
    assert torch.cat(scene.confidences).unique().tolist() == [2.5]
    assert made(nodes, DEPTH[..., None], depth_image="distance").confidences is None
    known = {"extrinsics": torch.eye(4)[None], "intrinsics": torch.eye(3)[None] * 30}
    scene = made(nodes, reconstructor, **known)
    assert torch.equal(asked[1]["cameras"][1], known["intrinsics"])
    assert torch.equal(scene.intrinsics, known["intrinsics"])
    with pytest.raises(ValueError, match="connect both"):
        made(nodes, reconstructor, extrinsics=known["extrinsics"])


WRONG = {
    "another frame count": (lambda: moge(depth=DEPTH[:2], mask=torch.ones(2, HEIGHT, WIDTH)), {}),
    "depth that is not a number": (lambda: moge(depth=DEPTH * torch.nan), {}),
    "a panorama": (lambda: {k: v for k, v in moge().items() if k != "intrinsics"}, {}),
    "no depth": (lambda: {"image": IMAGES}, {}),
    "views without cameras": (moge, {"num_views": 3}),
    "views that do not divide": (moge, {"num_views": 2}),
    "a sky of another size": (moge, {"sky": torch.zeros(1, 8, 8)}),
    "nothing but sky": (moge, {"sky": torch.ones(1, HEIGHT, WIDTH)}),
    "depth of zero": (lambda: torch.zeros(3, HEIGHT, WIDTH, 3), {"depth_image": "distance"}),
    "half a camera of each": (moge, {"extrinsics": torch.eye(4).repeat(2, 1, 1)}),
}
WORDS = {
    "another frame count": "the depth is of 2 images of 32 x 24 pixels, but there are 3",
    "depth that is not a number": "pixels that are not positive, finite numbers",
    "a panorama": "of a panorama",
    "no depth": "holds no depth",
    "views without cameras": "3 views were given without their cameras",
    "views that do not divide": "3 images cannot be split into 2 views",
    "a sky of another size": "the sky has 1 masks of 8 x 8 pixels",
    "nothing but sky": "covers all of a view",
    "depth of zero": "pixels that are not positive, finite numbers",
    "half a camera of each": "are needed for 1 views",
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_geometry_is_refused_in_one_sentence(nodes, name):
    depth, changes = WRONG[name]
    with pytest.raises(ValueError, match=WORDS[name]) as caught:
        made(nodes, depth(), **changes)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@needs_comfyui
def test_core_has_these_packets(nodes):
    from comfy_extras.nodes_depth_anything_3 import DA3Geometry
    from comfy_extras.nodes_moge import MoGeGeometry

    assert MoGeGeometry.io_type == nodes.types.MoGeGeometry.io_type
    assert DA3Geometry.io_type == nodes.types.DA3Geometry.io_type
