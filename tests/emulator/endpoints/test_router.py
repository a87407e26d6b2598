"""The router end to end: who is let in, what is answered."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from conftest import Plane


def error_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_a_request_is_scored(plane: Plane) -> None:
    response = plane.post(b"hello")
    assert (response.status_code, response.json()) == (200, {"deployment": "blue", "size": 5})
    assert response.headers["azureml-model-deployment"] == "blue"
    assert len(response.headers["x-request-id"]) == 36
    named = plane.post(
        x_request_id="mine-1", x_ms_client_request_id="mine-2", azureml_model_deployment="green"
    )
    assert named.json()["deployment"] == "green"
    assert (named.headers["x-request-id"], named.headers["x-ms-client-request-id"]) == ("mine-1", "mine-2")
    plane.until(lambda: "'mine-1'" in plane.supervisor.tail("green"))  # it is written after the answer
    secondary = plane.post(Authorization=f"bearer {plane.keys.secondary}")
    assert secondary.status_code == 200
    assert plane.post(b"x" * plane.max_body).json()["size"] == plane.max_body
    upper = plane.client.post(
        f"{plane.url}/{plane.workspace.upper()}/Digits/score",
        headers={"Authorization": f"Bearer {plane.keys.primary}"},
    )
    assert upper.status_code == 200


def test_swagger_names_the_endpoints_own_address(plane: Plane) -> None:
    base = f"/{plane.workspace}/digits"
    forged = {"x_forwarded_prefix": "/elsewhere"}
    assert plane.ask("swagger.json", method="GET", **forged).json()["basePath"] == base
    servers = plane.ask("swagger.json?version=3", method="GET", **forged).json()["servers"]
    assert servers == [{"url": base}]
    # A tool that reads the document finds the scoring URI by it.
    uri = f"{plane.url}{servers[0]['url']}/score"
    key = {"Authorization": f"Bearer {plane.keys.primary}"}
    assert plane.client.post(uri, content=b"x", headers=key).status_code == 200
    unknown = plane.ask("swagger.json?version=4", method="GET")
    assert error_of(unknown) == (404, "NotFound") and "there is 2, 3, 3.1" in unknown.text


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer wrong", "Basic {key}", "Bearer {key}x", "Bearer \xff"]
)
def test_wrong_keys(plane: Plane, header: str) -> None:
    value = header.format(key=plane.keys.primary)
    response = plane.client.post(
        f"{plane.url}/{plane.workspace}/digits/score", headers=[(b"Authorization", value.encode("latin-1"))]
    )
    assert error_of(response) == (401, "Unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"
    assert plane.keys.primary not in response.text


def test_rotated_key(plane: Plane) -> None:
    new = plane.new_keys()
    plane.reset(key_hashes=new.hashes())
    assert plane.post().status_code == 401
    assert plane.post(Authorization=f"Bearer {new.primary}").status_code == 200


def test_what_is_not_there(plane: Plane) -> None:
    auth = {"Authorization": f"Bearer {plane.keys.primary}"}
    for path, word in (
        (f"/{plane.workspace}/letters/score", "'letters'"),
        ("/other-workspace/digits/score", "'digits'"),
        (f"/{plane.workspace}/digits/other", "POST /<workspace id>/<endpoint>/score"),
        (f"/{plane.workspace}/../digits/score", ""),
        ("/", ""),
    ):
        response = plane.client.post(plane.url + path, headers=auth, content=b"x")
        assert response.status_code == 404 and word in response.json()["error"]["message"], path
    stale = plane.post(azureml_model_deployment="red")
    assert error_of(stale) == (404, "ResourceNotFound")
    assert "'red'" in stale.text and "blue, green" in stale.text
    plane.reset(traffic={"blue": 0})
    assert "no valid deployment with positive weight" in plane.post().json()["error"]["message"]
    assert plane.post(azureml_model_deployment="blue").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost", "localhost:1", "localhost.evil.example:{port}"]
)
def test_other_hosts(plane: Plane, host: str) -> None:
    assert error_of(plane.post(Host=host.format(port=plane.port))) == (403, "HostNotAllowed")


def test_loopback_hosts_and_origins(plane: Plane) -> None:
    for name in ("localhost", "127.0.0.1", "[::1]", "LocalHost"):
        assert plane.post(Host=f"{name}:{plane.port}").status_code == 200
    assert plane.post(Origin="https://localhost:4265").status_code == 200
    assert error_of(plane.post(Origin="https://evil.example")) == (403, "OriginNotAllowed")
    assert error_of(plane.post(Origin="null")) == (403, "OriginNotAllowed")
    assert plane.client.get(f"{plane.url}/ready", headers={"Host": "evil.example"}).status_code == 403
    assert plane.client.get(f"{plane.url}/ready").json()["version"] == plane.routes.table.version


@pytest.mark.parametrize("size", [100_001, 20_000_000])
def test_too_large_a_body_is_refused_before_it_is_read(plane: Plane, size: int) -> None:
    assert error_of(plane.post(b"x" * size)) == (413, "PayloadTooLarge")

    def chunks() -> Iterator[bytes]:
        for _ in range(size // 1000 + 1):
            yield b"x" * 1000

    assert error_of(plane.post(chunks())) == (413, "PayloadTooLarge")  # type: ignore[arg-type]


def test_a_refused_client_that_goes_on_sending_gets_its_answer(plane: Plane) -> None:
    connection = http.client.HTTPSConnection("localhost", plane.port, context=plane.trust, timeout=30)
    try:
        connection.request("POST", f"/{plane.workspace}/digits/score", b"x" * 20_000_000)
        assert connection.getresponse().status == 401
    finally:
        connection.close()


def test_413_needs_no_body(plane: Plane) -> None:
    with socket.create_connection(("127.0.0.1", plane.port)) as raw:
        with plane.trust.wrap_socket(raw, server_hostname="localhost") as connection:
            head = (
                f"POST /{plane.workspace}/digits/score HTTP/1.1\r\nHost: localhost:{plane.port}\r\n"
                f"Authorization: Bearer {plane.keys.primary}\r\nContent-Length: 99999999\r\n\r\n"
            )
            connection.sendall(head.encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 413")


def test_failures_of_the_users_code_are_424(plane: Plane) -> None:
    response = plane.post(b"fail my fault")
    assert error_of(response) == (424, "ModelError")
    assert response.headers["ms-azureml-model-error-statuscode"] == "500"
    assert response.headers["ms-azureml-model-error-reason"] == "RuntimeError: my fault"
    assert response.headers["azureml-model-deployment"] == "blue"


def test_bad_input_is_424_with_the_models_400(plane: Plane) -> None:
    response = plane.post(b"\xff\xfe")
    assert error_of(response) == (424, "BadRequest")
    assert response.headers["ms-azureml-model-error-statuscode"] == "400"


def test_an_answer_does_not_wait_for_a_delayed_acknowledgement(plane: Plane) -> None:
    """40 ms per answer is what a missing TCP_NODELAY costs."""
    plane.client.get(f"{plane.url}/ready")

    def median() -> float:
        times = []
        for _ in range(20):
            begin = time.monotonic()
            plane.client.get(f"{plane.url}/ready")
            times.append(time.monotonic() - begin)
        return sorted(times)[10]

    # Without it no answers are quick; on a busy machine some are not.
    plane.until(lambda: median() < 0.035)
