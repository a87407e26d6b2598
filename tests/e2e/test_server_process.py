"""The server's processes: what the worker has imported, and who may talk to it."""

from __future__ import annotations

import os
import ssl
import stat
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "mlflow",
    "mltable",
    "ultralytics",
    "mmdet",
    "transformers",
    "numpy",
    "pandas",
}


def test_no_heavy_library_in_the_worker(server: Any) -> None:
    assert server.call("GET", f"{server.workspace_path}/jobs")[0] == 200
    code, answer = server.call("GET", "/_amlocal/modules")
    assert code == 200
    assert {"flask", "sqlalchemy", "amlocal"} <= set(answer["value"])
    assert not HEAVY & set(answer["value"])


def raw(server: Any, path: str, headers: dict[str, str], method: str = "GET") -> int:
    context = ssl.create_default_context(cafile=str(server.folder.tls / "ca.pem"))
    request = urllib.request.Request(f"{server.base_url}{path}", method=method)
    for name, value in headers.items():
        request.add_header(name, value)
    try:
        with urllib.request.urlopen(request, context=context, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


PLANES = {
    "arm": "{ws}/jobs",
    "arm-workspace": "{ws}",
    "history": "/history/v1.0{ws}/runs/x/details",
    "mlflow": "/mlflow/v1.0{ws}/api/2.0/mlflow/experiments/search?max_results=1",
    "operations": "/operations/x",
    "admin": "/_amlocal/workspaces",
    "subscriptions": "/subscriptions",
    "blob": "/aml0123456789ab/azureml/x",
    "studio": "/studio/runs/x?wsid={ws}",
    "not-there-yet": "{ws}/schedules",
}


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize(
    "authorization",
    [None, "Bearer ", "Bearer a.b.c", "Basic dXNlcjpwYXNz"],
    ids=["none", "empty", "junk", "basic"],
)
def test_every_plane_wants_a_good_token(server: Any, plane: str, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    assert raw(server, PLANES[plane].format(ws=server.workspace_path), headers) in (401, 403)


def test_forged_and_expired_tokens_are_refused(server: Any) -> None:
    import jwt
    from cryptography.hazmat.primitives.asymmetric import ec

    from amlocal.emulator.cli.env import user_token

    path = f"{server.workspace_path}/jobs?api-version=2024-04-01"
    good = server.user_token()
    assert raw(server, path, {"Authorization": f"Bearer {good}"}) == 200
    claims = jwt.decode(good, options={"verify_signature": False})
    forged = jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256")
    unsigned = jwt.encode(claims, "", algorithm="none")
    expired = user_token(server.folder, server.base_url, lifetime=-10)
    for token in (forged, unsigned, expired, good[:-4] + "AAAA"):
        assert raw(server, path, {"Authorization": f"Bearer {token}"}) == 401


def test_a_job_token_opens_the_tracking_plane_of_its_workspace_only(server: Any) -> None:
    from amlocal.emulator import secrets

    code, workspace = server.call("GET", server.workspace_path)
    assert code == 200
    issuer = secrets.token_issuer(server.folder)
    own = issuer.issue(f"{server.base_url}/jobs", wsid=workspace["properties"]["workspaceId"], run="r")
    other = issuer.issue(f"{server.base_url}/jobs", wsid="another", run="r")
    mlflow = PLANES["mlflow"].format(ws=server.workspace_path)
    # MLflow takes some seconds to start, and nothing waits for it.
    wait_for(lambda: raw(server, mlflow, {"Authorization": f"Bearer {own}"}) != 503, 60, "MLflow")
    assert raw(server, mlflow, {"Authorization": f"Bearer {own}"}) == 200
    assert raw(server, mlflow, {"Authorization": f"Bearer {other}"}) == 401
    assert raw(server, f"{server.workspace_path}/jobs", {"Authorization": f"Bearer {own}"}) == 401


def test_the_managed_identity_wants_its_secret(server: Any) -> None:
    path = "/msi/token?api-version=2019-08-01&resource=https://management.azure.com"
    secret = (server.folder.secrets / "identity_header").read_text()
    assert raw(server, path, {}) == 401
    assert raw(server, path, {"X-IDENTITY-HEADER": "wrong"}) == 401
    assert raw(server, path, {"X-IDENTITY-HEADER": secret}) == 200


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
    ids=["host", "host-suffix", "origin", "null-origin"],
)
def test_other_hosts_and_origins_are_refused(server: Any, headers: dict[str, str], code: int) -> None:
    assert raw(server, "/metadata/endpoints", headers) == code
    assert raw(server, "/metadata/endpoints", {}) == 200


def test_only_the_owner_can_read_the_data_folder(server: Any) -> None:
    assert stat.S_IMODE(server.root.stat().st_mode) == 0o700
    loose = []
    for directory, folders, files in os.walk(server.root):
        for name in [*folders, *files]:
            path = Path(directory) / name
            if not path.is_symlink() and path.stat().st_mode & 0o077:
                loose.append(str(path.relative_to(server.root)))
    assert loose == []


def test_the_ports_are_bound_to_loopback(server: Any) -> None:
    import psutil

    listening = {
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port in (server.port, server.port + 1)
    }
    assert listening == {"127.0.0.1"}


def test_a_port_in_use_is_named(server: Any, new_server: Callable[[], Any]) -> None:
    second = new_server()
    done = second.command("serve", "--data-dir", str(second.root), "--port", str(server.port))
    assert done.returncode == 1
    assert f"port {server.port} is in use" in done.stderr


@pytest.mark.parametrize(
    ("method", "path", "code", "name"),
    [
        ("GET", "/nothing/here", 404, "NotFound"),
        ("GET", "{ws}/nonsense", 404, "NoRegisteredProviderFound"),
        ("GET", "{ws}/schedules", 501, "NotImplemented"),
        ("GET", "{ws}/jobs/unknown", 404, "ResourceNotFound"),
        ("DELETE", "/metadata/endpoints", 405, "MethodNotAllowed"),
        ("PUT", "{ws}/jobs/x", 400, "InvalidRequestContent"),
        ("GET", "{ws}/models/a%2f..%2fb/versions/1", 405, None),
        ("GET", "{ws}/models/%2e%2e/versions/1", 400, "InvalidResourceName"),
        ("GET", "{ws}/models/a%00b/versions/1", 400, "InvalidResourceName"),
        ("GET", "{ws}/models/$(id)/versions/1", 400, "InvalidResourceName"),
    ],
)
def test_errors_have_one_shape(server: Any, method: str, path: str, code: int, name: str | None) -> None:
    status, body = server.call(method, path.format(ws=server.workspace_path))
    assert status == code
    assert set(body["error"]) >= {"code", "message", "details"}
    if name:
        assert body["error"]["code"] == name
    assert body["error"]["message"]


def test_an_unknown_workspace_answers_with_the_command_that_adds_it(server: Any) -> None:
    path = server.workspace_path.replace("workspaces/local", "workspaces/prod")
    code, body = server.call("GET", path)
    assert code == 404
    assert "amlocal workspace add 00000000-0000-0000-0000-000000000000/local/prod" in body["error"]["message"]


def test_arm_paths_compare_without_case(server: Any) -> None:
    path = server.workspace_path.replace("resourceGroups", "resourcegroups").replace(
        "Microsoft.Machine", "microsoft.machine"
    )
    assert server.call("GET", path)[0] == 200
    assert server.call("GET", path.replace("workspaces/local", "workspaces/LOCAL"))[1]["name"] == "local"
