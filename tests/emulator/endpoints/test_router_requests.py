"""What passes the router in both directions, and what becomes of answers that are not good."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.requests import Request

from amlocal.emulator.endpoints import bodies
from amlocal.emulator.endpoints.bodies import read_body
from amlocal.emulator.endpoints.route_table import DeploymentRoute, Instance
from amlocal.emulator.http.errors import AzureError

if TYPE_CHECKING:
    from conftest import Seen, Stage


def error_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_what_a_scorer_gets_to_see(stage: Stage) -> None:
    raw = bytes(range(256)) * 10
    stage.ask(
        "score?a=1&b=%20x",
        content=raw,
        Content_Type="application/octet-stream",
        x_request_id="mine",
        x_ms_client_request_id="yours",
        azureml_something="kept",
        X_Own="kept, too",
        Cookie="secret=1",
        X_Forwarded_Prefix="//elsewhere.example",
    )
    (seen,) = stage.scorers["blue"].seen
    assert (seen.method, seen.target, seen.body) == ("POST", "/score?a=1&b=%20x", raw)
    expected = {
        "content-type": "application/octet-stream",
        "content-length": "2560",
        "x-request-id": "mine",
        "x-ms-client-request-id": "yours",
        "azureml-something": "kept",
        "x-own": "kept, too",
        "connection": "close",
        "x-forwarded-prefix": f"/{stage.workspace}/digits",
    }
    assert {name: seen.headers.get(name) for name in expected} == expected
    assert not {"authorization", "cookie", "transfer-encoding"} & set(seen.headers)


def test_chunked_bodies_and_gets(stage: Stage) -> None:
    def pieces() -> Iterator[bytes]:
        for number in range(300):
            yield b"%d," % number

    stage.post(pieces())
    stage.ask("score?x=1", method="GET")
    stage.ask("", method="GET")
    stage.ask("swagger.json?version=2", method="GET", azureml_model_deployment="blue")
    posted, got, root, swagger = stage.scorers["blue"].seen
    assert posted.body == b"".join(pieces())
    assert (got.method, got.target, got.body) == ("GET", "/score?x=1", b"")
    assert (root.method, root.target) == ("GET", "/")
    assert (swagger.method, swagger.target) == ("GET", "/swagger.json?version=2")


def test_what_a_client_gets_to_see(stage: Stage) -> None:
    body = bytes(range(256))
    given = stage.answer(
        body=body,
        Content_Type="image/png",
        X_Custom="own",
        Set_Cookie="a=b",
        Server="scorer",
        azureml_model_deployment="forged",
        x_request_id="forged",
        Strict_Transport_Security="max-age=1",
    )
    stage.behave("blue", lambda seen: given)
    response = stage.post(x_request_id="mine")
    assert (response.status_code, response.content) == (200, body)
    assert response.headers["content-type"] == "image/png" and response.headers["x-custom"] == "own"
    assert response.headers["azureml-model-deployment"] == "blue"
    assert response.headers["x-request-id"] == "mine"
    assert not {"set-cookie", "server", "strict-transport-security"} & set(response.headers)


@pytest.mark.parametrize(
    ("own", "headers", "expected", "reason"),
    [
        (400, {}, 400, "Bad Request"),
        (418, {"ms_azureml_model_error_statuscode": "418"}, 418, "I'm a Teapot"),
        (500, {"ms_azureml_model_error_reason": "ValueError: x"}, 500, "ValueError: x"),
        (200, {"ms_azureml_model_error_statuscode": "418"}, 418, "I'm a Teapot"),
        (201, {}, 201, "Created"),
        (503, {"ms_azureml_model_error_statuscode": "503"}, 503, "Service Unavailable"),
        (413, {"ms_azureml_model_error_statuscode": "413"}, 413, None),
        (599, {"ms_azureml_model_error_statuscode": "hello"}, 599, "Unknown"),
    ],
)
def test_all_but_200_of_the_model_is_424(
    stage: Stage, own: int, headers: dict[str, str], expected: int, reason: str | None
) -> None:
    stage.behave("blue", lambda seen: stage.answer(own, b'{"its": "own"}', **headers))
    response = stage.post()
    assert response.json() == {"its": "own"}
    assert response.headers["azureml-model-deployment"] == "blue"
    if reason is None:
        assert response.status_code == 413
        return
    assert response.status_code == 424
    assert response.headers["ms-azureml-model-error-statuscode"] == str(expected)
    assert response.headers["ms-azureml-model-error-reason"] == reason
    assert len(stage.scorers["blue"].seen) == 1


@pytest.mark.parametrize(
    ("what", "word"),
    [
        (None, "without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", "without an answer"),
        (b"what?\r\n\r\n", "did not answer in HTTP"),
    ],
)
def test_a_scorer_that_breaks_off_is_424_and_gets_nothing_twice(
    stage: Stage, what: bytes | None, word: str
) -> None:
    other = Instance(str(stage.sockets["green"]))
    both = DeploymentRoute((*stage.deployment("blue").instances, other), max_concurrent=8)
    stage.reset(deployments={"blue": both})
    for name in ("blue", "green"):
        stage.behave(name, lambda seen: what)
    response = stage.post()
    assert error_of(response) == (424, "ModelError") and word in response.text
    assert response.headers["ms-azureml-model-error-statuscode"] == "502"
    assert "ended" in response.headers["ms-azureml-model-error-reason"]
    assert sum(len(scorer.seen) for scorer in stage.scorers.values()) == 1


def test_a_request_that_was_not_started_goes_to_another_instance(stage: Stage) -> None:
    """One instance is gone, one still loads its model."""
    instances = [Instance("/nowhere.sock"), Instance(str(stage.sockets["blue"]))]
    loading = json.dumps({"error": {"code": "ModelNotReady", "message": "loading"}}).encode()
    stage.behave("blue", lambda seen: stage.answer(503, loading))
    stage.put(deployments={"blue": DeploymentRoute(tuple(instances), max_concurrent=8)})
    response = stage.post()
    assert error_of(response) == (503, "ServiceUnavailable")
    assert response.headers["retry-after"] == "1"
    instances.append(Instance(str(stage.sockets["green"])))
    stage.put(deployments={"blue": DeploymentRoute(tuple(instances), max_concurrent=8)})
    assert [stage.post().json()["deployment"] for _ in range(5)] == ["green"] * 5


def test_swagger(stage: Stage) -> None:
    missing = json.dumps({"error": {"code": "NotFound", "message": "there is 2, 3"}}).encode()
    stage.behave("blue", lambda seen: stage.answer(404, missing))
    refused = stage.ask("swagger.json?version=4", method="GET")
    assert error_of(refused) == (404, "NotFound") and "there is 2, 3" in refused.text
    assert refused.headers["azureml-model-deployment"] == "blue"
    stage.behave("blue", lambda seen: stage.answer(body=b'{"swagger": "2.0"}'))
    response = stage.ask("swagger.json", method="GET")
    assert (response.status_code, response.json()) == (200, {"swagger": "2.0"})
    assert stage.ask("swagger.json", method="POST").status_code == 405


def test_a_client_that_hangs_up_frees_its_place(stage: Stage) -> None:
    gone = threading.Event()
    came = threading.Event()

    def hang(seen: Seen) -> bytes | None:
        if seen.body != b"hang":
            return stage.answer()
        came.set()
        seen.connection.settimeout(20)
        if seen.connection.recv(1) == b"":  # the router hung up, too
            gone.set()
        return None

    stage.reset(deployments={"blue": stage.deployment("blue", max_concurrent=1, request_timeout_ms=60_000)})
    stage.behave("blue", hang)
    with socket.create_connection(("127.0.0.1", stage.port)) as raw:
        with stage.trust.wrap_socket(raw, server_hostname="localhost") as connection:
            head = (
                f"POST /{stage.workspace}/digits/score HTTP/1.1\r\nHost: localhost:{stage.port}\r\n"
                f"Authorization: Bearer {stage.keys.primary}\r\nContent-Length: 4\r\n\r\nhang"
            )
            connection.sendall(head.encode())
            assert came.wait(20)
    assert gone.wait(20)
    assert stage.post().status_code == 200
    labels = f'workspace="{stage.workspace}",endpoint="digits",deployment="blue"'
    stage.until(lambda: stage.metrics().get(f'amlocal_requests_total{{{labels},status="499"}}') == 1)
    assert stage.metrics()[f"amlocal_requests_in_flight{{{labels}}}"] == 0


def test_headers_without_end_are_refused(stage: Stage) -> None:
    with socket.create_connection(("127.0.0.1", stage.port)) as raw:
        with stage.trust.wrap_socket(raw, server_hostname="localhost") as connection:
            connection.settimeout(20)
            connection.sendall(b"GET / HTTP/1.1\r\nX: ")
            try:
                for _ in range(100):
                    connection.sendall(b"x" * 10_000)
            except OSError:
                pass  # closed by the router: what is meant to happen
            received = connection.recv(1000)
            assert received.startswith(b"HTTP/1.1 400") and b"65536 bytes" in received
    many = {f"x-{number}": "1" for number in range(120)}
    assert error_of(stage.post(**many)) == (431, "RequestHeaderFieldsTooLarge")
    assert not stage.scorers["blue"].seen


def peak(pid: int) -> int:
    """The most memory that the process ever had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def test_memory_stays_below_three_times_the_body(large_stage: Stage) -> None:
    size = 48 * 1024 * 1024
    large_stage.post()
    before = peak(large_stage.router.pid)

    def pieces() -> Iterator[bytes]:
        piece = os.urandom(1024 * 1024)
        for _ in range(size // len(piece)):
            yield piece

    response = large_stage.post(pieces())
    assert response.status_code == 200 and response.json()["size"] == size
    assert peak(large_stage.router.pid) - before < 1.7 * size


def test_tiny_pieces_are_put_together() -> None:
    """A piece has an overhead of tens of bytes, and a client may send a byte at a time."""
    pieces = [{"type": "http.request", "body": b"x", "more_body": True} for _ in range(20_000)]
    messages = iter([*pieces, {"type": "http.request", "body": b"end", "more_body": False}])

    async def receive() -> Any:
        return next(messages)

    body = asyncio.run(read_body(Request({"type": "http", "headers": []}, receive), 1_000_000))
    assert b"".join(body) == b"x" * 20_000 + b"end" and len(body) <= 2


def test_a_client_that_stalls_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def receive() -> Any:
        await asyncio.sleep(20)

    monkeypatch.setattr(bodies, "STALL_SECONDS", 0.05)
    with pytest.raises(AzureError, match="did not arrive") as caught:
        asyncio.run(read_body(Request({"type": "http", "headers": []}, receive), 10))
    assert caught.value.status == 408
