"""Orbit and its limits, home and focus, and the edges of what was seen."""

import json

import numpy as np
import pytest
import torch

from fourreal import viewer
from fourreal.cameras import Coverage, look_at
from fourreal.formats import framed_scene
from fourreal.gaussians import Gaussians, GaussianScene, rgb_to_harmonics

from .letters import CENTER, DISTANCE, FOCAL, LETTER, PLACES, SIZE, STEP
from .shown_page import ShownPage

FLIP = np.array([1, -1, -1])  # from OpenCV's axes to those of three.js
MARGIN, SOFT = 5, 15  # degrees: beyond the outermost camera, and until resistance is complete


def about(scene: GaussianScene) -> dict:
    return json.loads(viewer.scene_files(scene)["scene.json"]())["orbit"]


def test_the_center_is_where_the_cameras_look_and_up_is_across_them(scene):
    orbit = about(scene)
    middle = scene.at(0).means.double().median(dim=0).values.numpy()  # the parts are relative to it
    np.testing.assert_allclose(orbit["target"] + middle, [0, 0, DISTANCE], atol=1e-3)
    np.testing.assert_allclose(orbit["up"], [0, -1, 0], atol=1e-3)
    assert orbit["seen"] == [0, 1, 2]


def test_up_is_level_for_cameras_that_look_down_and_the_camera_s_own_for_one(scene):
    angles = torch.tensor([-0.5, -0.1, 0.4])
    eyes = torch.stack([4 * angles.sin(), torch.full((3,), -2.0), -4 * angles.cos()], 1)
    scene = GaussianScene(**vars(scene))
    scene.extrinsics = look_at(eyes, torch.zeros(3), torch.tensor([0.0, -1.0, 0.0]))
    np.testing.assert_allclose(about(scene)["up"], [0, -1, 0], atol=1e-3)
    scene.extrinsics, scene.intrinsics = scene.extrinsics[:1], scene.intrinsics[:1]
    np.testing.assert_allclose(about(scene)["up"], -scene.extrinsics[0, 1, :3], atol=1e-6)


def test_limits_are_of_the_views_that_looked_and_none_without_any(scene):
    looked = GaussianScene(**vars(scene))
    looked.observed = torch.zeros(scene.num_views, scene.num_frames, dtype=torch.bool)
    looked.observed[1, 3] = True
    orbit = about(looked)
    assert orbit["seen"] == [1]
    wide = np.degrees(np.subtract(orbit["limits"]["high"], orbit["limits"]["low"])[:2])
    np.testing.assert_allclose(wide, 2 * MARGIN, atol=1e-3)
    framed = framed_scene(scene.static, scene.dynamic, 8.0, "a file")
    assert about(framed)["limits"] is None and about(framed)["seen"] == []


def outside(scene: GaussianScene, shown: ShownPage) -> float:
    """The angle in degrees by which the page's camera is beyond what the input cameras cover."""
    extrinsics = torch.eye(3, 4)[None].double()
    extrinsics[0, :, 3] = -torch.from_numpy(FLIP * shown.place()[0])
    excess = Coverage.of(scene.extrinsics.double()).excess(extrinsics)[0, :2]
    return float(torch.rad2deg(excess.norm()))


def test_a_drag_beyond_what_was_seen_meets_resistance_unless_it_is_switched_off(shown, scene):
    shown.do("fourreal.snap(0); fourreal.setTime(0)")
    for _ in range(6):
        shown.page.mouse.move(20, 128)
        shown.page.mouse.down()
        shown.page.mouse.move(240, 128, steps=2)
        shown.page.mouse.up()
    shown.wait_until_drawn()
    assert 5 < outside(scene, shown) <= SOFT + 1
    shown.keep("limit")
    before = outside(scene, shown)
    shown.drag((128, 128), (118, 128))  # back inward there is none: 0.3 degrees per pixel
    assert before - outside(scene, shown) == pytest.approx(3, abs=0.5)
    shown.page.evaluate("document.getElementById('limit').click()")
    shown.drag((20, 128), (240, 128))
    assert outside(scene, shown) > SOFT + 20
    shown.page.evaluate("document.getElementById('limit').click()")
    shown.do("fourreal.snap(0)")


def test_the_home_button_and_key_lead_back_to_the_first_picture(shown):
    shown.do("fourreal.snap(0); fourreal.setTime(2)")
    first, place = shown.image(), shown.place()
    for go_home in (
        lambda: shown.page.locator("#home").click(),
        lambda: shown.page.keyboard.press("0"),
    ):
        shown.drag((128, 128), (150, 120))
        assert shown.views() == []
        go_home()
        shown.wait_until_drawn()
        assert shown.views() == ["1"]
        np.testing.assert_allclose(shown.place(), place)
        assert np.abs(shown.image() - first).max() <= 2 / 255


def test_a_double_click_brings_what_is_there_to_the_middle_and_nearer(shown):
    """A dot in the top stroke of the letter, which is DISTANCE in front of the first camera."""
    shown.do("fourreal.snap(0); fourreal.setTime(0)")
    before = shown.place()[0]
    left, top = PLACES[LETTER]
    dot = np.array([left + STEP, top, DISTANCE])
    x, y = FOCAL * dot[:2] / DISTANCE + CENTER
    shown.page.mouse.dblclick(float(x), float(y))
    shown.wait_until_drawn()
    shown.keep("focus")
    assert shown.views() == []
    eye, target = shown.place()
    np.testing.assert_allclose(target, FLIP * dot, atol=0.25)  # on its surface
    assert np.linalg.norm(eye - target) == pytest.approx(0.6 * DISTANCE, rel=0.1)
    assert before[2] - eye[2] == pytest.approx(0.4 * DISTANCE, rel=0.1)
    u, v = np.array(CENTER).astype(int)
    assert (shown.image()[v - 3 : v + 4, u - 3 : u + 4] @ [1, -1, 0] > 0.4).all()  # red
    # It is what one turns about now: it stays in the middle.
    shown.drag((100, 200), (140, 200))
    np.testing.assert_allclose(shown.place()[1], target, atol=0.01)
    shown.do("fourreal.snap(0)")


def test_what_lies_at_the_border_of_all_pictures_fades(browser, tmp_path):
    """Dots at shares of half a picture from its border: with s = smoothstep(0, 0.5, share) each
    keeps s^3 of its opacity in the window, and all of it in the picture."""
    shares, depth, focal = np.array([1.0, 0.5, 0.4, 0.3, 0.2]), 4.0, 200.0
    means = torch.zeros(len(shares), 3)
    means[:, 0] = torch.from_numpy((1 - shares) * SIZE / 2 * depth / focal)
    means[:, 1] = torch.linspace(-0.4, 0.4, len(shares))
    means[:, 2] = depth
    dots = Gaussians(
        means,
        torch.tensor([1.0, 0, 0, 0]).repeat(len(shares), 1),
        torch.full((len(shares), 3), 0.06),
        torch.full((len(shares),), 0.8),
        rgb_to_harmonics(torch.ones(len(shares), 3)),
    )
    intrinsics = torch.tensor([[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1]])[None]
    nothing = Gaussians.empty()
    scene = GaussianScene(dots, [nothing], torch.eye(3, 4)[None], intrinsics, SIZE, SIZE)
    viewer.export_html(scene, tmp_path / "dots.html")
    shown = ShownPage(browser, (tmp_path / "dots.html").as_uri())

    def peaks() -> np.ndarray:
        places = (means[:, :2] / depth * focal + SIZE / 2).numpy().astype(int)
        return np.array([shown.image()[y - 3 : y + 4, x - 3 : x + 4].max() for x, y in places])

    plain = peaks()
    assert plain.min() > 0.7
    shown.do("fourreal.camera.state = fourreal.camera.state; fourreal.state.view = -1")
    shown.wait_until_drawn()
    s = np.clip(shares / 0.5, 0, 1)
    np.testing.assert_allclose(peaks() / plain, (3 * s**2 - 2 * s**3) ** 3, atol=0.05)
    shown.do("document.getElementById('soft').checked = false")
    np.testing.assert_allclose(peaks(), plain, atol=0.02)
    shown.page.close()
