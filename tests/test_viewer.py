"""The viewer page in real headless Chromium: against the torch renderer, and under the hand."""

import base64
import io
import os
import shutil
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fourreal import viewer
from fourreal.cameras import look_at
from fourreal.gaussians import Gaussians, GaussianScene, rgb_to_harmonics
from fourreal.rendering import render
from fourreal.viewer.serve import make_server

SIZE = 256
TIMES = 8
ARTEFACTS = Path(__file__).resolve().parents[1] / "out" / "viewer"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
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


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a - b) ** 2)))


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip("no Chromium is here (apt-get install chromium, or set CHROMIUM to its path)")
    with sync_api.sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield instance
        instance.close()


class Viewer:
    """The page in a browser whose canvas is SIZE x SIZE."""

    def __init__(self, browser, address: str):
        self.requests, self.errors = [], []
        self.page = browser.new_page(viewport={"width": SIZE, "height": SIZE + 39})
        self.page.set_default_timeout(15_000)
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

    def image(self) -> np.ndarray:
        """The canvas, [H, W, 3] in [0, 1]."""
        url = self.page.evaluate("document.getElementById('canvas').toDataURL()")
        image = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB")
        return np.asarray(image, dtype=np.float32) / 255

    def keep(self, name: str):
        """Leave a screenshot of the whole page for people to look at."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(ARTEFACTS / f"{name}.png"))


@pytest.fixture(scope="module")
def exported(scene, rendered, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("viewer") / "scene.html"
    frames = torch.stack(
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


def test_arrow_points_up_and_letter_reads_as_in_the_torch_renderer(shown, rendered):
    shown.do("fourreal.snap(0); fourreal.setTime(2)")
    image, wanted = shown.image(), rendered(0, 2)
    shown.keep("arrow_and_letter")
    green = (image[..., 1] > 0.6) & (image[..., 0] < 0.4)
    red = (image[..., 0] > 0.6) & (image[..., 1] < 0.4)
    columns = np.arange(SIZE)
    # The arrow is left of the letter, and wider in its upper half than in its lower one.
    assert np.average(columns, weights=green.sum(0)) < np.average(columns, weights=red.sum(0))
    rows = np.flatnonzero(green.any(1))
    widths = [np.ptp(np.flatnonzero(green[row])) for row in rows]
    half = len(rows) // 2
    assert max(widths[:half]) > 2 * max(widths[half + 6 :])
    assert psnr(image, wanted) > 38.0 > psnr(image[:, ::-1], wanted)
    assert psnr(image[::-1], wanted) < 38.0


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


def test_play_advances_time_and_loops(shown):
    shown.do("fourreal.setTime(6)")
    shown.page.keyboard.press("Space")
    shown.page.wait_for_function("fourreal.state.shown < 6")
    shown.page.keyboard.press("Space")
    assert not shown.page.evaluate("fourreal.state.playing")


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
    boxes = [
        shown.page.locator(f"#bar > :nth-child({i})").bounding_box()
        for i in range(1, 1 + shown.page.locator("#bar > *").count())
    ]
    assert all(a["x"] + a["width"] <= b["x"] for a, b in pairwise(boxes))
    assert boxes[-1]["x"] + boxes[-1]["width"] <= 400
    frame = shown.page.locator("#frame").bounding_box()
    assert frame["width"] == pytest.approx(frame["height"])  # that of the scene's square image
    shown.page.locator("#settings").click()
    shown.do("fourreal.snap(0)")
    shown.keep("plain_400")
    shown.page.set_viewport_size({"width": SIZE, "height": SIZE + 39})


def test_exported_page_asks_nothing_of_the_network_and_reports_no_error(shown, exported):
    outside = [u for u in shown.requests if not u.startswith(("data:", "blob:"))]
    assert outside == [exported.as_uri()]
    # A lost context is reported by the browser itself; nothing else may be.
    assert [e for e in shown.errors if "context" not in e.lower()] == []


def test_served_page_shows_the_same_as_the_renderer(browser, scene, rendered):
    with make_server(scene) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            served = Viewer(browser, f"http://127.0.0.1:{server.server_port}/")
            served.do("fourreal.snap(1); fourreal.setTime(4)")
            assert psnr(served.image(), rendered(1, 4)) >= 38.0
            assert served.errors == []
        finally:
            server.shutdown()


def test_frames_of_the_wrong_grid_are_refused(scene, tmp_path):
    with pytest.raises(ValueError, match=r"needs \[3, 8, 3, H, W\]"):
        viewer.export_html(scene, tmp_path / "x.html", torch.zeros(2, 8, 3, 4, 4))
    assert not list(tmp_path.iterdir())
