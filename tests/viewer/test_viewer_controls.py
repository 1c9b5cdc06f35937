"""The page under the hand: mouse, touch, keys, settings, and the files that it saves."""

import av
import numpy as np
import pytest

from ..tiny import pixels, psnr
from .letters import SIZE, TIMES


def test_drag_orbits_and_snap_returns(shown):
    shown.do("fourreal.snap(0); fourreal.setTime(0)")
    before = shown.image()
    shown.drag((128, 128), (188, 148))
    turned = shown.image()
    shown.keep("orbit")
    assert psnr(before, turned) < 30.0
    assert shown.views() == []  # not an input camera's any more
    shown.do("fourreal.snap(0)")
    assert np.abs(shown.image() - before).max() <= 2 / 255


def test_the_wheel_zooms_and_a_right_drag_pans(shown):
    page = shown.page
    shown.do("fourreal.snap(0)")
    eye, target = shown.place()
    page.mouse.move(128, 128)
    page.mouse.wheel(0, -300)
    shown.wait_until_drawn()
    nearer, kept = shown.place()
    assert np.linalg.norm(nearer - kept) < 0.95 * np.linalg.norm(eye - target)
    shown.do("fourreal.snap(0)")
    page.mouse.down(button="right")
    page.mouse.move(188, 128, steps=3)
    page.mouse.up(button="right")
    shown.wait_until_drawn()
    moved, panned = shown.place()
    np.testing.assert_allclose(moved - eye, panned - target, atol=1e-5)
    assert np.linalg.norm(moved - eye) > 0.1


def test_a_held_key_flies_and_a_number_returns(shown):
    page = shown.page
    shown.do("fourreal.snap(1)")
    page.keyboard.press("1")
    assert shown.views() == ["1"]
    eye, _ = shown.place()
    page.keyboard.down("w")
    page.wait_for_function(f"fourreal.camera.state.position[2] < {eye[2] - 0.1}")
    page.keyboard.up("w")
    assert shown.views() == []
    page.keyboard.press("1")
    shown.wait_until_drawn()
    np.testing.assert_allclose(shown.place()[0], eye)


def test_one_finger_orbits_and_two_fingers_zoom(shown):
    shown.do("fourreal.snap(0)")
    eye, target = shown.place()
    hand = shown.page.context.new_cdp_session(shown.page)
    hand.send("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 2})

    def touch(kind, *points):
        points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", (100, 128))
    touch("touchMove", (130, 128))
    touch("touchMove", (170, 128))
    touch("touchEnd")
    shown.wait_until_drawn()
    turned, kept = shown.place()
    assert np.linalg.norm(turned - eye) > 0.3
    assert np.linalg.norm(turned - kept) == pytest.approx(np.linalg.norm(eye - target), rel=1e-3)
    shown.do("fourreal.snap(0)")
    touch("touchStart", (110, 128), (150, 128))
    touch("touchMove", (90, 128), (170, 128))
    touch("touchMove", (70, 128), (190, 128))
    touch("touchEnd")
    shown.wait_until_drawn()
    nearer, kept = shown.place()
    assert np.linalg.norm(nearer - kept) < 0.8 * np.linalg.norm(eye - target)
    hand.send("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_play_advances_time_loops_steps_and_ends(shown):
    page = shown.page
    shown.do("fourreal.setTime(6)")
    page.keyboard.press("Space")
    page.wait_for_function("fourreal.state.shown < 6")
    page.keyboard.press("Space")
    assert not page.evaluate("fourreal.state.playing")
    shown.do("fourreal.setTime(0)")
    for key, time in ((",", TIMES - 1), (",", TIMES - 2), (".", TIMES - 1), (".", 0)):
        page.keyboard.press(key)
        assert page.evaluate("fourreal.state.time") == time
    shown.do("document.getElementById('loop').checked = false; fourreal.setTime(6)")
    page.keyboard.press("Space")
    page.wait_for_function("!fourreal.state.playing")
    assert page.evaluate("fourreal.state.time") == TIMES - 1
    shown.do("document.getElementById('loop').checked = true")


def test_time_stands_still_while_the_camera_moves_if_asked(shown):
    page, mouse = shown.page, shown.page.mouse
    shown.do(
        "fourreal.snap(0); fourreal.setTime(0); document.getElementById('hold').checked = true"
    )
    mouse.move(128, 128)
    mouse.down()
    mouse.move(140, 128)
    page.keyboard.press("Space")
    for step in range(4):
        drawn = page.evaluate("fourreal.state.drawn")
        mouse.move(150 + 10 * step, 128)
        page.wait_for_function(f"fourreal.state.drawn > {drawn}")
        # The clock collects what it has of the next time in `elapsed`: it has nothing.
        playing, time, elapsed = page.evaluate(
            "[fourreal.state.playing, fourreal.state.time, fourreal.state.elapsed]"
        )
        assert playing and time == 0 and elapsed == 0
    mouse.up()
    page.wait_for_function("fourreal.state.time > 0")
    page.keyboard.press("Space")
    shown.do("document.getElementById('hold').checked = false")


def test_screenshot_and_recording_are_files_of_the_canvas(shown, tmp_path):
    page = shown.page
    shown.do("fourreal.snap(0); fourreal.setTime(0)")
    with page.expect_download() as download:
        page.keyboard.press("p")
    assert download.value.suggested_filename == "4real_0001.png"
    download.value.save_as(tmp_path / "shot.png")
    assert np.array_equal(pixels((tmp_path / "shot.png").read_bytes()), shown.image())
    page.locator("#settings").click()
    page.locator("#record").click()
    page.evaluate("() => fourreal.play(true)")
    for shown_time in (4, 0, 4, 0, 4):  # encoding begins late on a busy machine
        page.wait_for_function(f"fourreal.state.shown >> 2 << 2 === {shown_time}")
    with page.expect_download() as download:
        page.locator("#stop").click()
    page.evaluate("() => fourreal.play(false)")
    download.value.save_as(tmp_path / "shown.webm")
    with av.open(str(tmp_path / "shown.webm")) as container:
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert images[0].shape == (SIZE, SIZE, 3)
    apart = [np.abs(image.astype(float) - images[0]).max() for image in images]
    assert max(apart) > 50  # the ball went on


def test_background_splat_size_and_view_angle_are_settings(shown):
    shown.do("fourreal.snap(0); fourreal.setTime(0)")
    before = shown.image()
    shown.set("scale", "0.1")
    shown.set("background", "#00ff00")
    sparse = shown.image()
    assert (sparse == [0, 1, 0]).all(-1).mean() > 0.3
    shown.set("background", "#000000")
    shown.set("scale", "1")
    shown.set("fov", "90")
    wide = shown.image()
    assert psnr(wide, before) < 30
    assert shown.views() == []  # not an input camera's any more
    shown.do("fourreal.snap(0)")
    assert np.abs(shown.image() - before).max() <= 2 / 255
