"""The page as a file, in a frame of another page, and its layout."""

import shutil
import subprocess
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from fourreal import viewer
from fourreal.viewer.export import page

from .letters import FOCAL, SIZE
from .shown_page import running

SOURCE = Path(viewer.__file__).parent / "src"


def test_the_committed_page_is_what_its_source_builds(tmp_path):
    node = shutil.which("node")
    if not node:
        pytest.skip("node is not installed (see CONTRIBUTING.md)")
    if not (SOURCE / "node_modules").is_dir():
        pytest.skip("the page's libraries are absent: npm ci --prefix fourreal/viewer/src")
    subprocess.run([node, "build.js", str(tmp_path / "page.html")], cwd=SOURCE, check=True)
    same = (tmp_path / "page.html").read_text(encoding="utf-8") == page()
    assert same, "build it anew: npm ci && npm run build, in fourreal/viewer/src"


def test_first_time_stands_before_the_program_and_the_others_after_it(exported):
    text = exported.read_text(encoding="utf-8")
    program = text.index("<script>(")
    places = [text.index(f'id="part:{name}"') for name in ("scene.json", "static.bin", "0.bin")]
    assert max(places) < program < text.index('id="part:1.bin"')


def test_exported_page_asks_nothing_of_the_network_and_reports_no_error(shown, exported):
    shown.do("fourreal.setTime(3); fourreal.snap(2)")
    outside = [u for u in shown.requests if not u.startswith(("data:", "blob:"))]
    assert outside == [exported.as_uri()]
    assert shown.errors == []


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def outer(browser, scene, tmp_path):
    """A page with the viewer in a frame, which notes in `said` what the viewer tells it."""
    (tmp_path / "scene").mkdir()
    for name, part in viewer.scene_files(scene).items():
        (tmp_path / "scene" / name).write_bytes(part())
    (tmp_path / "viewer.html").write_text(page(), encoding="utf-8")
    (tmp_path / "outer.html").write_text(
        "<link rel=icon href='data:,'><script>window.said = [];"
        "addEventListener('message', (event) => said.push(event.data));</script>"
        "<iframe src='viewer.html?scene=scene/' style='width: 400px; height: 400px'></iframe>"
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(tmp_path)))
    with running(server) as address:
        outer = browser.new_page()
        outer.set_default_timeout(120_000)
        outer.goto(address + "outer.html")
        outer.wait_for_function("said.length > 0")
        yield outer
        outer.close()


def say(outer, **changes):
    """Tell the viewer to change, and give the last that it says about its state."""
    before = outer.evaluate("said.length")
    outer.evaluate(
        "(changes) => frames[0].postMessage({ type: 'fourreal:set', ...changes }, '*')", changes
    )
    outer.wait_for_function("(before) => said.length >= before", arg=before + len(changes))
    return outer.evaluate("said.at(-1)")


def test_page_in_a_frame_shows_the_scene_of_a_folder_and_obeys_messages(outer, scene):
    assert outer.evaluate("said.map((message) => message.type)") == ["fourreal:ready"]
    state = say(outer, time=3, view=1)
    assert (state["type"], state["time"], state["view"]) == ("fourreal:state", 3, 1)
    inner = outer.frames[1]
    inner.wait_for_function("fourreal.idle() && fourreal.state.shown === 3")
    assert inner.locator("#views .on").all_inner_texts() == ["2"]
    extrinsics = scene.extrinsics[1].numpy()
    center = -extrinsics[:, :3].T @ extrinsics[:, 3]
    flip = np.array([1, -1, -1])  # from OpenCV's axes to those of three.js
    np.testing.assert_allclose(state["camera"]["position"], flip * center, atol=1e-4)
    fov = np.degrees(2 * np.arctan(SIZE / (2 * FOCAL)))
    assert state["camera"]["fov"] == pytest.approx(fov, abs=1e-3)


def test_a_camera_set_by_a_message_is_the_one_that_the_page_tells_of(outer):
    camera = say(outer, view=1)["camera"]
    camera["position"][0] += 0.5
    state = say(outer, camera=camera)
    assert state["view"] == -1
    assert state["camera"] == camera  # to the last digit: a workflow that has it is unchanged


def test_keyframes_come_with_the_state_and_are_set_by_a_message(outer):
    camera = say(outer, view=1)["camera"]
    assert outer.evaluate("said.at(-1).path") == []
    other = {**camera, "fov": 30.0}
    state = say(outer, path=[{"time": 4.5, "camera": other}, {"time": 1, "camera": camera}])
    assert [keyframe["time"] for keyframe in state["path"]] == [1, 4.5]
    assert [keyframe["camera"] for keyframe in state["path"]] == [camera, other]
    inner = outer.frames[1]
    assert inner.locator("#marks button").count() == 2
    inner.evaluate("fourreal.setTime(2)")
    inner.locator("#key").click()
    outer.wait_for_function("said.at(-1).path.length === 3")
    assert outer.evaluate("said.at(-1).path.map((keyframe) => keyframe.time)") == [1, 2, 4.5]
    assert say(outer, path=[])["path"] == []


def test_control_and_enter_reach_the_page_around(outer):
    outer.evaluate(
        "() => { window.keys = [];"
        "addEventListener('keydown', (event) => keys.push([event.key, event.ctrlKey])); }"
    )
    outer.frames[1].locator("#canvas").click()
    outer.keyboard.press("Control+Enter")
    outer.keyboard.press("k")
    outer.keyboard.press("Delete")
    assert outer.evaluate("keys") == [["Enter", True]]
