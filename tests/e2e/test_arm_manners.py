"""What every answer has, whatever was asked: the error shape, request ids, and a sensible status."""

from __future__ import annotations

import http.client
import json
import ssl
import uuid
from collections.abc import Callable
from typing import Any

import pytest

VERSION = "api-version=2024-01-01-preview"
Ask = Callable[..., tuple[int, dict[str, str], bytes]]


@pytest.fixture
def ask(server: Any) -> Ask:
    context = ssl.create_default_context(cafile=str(server.folder.tls / "ca.pem"))
    token = server.user_token()

    def send(
        method: str, path: str, *, signed: bool = True, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPSConnection("localhost", server.port, timeout=30, context=context)
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        if signed:
            sent["Authorization"] = f"Bearer {token}"
        try:
            connection.request(method, path, None, sent)
            answer = connection.getresponse()
            lowered = {key.lower(): value for key, value in answer.getheaders()}
            return answer.status, lowered, answer.read()
        finally:
            connection.close()

    return send


UNKNOWN = {
    "root": ("GET", "/", 404, "NotFound"),
    "nothing": ("GET", "/nothing/at/all", 404, "NotFound"),
    "provider": (
        "GET",
        "/subscriptions/{subscription}/resourceGroups/local/providers/Microsoft.Compute/virtualMachines/x",
        404,
        "ResourceNotFound",
    ),
    "type": ("GET", "{workspace}/widgets/x", 404, "NoRegisteredProviderFound"),
    "method-of-a-list": ("DELETE", "{workspace}/jobs", 405, "MethodNotAllowed"),
    "method-of-an-item": ("POST", "{workspace}/data/x", 405, "MethodNotAllowed"),
    "method-of-nothing": ("BREW", "{workspace}/data/x", 405, "MethodNotAllowed"),
    "action": ("POST", "{workspace}/jobs/x/explode", 405, "MethodNotAllowed"),
    "subscription": ("GET", "/subscriptions/x/resourceGroups", 404, "SubscriptionNotFound"),
    "operation": ("GET", "/operations/x", 404, "ResourceNotFound"),
    "history": ("GET", "/history/v1.0{workspace}/nothing", 501, "NotImplemented"),
    "data-plane": ("GET", "/data/v1.0{workspace}/nothing", 501, "NotImplemented"),
    "mlflow": ("GET", "/mlflow/v1.0{workspace}/api/2.0/mlflow/nothing", 404, "MlflowRouteNotFound"),
    "registry-plane": ("GET", "/mferp/nothing", 404, "NotFound"),
    "studio": ("GET", "/studio/nothing", 404, "NotFound"),
    "long": ("GET", "/" + "a" * 8000, 404, "NotFound"),
    "no-utf-8": ("GET", "/%ff%fe", 404, "NotFound"),
}


@pytest.mark.parametrize(("method", "path", "status", "code"), UNKNOWN.values(), ids=UNKNOWN.keys())
def test_the_error_shape_is_everywhere(
    server: Any, ask: Ask, method: str, path: str, status: int, code: str
) -> None:
    workspace = server.workspace_path
    filled = path.format(workspace=workspace, subscription=workspace.split("/")[2])
    got, headers, content = ask(method, f"{filled}?{VERSION}")
    error = json.loads(content)["error"]
    assert (got, error["code"]) == (status, code), content
    assert error["message"] and headers["x-ms-error-code"] == code


def test_every_answer_has_request_ids(server: Any, ask: Ask) -> None:
    mine = str(uuid.uuid4())
    seen = set()
    for path, status in ((f"{server.workspace_path}?{VERSION}", 200), ("/nothing", 404), ("/health", 200)):
        got, headers, _ = ask("GET", path, x_ms_client_request_id=mine)
        assert got == status
        assert headers["x-ms-client-request-id"] == mine
        assert uuid.UUID(headers["x-ms-request-id"]) and headers["x-ms-correlation-request-id"]
        seen.add(headers["x-ms-request-id"])
    assert len(seen) == 3


@pytest.mark.parametrize(
    "version",
    ["2020-01-01", "2021-10-01", "2022-02-01-preview", "2024-04-01", "2025-12-01", "2026-03-01-preview"],
)
def test_any_api_version_that_is_one_is_served(server: Any, ask: Ask, version: str) -> None:
    assert ask("GET", f"{server.workspace_path}/computes?api-version={version}")[0] == 200


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "MissingApiVersionParameter"),
        ("api-version=", "MissingApiVersionParameter"),
        ("api-version=latest", "InvalidApiVersionParameter"),
        ("api-version=2024-13-01", "InvalidApiVersionParameter"),
        ("api-version=2024-01-01-PREVIEW!", "InvalidApiVersionParameter"),
    ],
)
@pytest.mark.parametrize("place", ["", "/computes", "/jobs/x", "/widgets"])
def test_an_api_version_is_needed(server: Any, ask: Ask, place: str, query: str, code: str) -> None:
    status, _, content = ask("GET", f"{server.workspace_path}{place}?{query}")
    assert (status, json.loads(content)["error"]["code"]) == (400, code)


def test_nobody_gets_in_without_a_token(server: Any, ask: Ask) -> None:
    for path in ("", "/jobs", "/data/x/versions/1", "/widgets"):
        status, _, content = ask("GET", f"{server.workspace_path}{path}?{VERSION}", signed=False)
        assert (status, json.loads(content)["error"]["code"]) == (401, "AuthenticationFailed")


def test_the_case_of_fixed_words_does_not_count(server: Any, ask: Ask) -> None:
    spelled = server.workspace_path.replace("resourceGroups", "RESOURCEGROUPS").replace(
        "workspaces", "Workspaces"
    )
    status, _, content = ask("GET", f"{spelled}/COMPUTES/cpu-cluster?{VERSION}")
    assert status == 200 and json.loads(content)["name"] == "cpu-cluster"
