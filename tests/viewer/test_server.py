"""`fourreal view`'s server: whom it answers, how many at a time, and what it prints."""

import http.client
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fourreal.gaussians import GaussianScene
from fourreal.viewer.serve import THREADS, PartHandler, make_server

from ..tiny import cloud


@pytest.fixture
def server():
    scene = GaussianScene(
        cloud(2000, 1), [cloud(20, 0)] * 3, torch.eye(3, 4)[None], torch.eye(3)[None], 8, 8
    )
    with make_server(scene) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, path="/scene.json", method="GET", **headers):
    """(status, headers, body) of a request; without a Host of its own it says 127.0.0.1:port."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        if value is not None:
            connection.putheader(name, value.format(port=server.server_port))
    connection.endheaders()
    answer = connection.getresponse()
    result = answer.status, answer.headers, answer.read()
    connection.close()
    return result


@pytest.mark.parametrize(
    "host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST", "[::1]:{port}", "localhost:8000"]
)
def test_names_of_this_machine_are_answered(server, host):
    """Also of another port, through which somebody may have led it here."""
    assert ask(server, Host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        *("attacker.example", "attacker.example:{port}", "127.0.0.1.attacker.example"),
        *("192.168.1.5:{port}", "", None, "[::1", "user@attacker.example", "0.0.0.0:{port}"),
    ],
)
def test_other_names_are_refused(server, host):
    status, _, body = ask(server, Host=host)
    assert status == 403 and b"extrinsics" not in body


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:{port}", 200),
        ("http://attacker.example", 403),
        ("null", 403),
        ("https://127.0.0.1:{port}", 403),
        ("http://127.0.0.1:1", 403),
    ],
)
def test_pages_of_other_origins_are_refused(server, origin, status):
    assert ask(server, Origin=origin)[0] == status


@pytest.mark.parametrize("path", ["/", "/scene.json", "/static.bin", "/absent", "/../etc/passwd"])
def test_head_answers_as_get_does_without_a_body(server, path):
    status, headers, body = ask(server, path)
    again, same, nothing = ask(server, path, "HEAD")
    assert (again, nothing) == (status, b"")
    assert same["Content-Length"] == headers["Content-Length"]
    if status == 200:
        assert int(headers["Content-Length"]) == len(body)
        assert headers["Access-Control-Allow-Origin"] is None
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_300_requests_at_once_are_answered_or_refused_at_once(server):
    gate = threading.Barrier(300)

    def one(_):
        gate.wait()
        begin = time.monotonic()
        status, _, body = ask(server, "/static.bin")
        return status, len(body), time.monotonic() - begin

    with ThreadPoolExecutor(300) as pool:
        results = list(pool.map(one, range(300)))
    statuses = Counter(status for status, *_ in results)
    assert set(statuses) <= {200, 503} and statuses[200] >= THREADS
    assert {size for status, size, _ in results if status == 200} == {2000 * (16 + 8)}
    assert max(seconds for *_, seconds in results) < 30  # none waits for a time-out


def test_connections_that_say_nothing_are_bounded_and_let_go(server, monkeypatch):
    monkeypatch.setattr(PartHandler, "timeout", 1.0)
    before = threading.active_count()
    silent = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(200)]
    time.sleep(0.5)
    assert threading.active_count() - before <= THREADS
    end = time.monotonic() + 20
    while ask(server)[0] != 200:
        assert time.monotonic() < end
        time.sleep(0.1)
    for connection in silent:
        connection.close()


def test_a_closed_tab_is_not_told_of(server, capfd):
    for _ in range(20):
        connection = socket.create_connection(("127.0.0.1", server.server_port))
        host = f"127.0.0.1:{server.server_port}"
        connection.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()  # a reset, while the page of some MB is sent
    assert ask(server)[0] == 200
    time.sleep(0.3)
    assert capfd.readouterr().err == ""
