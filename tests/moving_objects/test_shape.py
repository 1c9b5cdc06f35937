"""The shape of an object, against that of a ball that is known in closed form."""

import math

import pytest
import torch

from fourreal.cameras import camera_centers, pixel_intrinsics, unproject
from fourreal.moving_objects.segmentation import Cutout, MovingObject
from fourreal.moving_objects.shape import ObjectViews, shaped
from fourreal.neighborhoods import eroded, grown

from ..pretend_cuda import PretendCuda

VIEWS, RADIUS = 6, 0.5
CENTER, LIGHT = torch.tensor([0.1, -0.05, 3.0]), torch.tensor([0.48, -0.6, -0.64])


def cameras_on_an_arc(size):
    """They look at (0, 0, 3) from 40 degrees."""
    extrinsics = []
    for angle in torch.linspace(0, math.radians(40), VIEWS).tolist():
        c, s = math.cos(angle), math.sin(angle)
        turn = torch.tensor([[c, 0.0, s], [0, 1, 0], [-s, 0, c]])
        ahead = torch.tensor([0.0, 0, 3])
        extrinsics.append(torch.cat([turn, (ahead - turn @ ahead)[:, None]], 1))
    intrinsics = pixel_intrinsics(torch.tensor(0.6), size, size).expand(VIEWS, 3, 3)
    return torch.stack(extrinsics), intrinsics


def ball(size=64):
    """A red ball with stripes, lit from one side, cut out of all views; its depth is exact."""
    cameras = cameras_on_an_arc(size)
    eyes = camera_centers(cameras[0])[:, None, None]
    rays = unproject(torch.ones(VIEWS, size, size), *cameras) - eyes
    a, b = rays.square().sum(-1), (rays * (eyes - CENTER)).sum(-1)
    inside = b.square() - a * ((eyes - CENTER).square().sum(-1) - RADIUS**2)
    mask, depth = inside > 0, (-b - inside.clamp_min(0).sqrt()) / a
    normals = (eyes + rays * depth[..., None] - CENTER) / RADIUS
    bright = 0.45 + 0.4 * (normals @ LIGHT).clamp_min(0) + 0.1 * (9 * normals[..., 1]).sin()
    colors = (bright[..., None] * torch.tensor([0.9, 0.25, 0.2])).movedim(-1, 1)
    depth = torch.where(mask, depth, 3.0)
    none = torch.zeros_like(mask)
    item = MovingObject(mask, depth, none, CENTER, torch.tensor(RADIUS))
    return Cutout(item, colors, mask[:, None].float(), depth), cameras


def as_predicted(cutout, share=0.03):
    """Its depth as a network has it: each view's is off in another way, smoothly."""
    rows, columns = (torch.linspace(0, 9, n) for n in cutout.depth.shape[1:])
    waves = [(rows[:, None] * (1 + v / 9) + columns + 2 * v).sin() for v in range(VIEWS)]
    depth = cutout.depth * (1 + share * torch.stack(waves))
    return Cutout(cutout.item, cutout.colors, cutout.alpha, depth)


def error(depth, cutout):
    """Mean relative error of depth, within the rim of a pixel."""
    inside = eroded(cutout.item.mask, 1)
    return float((depth / cutout.item.depth - 1).abs()[inside].mean())


@pytest.mark.parametrize("size", [64, 256])
def test_views_that_disagree_find_the_shape_that_they_see(size):
    """Also of frames that are larger than those in which it is sought."""
    exact, cameras = ball(size)
    wrong = as_predicted(exact)
    found = shaped(wrong, cameras)
    assert error(wrong.depth, exact) > 0.015
    assert error(found, exact) < error(wrong.depth, exact) / 3


def test_no_point_stands_out_beside_it_in_another_view():
    """Points of all views, in the last one: farther than a pixel from the ball."""
    exact, cameras = ball()
    wrong = as_predicted(exact, 0.08)
    last = cameras[0][-1:], cameras[1][-1:]
    shares = []
    for depth in (wrong.depth, shaped(wrong, cameras)):
        points = unproject(depth, *cameras)[exact.item.mask]
        seen = points @ last[0][0, :, :3].T + last[0][0, :, 3]
        x, y = ((seen @ last[1][0].T)[:, :2] / seen[:, 2:]).long().unbind(1)
        shares.append((~grown(exact.item.mask[-1:], 1)[0, y, x]).float().mean().item())
    assert shares[0] > 0.03 and shares[1] < shares[0] / 5


def test_depth_that_is_right_stays_to_the_bit():
    exact, cameras = ball()
    assert torch.equal(shaped(exact, cameras), exact.depth)


def test_what_may_be_hidden_says_nothing():
    """Half of what two views see of it is behind something: they do not carve the rest away."""
    exact, cameras = ball()
    wrong = as_predicted(exact)
    wrong.item.hidden[:2, :, 34:] = True
    wrong.item.mask[:2, :, 34:] = False
    wrong.alpha[:2, :, :, 34:] = 0
    assert error(shaped(wrong, cameras), exact) < error(wrong.depth, exact) / 2


def test_an_object_that_no_view_shows_stays_as_it_is():
    exact, cameras = ball()
    nothing = Cutout(exact.item, exact.colors, torch.zeros_like(exact.alpha), exact.depth)
    assert torch.equal(shaped(nothing, cameras), exact.depth)


def test_inference_mode_and_a_gpu_find_the_same():
    """The GPU is a pretended one."""
    cutout, cameras = ball()
    cutout = as_predicted(cutout)
    with torch.no_grad():
        wanted = shaped(cutout, cameras)
    with torch.inference_mode():
        again = Cutout(cutout.item, cutout.colors.clone(), cutout.alpha.clone(), cutout.depth + 0)
        torch.testing.assert_close(shaped(again, tuple(c.clone() for c in cameras)), wanted)
    with PretendCuda():
        there = {name: getattr(cutout, name).to("cuda") for name in ("colors", "alpha", "depth")}
        hidden = cutout.item.hidden.to("cuda")
        item = MovingObject(hidden, hidden, hidden, CENTER, torch.tensor(RADIUS))
        found = shaped(Cutout(item, **there), tuple(c.to("cuda") for c in cameras))
        assert found.device.type == "cuda"
        torch.testing.assert_close(found.cpu(), wanted)


def test_outside_is_measured_in_pixels():
    """Against the distances between all pixels: along the longer of x and y."""
    exact, cameras = ball(32)
    maps = torch.cat([exact.colors, exact.alpha, torch.zeros_like(exact.alpha)], 1)
    outside = ObjectViews(maps, exact.depth, cameras).maps[0, 5]
    own = exact.item.mask[0].nonzero()
    for y in range(0, 32, 5):
        for x in range(0, 32, 3):
            assert outside[y, x] == (own - torch.tensor([y, x])).abs().amax(1).min()
