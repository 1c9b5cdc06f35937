"""Serve the viewer page and a scene on this machine, with Python's own HTTP server."""

import webbrowser
from collections.abc import Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from torch import Tensor

from fourreal.gaussians import GaussianScene
from fourreal.viewer.export import Part, page, scene_files

TYPES = {"html": "text/html; charset=utf-8", "json": "application/json", "jpg": "image/jpeg"}


class PartHandler(BaseHTTPRequestHandler):
    """Answers requests for the names of `parts`. It never looks at the disk."""

    def __init__(self, parts: Mapping[str, Part], *args: Any):
        self.parts = parts
        super().__init__(*args)  # which answers the request

    def do_GET(self) -> None:
        name = self.path.split("?")[0].lstrip("/") or "index.html"
        if name not in self.parts:
            self.send_error(404)
            return
        content = self.parts[name]()
        self.send_response(200)
        self.send_header("Content-Type", TYPES.get(name.split(".")[-1], "application/octet-stream"))
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Print nothing for a request."""


def make_server(
    scene: GaussianScene, frames: Tensor | None = None, port: int = 0
) -> ThreadingHTTPServer:
    """An HTTP server for the page and the scene on 127.0.0.1, which does not run yet.

    frames [V, T, 3, H, W] in [0, 1]: the input frames, if there are any. Port 0 takes a free one.
    Raises OSError when the port is taken, and ValueError as scene_files does.
    """
    parts = {"index.html": lambda: page().encode(), **scene_files(scene, frames)}
    return ThreadingHTTPServer(("127.0.0.1", port), partial(PartHandler, parts))


def serve(
    scene: GaussianScene, frames: Tensor | None = None, port: int = 0, browser: bool = True
) -> None:
    """Serve a scene until KeyboardInterrupt (Ctrl+C), which goes on to the caller, and open it in
    the browser.

    Arguments and errors are those of make_server; browser=False only prints the address.
    """
    with make_server(scene, frames, port) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        print(f"{address} (Ctrl+C to stop)", flush=True)
        if browser:
            webbrowser.open(address)
        server.serve_forever()
