"""The viewer page in a browser, and what a test does with it."""

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from .. import screenshots
from ..tiny import pixels
from .letters import SIZE


class ShownPage:
    """The page in a browser whose canvas is SIZE x SIZE, or whose window is width x height."""

    def __init__(self, browser, address: str, window: tuple[int, int] | None = None):
        self.requests, self.errors = [], []
        self.page = browser.new_page()
        self.page.set_default_timeout(120_000)  # SwiftShader on a busy machine
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console",
            lambda m: self.errors.append(m.text) if m.type == "error" else None,
        )
        width, height = window or (SIZE, 2 * SIZE)
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.goto(address)
        self.page.wait_for_function("window.fourreal?.state.drawn > 0")
        self.canvas_only = None
        if not window:
            bar = self.page.locator("#bar").bounding_box()["height"]
            self.canvas_only = {"width": SIZE, "height": int(SIZE + bar)}
            self.page.set_viewport_size(self.canvas_only)
            self.page.wait_for_function(f"fourreal.camera.height === {SIZE}")
        self.wait_until_drawn()

    def do(self, script: str) -> None:
        """Run a script, and wait until its effect is drawn."""
        self.page.evaluate(f"() => {{ {script}; fourreal.state.dirty = true; }}")
        self.wait_until_drawn()

    def set(self, control: str, value: str) -> None:
        """Put a control to a value as a hand does, and wait until it is drawn."""
        self.do(
            f"const c = document.getElementById('{control}'); c.value = {value!r};"
            "c.dispatchEvent(new Event('input'))"
        )

    def wait_until_drawn(self, condition: str = "true") -> None:
        self.page.wait_for_function(f"fourreal.idle() && {condition}")

    @contextmanager
    def another_input_frame(self) -> Iterator[None]:
        """What is done inside brings another input frame; wait until it is ready to be painted."""
        before = self.page.evaluate("document.getElementById('frame').src")
        yield
        self.page.wait_for_function(
            "(before) => document.getElementById('frame').src !== before", arg=before
        )
        self.page.evaluate("document.getElementById('frame').decode()")

    def drag(self, *places: tuple[float, float], button: str = "left") -> None:
        """Press at the first place, go through the others, let go, and wait until it is drawn."""
        mouse = self.page.mouse
        mouse.move(*places[0])
        mouse.down(button=button)
        for place in places[1:]:
            mouse.move(*place, steps=3)
        mouse.up(button=button)
        self.wait_until_drawn()

    def image(self) -> np.ndarray:
        """The canvas, [H, W, 3] in [0, 1]."""
        url = self.page.evaluate("document.getElementById('canvas').toDataURL()")
        return pixels(base64.b64decode(url.split(",")[1]))

    def place(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the camera is, and what it turns about."""
        state = self.page.evaluate("fourreal.camera.state")
        return np.array(state["position"]), np.array(state["target"])

    def views(self) -> list[str]:
        """The input cameras that the page says it looks through: one or none."""
        return self.page.locator("#views .on").all_inner_texts()

    def keep(self, name: str) -> None:
        """Leave a screenshot of the whole page for people to look at, if they ask for it."""
        screenshots.keep(self.page, f"viewer_{name}")


@contextmanager
def running(server) -> Iterator[str]:
    """The address of a server, while it runs in a thread."""
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
