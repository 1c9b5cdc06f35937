"""The viewer page and a scene on localhost, with Python's own HTTP server."""

import webbrowser
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from torch import Tensor

from fourreal.gaussians import GaussianScene
from fourreal.viewer.export import page, scene_files

TYPES = {"html": "text/html; charset=utf-8", "json": "application/json", "jpg": "image/jpeg"}


class Handler(BaseHTTPRequestHandler):
    """Answers the names of `parts`, and nothing else: no file of the disk can be asked for."""

    def __init__(self, parts, *args):
        self.parts = parts
        super().__init__(*args)

    def do_GET(self):
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

    def log_message(self, *_):
        pass


def make_server(
    scene: GaussianScene, frames: Tensor | None = None, port: int = 0
) -> ThreadingHTTPServer:
    """A server of the page and the scene on 127.0.0.1, not yet running; port 0 takes a free one."""
    parts = {"index.html": lambda: page().encode(), **scene_files(scene, frames)}
    return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, parts))


def serve(
    scene: GaussianScene, frames: Tensor | None = None, port: int = 0, browser: bool = True
) -> None:
    """Serve until interrupted, and open the browser. Raises OSError when the port is taken."""
    with make_server(scene, frames, port) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        print(f"{address} (Ctrl+C to stop)", flush=True)
        if browser:
            webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")
