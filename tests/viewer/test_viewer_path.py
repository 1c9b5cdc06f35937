"""The camera path: keyframes on the timeline by mouse and key, played along, told of and set."""

import numpy as np
import pytest
import torch

from fourreal import viewer
from fourreal.cameras import camera_centers, interpolate_cameras, matrix_to_quaternion
from fourreal.formats import framed_scene
from fourreal.gaussians import Gaussians

from .letters import TIMES
from .shown_page import ShownPage

FLIP = torch.tensor([1.0, -1.0, -1.0])  # from OpenCV's axes to those of three.js


@pytest.fixture
def page(shown):
    """The page without keyframes, at time 0 of the first camera."""
    shown.page.evaluate("[...fourreal.path.keyframes].forEach(() => fourreal.path.replace([]))")
    shown.do("fourreal.snap(0); fourreal.setTime(0)")
    yield shown.page
    shown.page.evaluate("fourreal.play(false)")


def set_keyframes(shown, times) -> None:
    """One for each of the input cameras, by their keys."""
    for view, time in enumerate(times):
        shown.page.evaluate(f"fourreal.setTime({time})")
        shown.page.keyboard.press(str(view + 1))
        shown.page.keyboard.press("k")
    shown.wait_until_drawn()


def times(page) -> list[float]:
    return page.evaluate("fourreal.path.keyframes.map((keyframe) => keyframe.time)")


def mark(page, index: int) -> tuple[float, float]:
    box = page.locator("#marks button").nth(index).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_keyframes_are_set_moved_and_removed_with_the_mouse(shown, page):
    page.locator("#key").click()
    page.evaluate("fourreal.setTime(4)")
    page.locator("#key").click()
    page.locator("#key").click()  # again at the same time: the same keyframe
    assert times(page) == [0, 4]
    start = mark(page, 1)
    track = page.locator("#marks").bounding_box()
    shown.drag(start, (track["x"] + track["width"] * 6 / (TIMES - 1) + 2, start[1] + 5))
    assert times(page) == [0, 6]
    assert page.evaluate("fourreal.state.time") == 6
    shown.keep("keyframes")
    page.mouse.click(*mark(page, 0))
    assert page.evaluate("fourreal.state.time") == 0
    page.locator("#unkey").click()
    assert times(page) == [6]
    assert page.locator("#unkey").is_disabled()  # there is none at this time


def test_keyframes_are_set_moved_and_removed_with_keys(shown, page):
    set_keyframes(shown, (0, 3, 5))
    assert times(page) == [0, 3, 5]
    page.locator("#marks button").nth(1).focus()
    page.keyboard.press("ArrowRight")
    assert times(page) == [0, 4, 5]
    page.keyboard.press("ArrowRight")  # onto the next one, which goes
    assert times(page) == [0, 5]
    assert page.evaluate("fourreal.state.time") == 5
    page.keyboard.press("Delete")
    assert times(page) == [0]


def test_a_click_on_a_keyframe_brings_its_camera(shown, page):
    set_keyframes(shown, (0, 3, 5))
    page.keyboard.press("1")
    page.mouse.click(*mark(page, 2))
    shown.wait_until_drawn()
    wanted = page.evaluate("fourreal.path.keyframes[2].camera")
    assert page.evaluate("fourreal.camera.state")["position"] == pytest.approx(wanted["position"])
    assert page.evaluate("fourreal.state.time") == 5


@pytest.mark.parametrize("moment", [0.0, 0.75, 2.0, 3.4, 5.0, 6.5])
def test_the_path_is_the_library_s_spline(shown, page, scene, moment):
    """Between keyframes at 0, 2 and 5, as interpolate_cameras at a fraction of them."""
    set_keyframes(shown, (0, 2, 5))
    seen = page.evaluate(f"fourreal.path.at({moment})")
    position = float(np.interp(moment, [0, 2, 5], [0, 1, 2]))
    camera = interpolate_cameras(scene.extrinsics.double(), torch.tensor([position]).double())
    np.testing.assert_allclose(
        seen["position"], (FLIP * camera_centers(camera)[0]).numpy(), atol=1e-5
    )
    to_world = torch.diag(FLIP.double()) @ camera[0, :, :3].T @ torch.diag(FLIP.double())
    w, x, y, z = matrix_to_quaternion(to_world[None])[0].tolist()
    assert abs(np.dot(seen["quaternion"], [x, y, z, w])) == pytest.approx(1, abs=1e-6)


def test_the_camera_goes_along_the_path_until_a_hand_takes_it(shown, page):
    set_keyframes(shown, (0, 4, 7))
    page.evaluate("fourreal.setTime(0)")
    page.locator("#along").click()
    assert page.evaluate("fourreal.state.playing")
    page.wait_for_function("fourreal.state.shown > 0")
    page.keyboard.press("Space")  # stop, and scrub: the camera goes with the time
    page.evaluate("fourreal.setTime(4)")
    shown.wait_until_drawn()
    wanted = page.evaluate("fourreal.path.keyframes[1].camera.position")
    np.testing.assert_allclose(shown.place()[0], wanted, atol=1e-6)
    assert page.evaluate("fourreal.state.along")
    shown.drag((120, 120), (130, 120))
    assert not page.evaluate("fourreal.state.along")
    moved = shown.place()[0]
    shown.do("fourreal.setTime(7)")
    np.testing.assert_allclose(shown.place()[0], moved)


def test_a_still_scene_without_cameras_fills_the_window_and_has_a_timeline(
    browser, scene, tmp_path
):
    """Four seconds at its rate, for its camera alone: it is at time 0 all along."""
    still = framed_scene(scene.static, [Gaussians.empty()], 24.0, "a file")
    viewer.export_html(still, tmp_path / "still.html")
    shown = ShownPage(browser, (tmp_path / "still.html").as_uri(), (600, 300))
    page = shown.page
    shown.keep("still")
    assert page.evaluate("[fourreal.state.view, fourreal.state.open]") == [0, 1]
    assert (shown.image().max(-1) > 0.2).mean() > 0.1
    assert page.locator("#time").get_attribute("max") == "95"
    assert page.locator("#limit").is_hidden()
    page.keyboard.press("k")
    shown.drag((300, 120), (100, 120))  # 60 degrees: there are no limits
    first, turned = page.evaluate("[fourreal.path.keyframes[0].camera, fourreal.camera.state]")
    angle = 2 * np.arccos(abs(np.dot(first["quaternion"], turned["quaternion"])))
    assert np.degrees(angle) == pytest.approx(60, abs=0.1)
    page.evaluate("fourreal.setTime(95)")
    page.keyboard.press("k")
    page.locator("#along").click()
    page.evaluate("fourreal.play(false)")
    page.evaluate("fourreal.setTime(95)")
    shown.wait_until_drawn()
    np.testing.assert_allclose(shown.place()[0], turned["position"])
    assert page.evaluate("fourreal.state.shown") == 0
    assert page.locator("#clock").inner_text() == "4.0 s"
    assert shown.errors == []
    page.close()
