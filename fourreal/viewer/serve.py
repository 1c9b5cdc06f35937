"""Serve the viewer page and a scene on this machine, with Python's own HTTP server."""

import contextlib
import socket
import sys
import threading
import webbrowser
from collections.abc import Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from torch import Tensor

from fourreal.gaussians import GaussianScene
from fourreal.viewer.export import Part, page, scene_files

TYPES = {"html": "text/html; charset=utf-8", "json": "application/json", "jpg": "image/jpeg"}
LOCAL = {"127.0.0.1", "localhost", "::1"}  # what this machine calls itself, whatever the port
THREADS = 64  # requests at a time; a browser makes six
BACKLOG = 512  # connections that wait to be accepted
TIMEOUT = 10.0  # seconds in which a connection must send its request, and take its answer
PATIENCE = 0.1  # seconds to wait for one of them to end, and for a request that is refused
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)


class PartHandler(BaseHTTPRequestHandler):
    """Answers requests for the names of `parts`. It never looks at the disk.

    Only what calls this machine by a name of its own is answered: a page of another site that had
    its own name lead here (DNS rebinding) would read the scene otherwise.
    """

    timeout = TIMEOUT

    def __init__(self, parts: Mapping[str, Part], lock: threading.Lock, *args: Any):
        self.parts, self.lock = parts, lock
        super().__init__(*args)  # which answers the request

    def do_GET(self) -> None:
        content = self.begin_answer()
        if content is not None:
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self.begin_answer()

    def begin_answer(self) -> bytes | None:
        """Send the head of the answer, and give its body; None when the request is refused."""
        if not self.is_local():
            self.send_error(403, "only pages of this machine are answered")
            return None
        name = self.path.split("?")[0].lstrip("/") or "index.html"
        if name not in self.parts:
            self.send_error(404)
            return None
        with self.lock:  # one part is made at a time, so that many requests take no more memory
            content = self.parts[name]()
        self.send_response(200)
        self.send_header("Content-Type", TYPES.get(name.split(".")[-1], "application/octet-stream"))
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        return content

    def is_local(self) -> bool:
        """Whether the request names this machine, and comes from no page of another origin."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        return name in LOCAL and origin in (None, f"http://{host}")

    def log_message(self, *_: Any) -> None:
        """Print nothing for a request."""


class PartServer(ThreadingHTTPServer):
    """At most THREADS requests at a time; a further one is soon told to come again."""

    daemon_threads = True
    request_queue_size = BACKLOG

    def __init__(self, address: tuple[str, int], parts: Mapping[str, Part]):
        self.free = threading.BoundedSemaphore(THREADS)
        self.parts = parts
        super().__init__(address, partial(PartHandler, parts, threading.Lock()))

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.free.acquire(timeout=PATIENCE):
            super().process_request(request, client_address)
            return
        with contextlib.suppress(OSError):
            request.settimeout(PATIENCE)
            request.recv(2**16)  # what is not read resets the connection, answer and all
            request.send(BUSY)
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a tab that was closed, or was too slow."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, socket.timeout)):
            super().handle_error(request, client_address)


def make_server(scene: GaussianScene, frames: Tensor | None = None, port: int = 0) -> PartServer:
    """An HTTP server for the page and the scene on 127.0.0.1, which does not run yet.

    frames [V, T, 3, H, W] in [0, 1]: the input frames, if there are any. Port 0 takes a free one.
    Raises OSError when the port is taken, and ValueError as scene_files does.
    """
    parts = {"index.html": lambda: page().encode(), **scene_files(scene, frames)}
    return PartServer(("127.0.0.1", port), parts)


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
