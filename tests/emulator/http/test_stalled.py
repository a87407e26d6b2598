"""A body that stops coming ends its request with 408; one that comes slowly does not."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

PATIENCE = 1.0
SERVER = """
import json, sys
from flask import Flask, request
from granian.constants import Interfaces
from granian.server.mt import MTServer
from amlocal.emulator.http import guard
from amlocal.emulator.http.stalled import StalledBodies
port = int(sys.argv[1])
app = Flask("stalled")
guard.install(app, port)

@app.put("/read")
def read():
    return {"size": len(request.stream.read(1 << 20)), "more": len(request.stream.read(10))}

@app.put("/unread")
def unread():
    return {"size": -1}

app.wsgi_app = StalledBodies(app.wsgi_app, port, patience=float(sys.argv[2]))

class Server(MTServer):
    def _check_gil(self):
        return

Server("stalled", port=port, interface=Interfaces.WSGI, blocking_threads=2, log_enabled=False).serve(
    target_loader=lambda *_: app, wrap_loader=False)
"""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(number), str(PATIENCE)])
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", number), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
        yield number
    finally:
        server.kill()
        server.wait()


def begin(port: int, path: str, length: int, body: bytes) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=20)
    made.sendall(
        f"PUT {path} HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: {length}\r\n\r\n".encode()
    )
    made.sendall(body)
    return made


def answer(made: socket.socket) -> tuple[int, dict[str, object]]:
    response = http.client.HTTPResponse(made)
    response.begin()
    return response.status, json.loads(response.read())


def test_stopped_bodies_are_answered(port: int) -> None:
    """More of them than the server has threads."""
    made = [begin(port, "/read", 1000, b"half") for _ in range(6)]
    for one in made:
        status, body = answer(one)
        assert status == 408
        error = body["error"]
        assert isinstance(error, dict) and error["code"] == "RequestTimeout"
        assert "996 bytes" in error["message"]
        one.close()


def test_a_slow_body_is_not_cut(port: int) -> None:
    parts = 8
    made = begin(port, "/read", parts * 4, b"")
    for _ in range(parts):
        made.sendall(b"part")
        time.sleep(PATIENCE / 3)
    assert answer(made) == (200, {"size": parts * 4, "more": 0})
    made.close()


def test_an_answer_does_not_wait_for_ever_for_a_body_that_nobody_reads(port: int) -> None:
    made = begin(port, "/unread", 1000, b"half")
    assert answer(made) == (200, {"size": -1})
    made.close()


def test_whole_bodies_of_every_size(port: int) -> None:
    connection = http.client.HTTPConnection("localhost", port, timeout=20)
    for size in (0, 1, 128 * 1024 - 1, 128 * 1024, 128 * 1024 + 1, 1 << 20):
        connection.request("PUT", "/read", b"x" * size)
        response = connection.getresponse()
        assert json.loads(response.read()) == {"size": size, "more": 0}
    connection.close()
