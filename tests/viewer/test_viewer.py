"""The viewer page in real headless Chromium: against the torch renderer, and under the hand."""

import base64
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from fourreal import viewer
from fourreal.cameras import look_at
from fourreal.cli import main
from fourreal.files.media import write_video
from fourreal.formats import save_scene
from fourreal.gaussians import Gaussians, GaussianScene, rgb_to_harmonics
from fourreal.grid import tile_views
from fourreal.rendering import render
from fourreal.viewer.export import page
from fourreal.viewer.serve import make_server

from ..tiny import pixels, psnr

SIZE = 256
TIMES = 8

ARTEFACTS = Path(__file__).resolve().parents[2] / "out" / "viewer"
LETTER = ("11110", "10001", "11110", "10100", "10010", "10001")  # R: no symmetry hides a mirror
ARROW = ("00100", "01110", "10101", "00100", "00100", "00100")  # points up


def blobs(means, rgb, scale, opacity=0.95) -> Gaussians:
    """Gaussians at means [N, 3] of one colour, elongated and turned so that rotation matters."""
    count = len(means)
    quaternions = torch.tensor([0.9, 0.1, -0.2, 0.35]).repeat(count, 1)
    return Gaussians(
        torch.as_tensor(means, dtype=torch.float32),
        quaternions,
        torch.tensor([1.0, 0.6, 0.8]).repeat(count, 1) * scale,
        torch.full((count,), opacity),
        rgb_to_harmonics(torch.tensor(rgb).repeat(count, 1)),
    )


def drawn(glyph, left, top, step=0.22):
    """Means of a glyph's dots, upright for a camera that looks along z (y points down)."""
    return [
        [left + step * x, top + step * y, 4.0]
        for y, row in enumerate(glyph)
        for x, dot in enumerate(row)
        if dot == "1"
    ]


@pytest.fixture(scope="module")
def scene() -> GaussianScene:
    """A backdrop, a green arrow and a red R that stand, and a ball of blobs that goes round."""
    grid = torch.cartesian_prod(torch.linspace(-3, 3, 24), torch.linspace(-3, 3, 24))
    wall = blobs(torch.cat([grid, torch.full((len(grid), 1), 6.0)], 1), [0.25, 0.3, 0.5], 0.2, 0.8)
    arrow = blobs(drawn(ARROW, -1.3, -0.5), [0.1, 0.9, 0.2], 0.1)
    letter = blobs(drawn(LETTER, 0.3, -0.5), [0.9, 0.15, 0.1], 0.1)
    noise = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)) * 0.12
    dynamic = []
    for time in range(TIMES):
        angle = torch.tensor(2 * torch.pi * time / TIMES)
        center = torch.stack([1.2 * angle.cos(), 1.2 * angle.sin(), torch.tensor(3.4)])
        dynamic.append(blobs((center + noise)[: 60 - 3 * time], [1.0, 0.8, 0.1], 0.1, 0.7))
    eyes = torch.tensor([[0.0, 0.0, 0.0], [1.2, -0.4, 0.2], [-1.0, 0.5, 0.0]])
    extrinsics = look_at(eyes, torch.tensor([0.0, 0.0, 4.0]), torch.tensor([0.0, -1.0, 0.0]))
    focal = 1.1 * SIZE
    intrinsics = torch.tensor([[focal, 0, 0.53 * SIZE], [0, focal, 0.48 * SIZE], [0, 0, 1.0]])
    static = Gaussians.concatenate([wall, arrow, letter])
    return GaussianScene(
        static, dynamic, extrinsics, intrinsics.repeat(len(eyes), 1, 1), SIZE, SIZE, fps=8.0
    )


@pytest.fixture(scope="module")
def rendered(scene):
    """images(view, time): what the torch renderer draws, [H, W, 3] in [0, 1]."""

    def images(view: int, time: int) -> np.ndarray:
        cameras = scene.extrinsics[view : view + 1], scene.intrinsics[view : view + 1]
        color = render(scene.at(time), *cameras, SIZE, SIZE, backend="torch").color[0]
        return color.clamp(0, 1).numpy()

    return images


class Viewer:
    """The page in a browser whose canvas is SIZE x SIZE."""

    def __init__(self, browser, address: str):
        self.requests, self.errors = [], []
        self.page = browser.new_page(viewport={"width": SIZE, "height": SIZE + 39})
        self.page.set_default_timeout(120_000)  # SwiftShader on a busy machine
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console",
            lambda m: self.errors.append(m.text) if m.type == "error" else None,
        )
        self.page.goto(address)
        self.page.wait_for_function("window.fourreal?.state.drawn > 0")

    def do(self, script: str):
        """Run a script, and wait until its effect is drawn."""
        self.page.evaluate(f"() => {{ {script}; fourreal.state.dirty = true; }}")
        self.page.wait_for_function("fourreal.idle()")

    def set(self, control: str, value):
        """Put a control to a value as a hand does, and wait until it is drawn."""
        self.do(
            f"const c = document.getElementById('{control}'); c.value = {value!r};"
            "c.dispatchEvent(new Event('input'))"
        )

    def image(self) -> np.ndarray:
        """The canvas, [H, W, 3] in [0, 1]."""
        url = self.page.evaluate("document.getElementById('canvas').toDataURL()")
        return pixels(base64.b64decode(url.split(",")[1]))

    def place(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the camera is, and what it turns about."""
        state = self.page.evaluate("fourreal.camera.state")
        return np.array(state["position"]), np.array(state["target"])

    def keep(self, name: str):
        """Leave a screenshot of the whole page for people to look at."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(ARTEFACTS / f"{name}.png"))


@pytest.fixture(scope="module")
def exported(scene, rendered, tmp_path_factory) -> Path:
    """The page with the scene, and negatives of its images as the input frames."""
    path = tmp_path_factory.mktemp("viewer") / "scene.html"
    frames = 1 - torch.stack(
        [
            torch.stack([torch.from_numpy(rendered(v, t)).movedim(-1, 0) for t in range(TIMES)])
            for v in range(scene.num_views)
        ]
    )
    viewer.export_html(scene, path, frames)
    return path


@pytest.fixture(scope="module")
def shown(browser, exported) -> Viewer:
    return Viewer(browser, exported.as_uri())


def page_views(shown) -> list[str]:
    """The input cameras that the page says it looks through."""
    return shown.page.locator("#views .on").all_inner_texts()


def test_canvas_agrees_with_the_torch_renderer_at_every_input_camera(shown, rendered):
    for view in range(3):
        shown.do(f"fourreal.snap({view}); fourreal.setTime(0)")
        image = shown.image()
        assert image.shape == (SIZE, SIZE, 3)
        assert psnr(image, rendered(view, 0)) >= 38.0
    shown.keep("view_3")


def test_scrubbing_shows_eight_different_and_correct_images(shown, rendered):
    shown.do("fourreal.snap(0)")
    images = []
    for time in range(TIMES):
        shown.page.evaluate(
            f"() => {{ const s = document.getElementById('time'); s.value = {time};"
            "s.dispatchEvent(new Event('input')); }"
        )
        shown.page.wait_for_function(f"fourreal.idle() && fourreal.state.shown === {time}")
        images.append(shown.image())
        scores = [psnr(images[-1], rendered(0, other)) for other in range(TIMES)]
        assert np.argmax(scores) == time
        assert scores[time] >= 38.0
    for a, b in pairwise(images):
        assert np.abs(a - b).max() > 0.2


def test_arrow_and_letter_stand_upright_and_unmirrored_in_viewer_and_renderer(shown, rendered):
    """Each dot of the glyphs is where u = f x / z + c, v = f y / z + c of the first camera is."""
    shown.do("fourreal.snap(0); fourreal.setTime(2)")
    shown.keep("arrow_and_letter")
    for image in (shown.image(), rendered(0, 2)):
        green = (image[..., 1] > 0.6) & (image[..., 0] < 0.4)
        red = (image[..., 0] > 0.6) & (image[..., 1] < 0.4)
        for glyph, left, seen in ((ARROW, -1.3, green), (LETTER, 0.3, red)):
            for y, row in enumerate(glyph):
                for x, dot in enumerate(row):
                    u = 1.1 * SIZE * (left + 0.22 * x) / 4 + 0.53 * SIZE
                    v = 1.1 * SIZE * (-0.5 + 0.22 * y) / 4 + 0.48 * SIZE
                    assert seen[int(v), int(u)] == (dot == "1"), (glyph, x, y)


def test_drag_orbits_and_snap_returns(shown):
    shown.do("fourreal.snap(0); fourreal.setTime(0)")
    before = shown.image()
    mouse = shown.page.mouse
    mouse.move(128, 128)
    mouse.down()
    mouse.move(188, 148, steps=3)
    mouse.up()
    shown.page.wait_for_function("fourreal.idle()")
    shown.do("")
    turned = shown.image()
    shown.keep("orbit")
    assert psnr(before, turned) < 30.0
    shown.do("fourreal.snap(0)")
    assert np.abs(shown.image() - before).max() <= 2 / 255


def test_the_hand_pans_zooms_and_flies(shown):
    page = shown.page
    shown.do("fourreal.snap(0)")
    eye, target = shown.place()
    page.mouse.move(128, 128)
    page.mouse.wheel(0, -300)
    page.wait_for_function("fourreal.idle()")
    nearer, kept = shown.place()
    assert np.linalg.norm(nearer - kept) < 0.95 * np.linalg.norm(eye - target)
    shown.do("fourreal.snap(0)")
    page.mouse.down(button="right")
    page.mouse.move(188, 128, steps=3)
    page.mouse.up(button="right")
    page.wait_for_function("fourreal.idle()")
    moved, panned = shown.place()
    np.testing.assert_allclose(moved - eye, panned - target, atol=1e-5)
    assert np.linalg.norm(moved - eye) > 0.1
    shown.do("fourreal.snap(0)")
    page.keyboard.down("w")
    page.wait_for_function(f"fourreal.camera.state.position[2] < {eye[2] - 0.1}")
    page.keyboard.up("w")
    assert page_views(shown) == []  # not an input camera's any more
    shown.do("fourreal.snap(0)")


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
    shown.page.wait_for_function("fourreal.idle()")
    turned, kept = shown.place()
    assert np.linalg.norm(turned - eye) > 0.3
    assert np.linalg.norm(turned - kept) == pytest.approx(np.linalg.norm(eye - target), rel=1e-3)
    shown.do("fourreal.snap(0)")
    touch("touchStart", (110, 128), (150, 128))
    touch("touchMove", (90, 128), (170, 128))
    touch("touchMove", (70, 128), (190, 128))
    touch("touchEnd")
    shown.page.wait_for_function("fourreal.idle()")
    nearer, kept = shown.place()
    assert np.linalg.norm(nearer - kept) < 0.8 * np.linalg.norm(eye - target)
    hand.send("Emulation.setTouchEmulationEnabled", {"enabled": False})
    shown.do("fourreal.snap(0)")


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
    drawn = page.evaluate("fourreal.state.drawn")
    for step in range(4):
        mouse.move(150 + 10 * step, 128)
        page.wait_for_timeout(300)  # more than two times of this scene
    assert page.evaluate("fourreal.state.drawn") > drawn
    assert page.evaluate("fourreal.state.time") == 0
    mouse.up()
    page.wait_for_function("fourreal.state.time > 0")
    page.keyboard.press("Space")
    shown.do("document.getElementById('hold').checked = false; fourreal.snap(0)")


def test_screenshot_and_recording_are_files_of_the_canvas(shown, tmp_path):
    page = shown.page
    shown.do("fourreal.snap(0); fourreal.setTime(0)")
    with page.expect_download() as download:
        page.keyboard.press("p")
    download.value.save_as(tmp_path / "shot.png")
    assert np.array_equal(pixels((tmp_path / "shot.png").read_bytes()), shown.image())
    page.locator("#settings").click()
    page.locator("#record").click()
    page.evaluate("() => fourreal.play(true)")
    for shown_time in (4, 0, 4, 0, 4):  # encoding begins late on a busy machine
        page.wait_for_function(f"fourreal.state.shown >> 2 << 2 === {shown_time}")
    with page.expect_download() as download:
        page.locator("#record").click()
    page.evaluate("() => fourreal.play(false)")
    page.locator("#settings").click()
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
    assert page_views(shown) == []  # not an input camera's any more
    shown.do("fourreal.snap(0)")
    assert np.abs(shown.image() - before).max() <= 2 / 255


def test_highlight_dims_only_what_stands_still(shown):
    shown.do("fourreal.snap(0); fourreal.setTime(0); fourreal.stage.setHighlight(true)")
    dimmed = shown.image()
    shown.do("fourreal.stage.setHighlight(false)")
    bright = shown.image()
    yellow = (bright[..., 0] > 0.9) & (bright[..., 1] > 0.7)
    assert yellow.sum() > 100
    assert np.abs(dimmed - bright)[yellow].mean() < 0.05
    assert dimmed[~yellow].mean() < 0.5 * bright[~yellow].mean()


def test_scene_is_there_again_after_a_lost_context(shown, rendered):
    shown.do("fourreal.snap(0); fourreal.setTime(3)")
    shown.page.evaluate(
        "() => { window.loss = fourreal.stage.renderer.getContext()"
        ".getExtension('WEBGL_lose_context'); loss.loseContext(); }"
    )
    shown.page.wait_for_function("fourreal.state.lost")
    shown.page.evaluate("loss.restoreContext()")
    shown.page.wait_for_function("!fourreal.state.lost && fourreal.idle()")
    assert psnr(shown.image(), rendered(0, 3)) >= 38.0
    shown.keep("after_context_loss")


def test_the_input_frame_fades_over_the_view_of_its_camera(shown, rendered):
    shown.do("fourreal.snap(1); fourreal.setTime(5)")
    shown.set("fade", "1")
    shown.page.wait_for_function("document.getElementById('frame').naturalWidth > 0")
    shown.page.wait_for_timeout(200)
    image = pixels(shown.page.screenshot())[60 : SIZE - 10]  # below what is written on it
    assert psnr(image, 1 - rendered(1, 5)[60 : SIZE - 10]) > 30
    shown.do("fourreal.snap(2)")
    shown.page.wait_for_timeout(200)
    image = pixels(shown.page.screenshot())[60 : SIZE - 10]
    assert psnr(image, 1 - rendered(2, 5)[60 : SIZE - 10]) > 30
    shown.set("fade", "0")


def test_interface_fits_400_by_400_and_the_input_frame_covers_the_image(shown):
    shown.page.set_viewport_size({"width": 400, "height": 400})
    shown.do("fourreal.snap(0); fourreal.setTime(1)")
    shown.page.locator("#settings").click()
    shown.page.evaluate(
        "() => { const f = document.getElementById('fade'); f.value = 0.5;"
        "f.dispatchEvent(new Event('input')); }"
    )
    shown.page.wait_for_function("document.getElementById('frame').naturalWidth > 0")
    shown.keep("settings_400")
    panel, views = (shown.page.locator(name).bounding_box() for name in ("#panel", "#views"))
    assert panel["y"] >= views["y"] + views["height"]  # the cameras can be chosen meanwhile
    boxes = [
        shown.page.locator(f"#bar > :nth-child({i})").bounding_box()
        for i in range(1, 1 + shown.page.locator("#bar > *").count())
    ]
    assert all(a["x"] + a["width"] <= b["x"] for a, b in pairwise(boxes))
    assert boxes[-1]["x"] + boxes[-1]["width"] <= 400
    frame = shown.page.locator("#frame").bounding_box()
    assert frame["width"] == pytest.approx(frame["height"])  # that of the scene's square image
    shown.page.locator("#settings").click()
    shown.set("fade", "0")
    shown.do("fourreal.snap(0)")
    shown.keep("plain_400")
    shown.page.set_viewport_size({"width": 1280, "height": 800})
    shown.do("fourreal.snap(0)")
    shown.keep("plain_1280")
    shown.page.set_viewport_size({"width": SIZE, "height": SIZE + 39})


def test_exported_page_asks_nothing_of_the_network_and_reports_no_error(shown, exported):
    outside = [u for u in shown.requests if not u.startswith(("data:", "blob:"))]
    assert outside == [exported.as_uri()]
    # A lost context is reported by the browser itself; nothing else may be.
    assert [e for e in shown.errors if "context" not in e.lower()] == []


@contextmanager
def running(server):
    """The address of a server, while it runs in a thread."""
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()


def colorful(gaussians: Gaussians, degree: int) -> Gaussians:
    """The same Gaussians with colours that depend on the direction."""
    count = (degree + 1) ** 2 - 1
    noise = torch.randn(len(gaussians), count, 3, generator=torch.Generator().manual_seed(degree))
    harmonics = torch.cat([gaussians.harmonics, 0.3 * noise.clamp(-3, 3)], 1)
    return Gaussians(**{**vars(gaussians), "harmonics": harmonics})


def test_served_page_shows_harmonics_as_the_renderer_does(browser, scene):
    """The moving Gaussians have degree 3, the others degree 1, in one page."""
    bright = GaussianScene(
        colorful(scene.static, 1),
        [colorful(g, 3) for g in scene.dynamic],
        scene.extrinsics,
        scene.intrinsics,
        SIZE,
        SIZE,
        scene.fps,
    )
    with running(make_server(bright)) as address:
        served = Viewer(browser, address)
        for view, time in ((1, 4), (2, 7)):
            cameras = scene.extrinsics[view : view + 1], scene.intrinsics[view : view + 1]
            wanted, plain = (
                render(s.at(time), *cameras, SIZE, SIZE, backend="torch").color[0].clamp(0, 1)
                for s in (bright, scene)
            )
            served.do(f"fourreal.snap({view}); fourreal.setTime({time})")
            assert (
                psnr(served.image(), wanted.numpy()) >= 38.0 > psnr(plain.numpy(), wanted.numpy())
            )
        served.keep("harmonics")
        assert served.errors == []
        served.page.close()


def test_page_in_a_frame_shows_the_scene_of_a_folder_and_obeys_messages(browser, scene, tmp_path):
    (tmp_path / "scene").mkdir()
    for name, part in viewer.scene_files(scene).items():
        (tmp_path / "scene" / name).write_bytes(part())
    (tmp_path / "viewer.html").write_text(page(), encoding="utf-8")
    (tmp_path / "outer.html").write_text(
        "<link rel=icon href='data:,'><script>window.said = [];"
        "addEventListener('message', (event) => said.push(event.data));</script>"
        "<iframe src='viewer.html?scene=scene/' style='width: 400px; height: 400px'></iframe>"
    )

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    with running(server) as address:
        outer = browser.new_page()
        outer.set_default_timeout(120_000)
        outer.goto(address + "outer.html")
        outer.wait_for_function("said.length > 0")
        outer.evaluate(
            "() => frames[0].postMessage({ type: 'fourreal:set', time: 3, view: 1 }, '*')"
        )
        outer.wait_for_function("said.at(-1).type === 'fourreal:state' && said.at(-1).time === 3")
        inner = outer.frames[1]
        inner.wait_for_function("fourreal.idle() && fourreal.state.shown === 3")
        assert inner.locator("#views .on").all_inner_texts() == ["2"]
        camera = outer.evaluate("said.at(-1).camera")
        flip = np.array([1, -1, -1])
        extrinsics = scene.extrinsics[1].numpy()
        center = -extrinsics[:, :3].T @ extrinsics[:, 3]
        np.testing.assert_allclose(camera["position"], flip * center, atol=1e-4)
        assert camera["fov"] == pytest.approx(np.degrees(2 * np.arctan(0.5 / 1.1)), abs=1e-3)
        outer.close()


def test_first_time_stands_before_the_program_and_the_others_after_it(exported):
    text = exported.read_text(encoding="utf-8")
    program = text.index("<script>(")
    places = [text.index(f'id="part:{name}"') for name in ("scene.json", "static.bin", "0.bin")]
    assert max(places) < program < text.index('id="part:1.bin"')


# --- input frames -----------------------------------------------------------------------------


@pytest.fixture
def frames() -> torch.Tensor:
    """Three views of eight times, each a colour of its own with a gradient in it."""
    r = torch.Generator().manual_seed(1)
    colors = torch.rand(3, TIMES, 3, 1, 1, generator=r) * 0.6 + 0.1
    return colors + torch.linspace(0, 0.3, 32)[None, None, None, :, None] * torch.ones(24)


def test_input_frames_are_read_from_a_grid_video_or_a_folder_of_videos(tmp_path, frames):
    write_video(tmp_path / "grid.mp4", tile_views(frames), 8)
    for view in range(3):
        write_video(tmp_path / "views" / f"view_{9 + view}.mp4", frames[view][..., :20], 8)
    tiles = viewer.read_frames(tmp_path / "grid.mp4", 3, TIMES)
    assert tiles.shape == frames.shape
    assert (tiles - frames).abs().mean() < 0.02
    views = viewer.read_frames(tmp_path / "views", 3, TIMES)  # view_10 comes after view_9
    assert (views - frames[..., :20]).abs().mean() < 0.02
    with pytest.raises(ValueError, match=r"3 videos.* 4 input views"):
        viewer.read_frames(tmp_path / "views", 4, TIMES)
    with pytest.raises(ValueError, match=r"8 frames.* 9 times"):
        viewer.read_frames(tmp_path / "grid.mp4", 3, 9)


def test_the_command_takes_the_grid_video_beside_the_scene(tmp_path, scene, frames):
    save_scene(scene, tmp_path / "scene.safetensors")
    command = ["view", str(tmp_path / "scene.safetensors"), "--html"]
    assert main([*command, str(tmp_path / "without.html")]) == 0
    write_video(tmp_path / "grid.mp4", tile_views(frames), 8)
    assert main([*command, str(tmp_path / "with.html")]) == 0
    first = f'id="part:{scene.num_views - 1}_{TIMES - 1}.jpg"'
    assert first not in (tmp_path / "without.html").read_text(encoding="utf-8")
    assert first in (tmp_path / "with.html").read_text(encoding="utf-8")


def test_frames_of_the_wrong_grid_are_refused(scene, tmp_path):
    with pytest.raises(ValueError, match=r"needs \[3, 8, 3, H, W\]"):
        viewer.export_html(scene, tmp_path / "x.html", torch.zeros(2, 8, 3, 4, 4))
    assert not list(tmp_path.iterdir())
