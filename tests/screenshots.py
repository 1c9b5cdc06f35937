"""Pictures of pages for people to look at: of the browser tests, and the one on top of the README.

The tests keep theirs only where somebody asks (FOURREAL_SCREENSHOTS). The README's is recorded by
`python tests/screenshots.py SCENE.html OUT.webp`: the viewer in Chromium, while time plays to and
fro and the camera goes once along the input views and back.
"""

import os
import sys
from pathlib import Path

WIDTH, HEIGHT = 480, 545  # for square frames
FPS, FRAMES = 8, 56
EMBEDDED = (
    '<style>body{{margin:0}}iframe{{border:0;width:100vw;height:100vh}}</style><iframe src="{}">'
)
SET = "message => frames[0].postMessage({type: 'fourreal:set', ...message}, '*')"


def keep(page, name: str) -> None:
    """Save the page as NAME.png in the folder that FOURREAL_SCREENSHOTS names, if it is set."""
    folder = os.environ.get("FOURREAL_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def between(cameras: list[dict], place: float) -> dict:
    """The camera at a place in 0..1 along others, that looks at the middle of what they look at."""
    from numpy import array, mean

    number = min(int(place * (len(cameras) - 1)), len(cameras) - 2)
    share = place * (len(cameras) - 1) - number
    before, after = (array(camera["position"]) for camera in cameras[number : number + 2])
    target = mean([camera["target"] for camera in cameras], axis=0)
    position = before + share * (after - before)
    return {"position": position.tolist(), "target": target.tolist(), "fov": cameras[0]["fov"]}


def record(browser, scene: Path, out: Path) -> None:
    """Record a page with a scene as a moving WebP that goes round without a jump."""
    from io import BytesIO
    from math import cos, pi
    from tempfile import TemporaryDirectory

    from PIL import Image

    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    page.set_default_timeout(300_000)
    with TemporaryDirectory() as folder:
        around = Path(folder).resolve() / "around.html"
        around.write_text(EMBEDDED.format(scene.resolve().as_uri()), encoding="utf-8")
        page.goto(around.as_uri())
    viewer = page.frames[1]
    viewer.wait_for_function("window.fourreal?.state.drawn > 0")
    viewer.add_style_tag(content="#info { visibility: hidden }")  # how fast this machine draws
    cameras, count = [], int(viewer.evaluate("document.getElementById('time').max")) + 1
    for view in range(viewer.evaluate("document.getElementById('views').children.length")):
        viewer.evaluate(f"fourreal.snap({view})")
        cameras.append(viewer.evaluate("fourreal.camera.state"))
    pictures = []
    for number in range(FRAMES):
        camera = between(cameras, (1 - cos(2 * pi * number / FRAMES)) / 2)
        time = round(min(number, FRAMES - number) * 2 * (count - 1) / FRAMES)
        page.evaluate(SET, {"camera": camera, "time": time})
        page.wait_for_timeout(50)
        viewer.wait_for_function("fourreal.idle()")
        pictures.append(Image.open(BytesIO(page.screenshot())).convert("RGB"))
    options = {"save_all": True, "append_images": pictures[1:], "duration": 1000 // FPS, "loop": 0}
    pictures[0].save(out, quality=80, method=6, **options)
    print(f"{out}: {FRAMES} frames, {out.stat().st_size / 2**20:.2f} MB")


def main() -> None:
    from playwright.sync_api import sync_playwright

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.conftest import FLAGS, chromium

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        record(browser, Path(sys.argv[1]), Path(sys.argv[2]))
        browser.close()


if __name__ == "__main__":
    main()
