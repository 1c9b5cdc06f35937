"""How long the page takes to show a large scene: `python -m tests.viewer.measure_start`.

Seconds from the request of the page, the least of some runs: until the program runs, until the
parts for the first image are there, until the GPU is asked to draw it, and until it is drawn. Where
there is no GPU, SwiftShader takes some 20 us per Gaussian for this last step. The scene comes from
the server of `fourreal view`, which makes the parts when they are asked for, and as files, as from
ComfyUI's. Several pages are measured in turn.
"""

import argparse
import tempfile
import time
from functools import partial
from http.server import ThreadingHTTPServer
from itertools import product
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright

from fourreal import viewer
from fourreal.cameras import look_at
from fourreal.gaussians import Gaussians, GaussianScene
from fourreal.viewer.serve import make_server

from ..conftest import FLAGS
from .shown_page import running
from .test_viewer_page import QuietHandler

SIZE = 512


def ball(count: int, seed: int) -> Gaussians:
    """Small Gaussians of random colours in a ball of radius 1."""
    r = torch.Generator().manual_seed(seed)
    means = torch.nn.functional.normalize(torch.randn(count, 3, generator=r), dim=1)
    return Gaussians(
        means * torch.rand(count, 1, generator=r) ** (1 / 3),
        torch.randn(count, 4, generator=r),
        torch.full((count, 3), 0.005),
        torch.full((count,), 0.9),
        torch.randn(count, 1, 3, generator=r),
    )


def large_scene(static: int, dynamic: int, times: int) -> GaussianScene:
    eyes = torch.tensor([[0.4 * view, 0.0, -4.0] for view in range(-2, 3)])
    intrinsics = torch.tensor([[1.8 * SIZE, 0, SIZE / 2], [0, 1.8 * SIZE, SIZE / 2], [0, 0, 1]])
    return GaussianScene(
        ball(static, 0),
        [ball(dynamic, 1 + t) for t in range(times)],
        look_at(eyes, torch.zeros(3), torch.tensor([0.0, -1.0, 0.0])),
        intrinsics.repeat(len(eyes), 1, 1),
        SIZE,
        SIZE,
    )


def measure(browser, address: str) -> dict[str, float]:
    page = browser.new_page(viewport={"width": SIZE, "height": SIZE})
    page.set_default_timeout(600_000)
    page.add_init_script(
        "window.finished = {}; new PerformanceObserver((list) => { for (const e of "
        "list.getEntries()) finished[e.name.split(/[/=]/).at(-1)] = e.responseEnd / 1000; })"
        ".observe({ type: 'resource' });"
    )
    start = time.monotonic()
    page.goto(address, wait_until="commit")
    page.wait_for_function("window.fourreal?.state.drawn > 0", polling=20)
    asked = time.monotonic() - start
    page.evaluate("document.getElementById('canvas').toDataURL().length")  # waits for the pixels
    first = time.monotonic() - start
    ends, requests = page.evaluate(
        "[finished, performance.getEntriesByType('resource').map((e) => e.startTime / 1000)]"
    )
    page.close()
    parts = max(ends[name] for name in ("scene.json", "static.bin", "0.bin"))
    return {"program": min(requests), "parts": parts, "asked": asked, "first image": first}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--static", type=int, default=200_000)
    parser.add_argument("--dynamic", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=29)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--pages", type=Path, nargs="*", default=[], help="others to compare with")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    scene = large_scene(options.static, options.dynamic, options.times)
    pages = {"this page": viewer.export.page().encode()}
    pages |= {str(path): path.read_bytes() for path in options.pages}
    best: dict[str, dict[str, float]] = {}
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=FLAGS)
        for name, part in viewer.scene_files(scene).items():
            (Path(folder) / name).write_bytes(part())
        handler = partial(QuietHandler, directory=folder)
        servers = {
            "served": make_server(scene),
            "files": ThreadingHTTPServer(("127.0.0.1", 0), handler),
        }
        with running(servers["served"]) as served, running(servers["files"]) as given:
            for _, (name, html) in product(range(options.runs), pages.items()):
                servers["served"].parts["index.html"] = lambda html=html: html
                (Path(folder) / "index.html").write_bytes(html)
                for way, address in (("served", served), ("files", given)):
                    seconds, before = measure(browser, address), best.get(f"{name}, {way}", {})
                    best[f"{name}, {way}"] = {
                        k: min(v, before.get(k, v)) for k, v in seconds.items()
                    }
        browser.close()
    for name, seconds in best.items():
        print(name, {key: round(value, 2) for key, value in seconds.items()})


if __name__ == "__main__":
    main()
