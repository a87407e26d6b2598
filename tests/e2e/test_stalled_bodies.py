"""Clients that send half a body and stop must not keep the server from answering others."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psutil
import pytest
from raw_client import API_VERSION, RawClient, worker_pid

from amlocal.emulator.http.stalled import PATIENCE

STALLED = 70
ANSWERED = 10.0


@pytest.fixture
def half_sent(server: Any) -> Iterator[Callable[[str, int], list[ssl.SSLSocket]]]:
    """Opens connections that send the head of a PUT and the beginning of its body, and then nothing."""
    context = ssl.create_default_context(cafile=str(server.folder.tls / "ca.pem"))
    token = server.user_token()
    with ExitStack() as stack:

        def open_many(path: str, number: int) -> list[ssl.SSLSocket]:
            made = []
            for _ in range(number):
                plain = stack.enter_context(socket.create_connection(("localhost", server.port), timeout=30))
                secure = stack.enter_context(context.wrap_socket(plain, server_hostname="localhost"))
                head = (
                    f"PUT {path} HTTP/1.1\r\nHost: localhost:{server.port}\r\n"
                    f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
                    "x-ms-blob-type: BlockBlob\r\nContent-Length: 100000\r\n\r\n"
                )
                secure.sendall(head.encode() + b'{"properties": {"tags": {"a": "')
                made.append(secure)
            return made

        yield open_many


def test_stalled_json_bodies_do_not_block_others(server: Any, half_sent: Any) -> None:
    client = RawClient(server, timeout=ANSWERED)
    process = psutil.Process(worker_pid(server) or 0)
    before = process.memory_info().rss
    path = f"{server.workspace_path}/environments/stalled/versions/1?api-version={API_VERSION}"
    stalled = half_sent(path, STALLED)
    started = time.monotonic()
    for number in range(5):
        status, body = client.arm("GET", f"environments/host/versions/{number % 1 + 1}")
        assert status == 200, body
    body = {"properties": {"image": "ubuntu"}}
    status, answer = client.arm("PUT", "environments/among-stalled/versions/1", body)
    assert status in (200, 201), answer
    assert time.monotonic() - started < ANSWERED
    assert process.memory_info().rss - before < 100 * 1024**2
    assert len(stalled) == STALLED
    assert client.arm("GET", "environments/stalled/versions/1")[0] == 404
    client.close()


@pytest.mark.slow
def test_a_stalled_body_is_answered_and_lets_go(server: Any, half_sent: Any) -> None:
    """After the server's patience; whatever the client was about to write is not there."""
    client = RawClient(server)
    path = f"{server.workspace_path}/environments/stalled-alone/versions/1?api-version={API_VERSION}"
    (json_body,) = half_sent(path, 1)
    (blob,) = half_sent(client.blob_path("stalled/blob.bin"), 1)
    client.close()  # idle connections may be closed, too
    for connection in (json_body, blob):
        connection.settimeout(PATIENCE * 2)
        answer = connection.recv(4000)
        assert answer.startswith(b"HTTP/1.1 408 ") and b"RequestTimeout" in answer
    assert client.arm("GET", "environments/stalled-alone/versions/1")[0] == 404
    assert client.raw("GET", client.blob_path("stalled/blob.bin"))[0] == 404
    assert list((server.folder.tmp / "uploads").iterdir()) == []
    client.close()
