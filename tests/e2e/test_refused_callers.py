"""Who is refused where: every plane, with every credential that is not for it, is 401; its own opens it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for
from endpoint_desk import BODY, deployment, endpoint, route, scripted

from amlocal.compat.tokens import TokenIssuer
from amlocal.emulator.endpoints import endpoint_tokens
from amlocal.emulator.secrets import TOKEN_ISSUER

VERSION = "api-version=2024-10-01"
OTHER = ("1f3a52c7-60c5-4b3e-9d9d-0c2b7a9c1e11", "team", "refused-elsewhere")
MODES = {"guarded": "key", "tokened": "aml_token", "signed-in": "aad_token"}


@dataclass(frozen=True)
class Room:
    """The endpoints of the matrix, their addresses, and all credentials by name."""

    session: Any
    planes: Mapping[str, tuple[str, str]]
    own: Mapping[str, str]
    credentials: Mapping[str, str] = field(repr=False)


@pytest.fixture(scope="module")
def room(server: Any, ml_client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    import jwt
    import requests
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    added = server.command("workspace", "add", "/".join(OTHER), "--data-dir", str(server.root))
    assert added.returncode == 0, added.stderr
    other = MLClient(DefaultAzureCredential(), *OTHER)
    script = scripted(tmp_path_factory.mktemp("refused"), "x")
    for name, mode in MODES.items():
        endpoint(ml_client, name, auth_mode=mode)
        endpoint(ml_client, f"{name}-2", auth_mode=mode)
        endpoint(other, name, auth_mode=mode)
    # The three at once: each is polled for until it is ready.
    pollers = [
        ml_client.online_deployments.begin_create_or_update(deployment(name, "blue", **script))
        for name in MODES
    ]
    for poller in pollers:
        poller.result()
    for name in MODES:
        route(ml_client, name, {"blue": 100})
    uris = {name: ml_client.online_endpoints.get(name).scoring_uri for name in MODES}
    router = uris["guarded"].split("/", 3)
    workspace = server.workspace_path
    status, store = server.call("GET", f"{workspace}/datastores/workspaceblobstore?{VERSION}")
    assert status == 200
    blobs = f"{store['properties']['accountName'].rpartition('/')[2]}/{store['properties']['containerName']}"
    base = server.base_url
    planes = {
        "control": ("GET", f"{base}{workspace}/onlineEndpoints?{VERSION}"),
        "keys": ("POST", f"{base}{workspace}/onlineEndpoints/guarded/listKeys?{VERSION}"),
        "token": ("POST", f"{base}{workspace}/onlineEndpoints/tokened/token?{VERSION}"),
        "storage": ("GET", f"{base}/{blobs}?restype=container&comp=list"),
        "history": ("POST", f"{base}/history/v1.0{workspace}/rundata"),
        "mlflow": ("GET", f"{base}/mlflow/v1.0{workspace}/api/2.0/mlflow/experiments/search?max_results=1"),
        "metrics": ("GET", f"{router[0]}//{router[2]}/metrics"),
        **{f"score-{name}": ("POST", uri) for name, uri in uris.items()},
        **{f"swagger-{name}": ("GET", f"{uri[:-5]}swagger.json") for name, uri in uris.items()},
    }  # fmt: skip
    past = TokenIssuer(server.folder.secrets / "signing_key.pem", TOKEN_ISSUER, lambda: time.time() - 7200)
    now = TokenIssuer(server.folder.secrets / "signing_key.pem", TOKEN_ISSUER)
    forged = TokenIssuer(tmp_path_factory.mktemp("forged") / "key.pem", TOKEN_ISSUER)
    audience = "https://ml.azure.com"
    identity = router[3].partition("/")[0]
    keys, foreign = ml_client.online_endpoints.get_keys, other.online_endpoints.get_keys
    own_token = keys("tokened").access_token
    created = jwt.decode(own_token, options={"verify_signature": False})["endpoint_created"]

    def token(issuer: TokenIssuer) -> str:
        return f"Bearer {endpoint_tokens.issue(issuer, identity, 'tokened', created).token}"

    credentials = {
        "none": "",
        "garbage": "Bearer garbage",
        "empty": "Bearer ",
        "dots": "Bearer a.b.c",
        "basic": f"Basic {keys('guarded').primary_key}",
        "own-key": f"Bearer {keys('guarded').primary_key}",
        "own-token": f"Bearer {own_token}",
        "user": f"Bearer {keys('signed-in').access_token}",
        "key-of-another": f"Bearer {keys('guarded-2').primary_key}",
        "token-of-another": f"Bearer {keys('tokened-2').access_token}",
        "key-of-another-workspace": f"Bearer {foreign('guarded').primary_key}",
        "token-of-another-workspace": f"Bearer {foreign('tokened').access_token}",
        "expired-token": token(past),
        "expired-user": f"Bearer {past.issue(audience, lifetime=3600)}",
        "job": f"Bearer {now.issue(f'{base}/jobs', wsid=identity, run='x')}",
        "job-of-another-workspace": f"Bearer {now.issue(f'{base}/jobs', wsid='x', run='x')}",
        "forged-token": token(forged),
        "forged-user": f"Bearer {forged.issue(audience)}",
        "other-audience": f"Bearer {now.issue('https://graph.microsoft.com')}",
    }
    # The test signs its own expired tokens: signed so but in time, they must open the endpoint.
    credentials["signed-here"] = token(now)
    own = dict.fromkeys(planes, "user")
    for kind in ("score", "swagger"):
        own |= {f"{kind}-guarded": "own-key", f"{kind}-tokened": "own-token"}
    # One connection to each plane: some 400 requests are sent.
    with requests.Session() as session:
        found = Room(session, planes, own, credentials)
        # The last part of a server that is just starting.
        wait_for(lambda: ask(found, "mlflow", credentials["user"]).status_code != 503, 60, "MLflow")
        yield found


# Where a credential is right; everywhere else it must be refused.
ALSO = {
    "mlflow": ("user", "job"),
    "score-tokened": ("own-token", "signed-here"),
    "swagger-tokened": ("own-token", "signed-here"),
}
PLANES = (
    "control", "keys", "token", "storage", "history", "mlflow", "metrics",
    *(f"{kind}-{name}" for kind in ("score", "swagger") for name in MODES),
)  # fmt: skip


def ask(room: Room, plane: str, credential: str) -> Any:
    method, url = room.planes[plane]
    body = BODY if plane.startswith("score") else {"runId": "nothing"}
    headers = {"x-ms-version": "2024-11-04"}
    if credential:
        headers["Authorization"] = credential
    room.session.cookies.clear()
    return room.session.request(
        method, url, json=body if method == "POST" else None, headers=headers, timeout=60
    )


@pytest.mark.parametrize("plane", PLANES)
def test_a_plane_opens_for_its_own_credential_only(room: Room, plane: str) -> None:
    right = ALSO.get(plane, (room.own[plane],))
    for name in right:
        answer = ask(room, plane, room.credentials[name])
        # A run that nobody has is 404 on the history, and a model without an example has no swagger.json:
        # both are found out behind the door.
        assert answer.status_code == (404 if plane == "history" else 200), (name, answer.text)
    wrong = {}
    for name, credential in room.credentials.items():
        if name in right:
            continue
        answer = ask(room, plane, credential)
        code = answer.json()["error"]["code"] if "json" in answer.headers["Content-Type"] else ""
        code = code or answer.headers.get("x-ms-error-code")
        wrong[name] = (answer.status_code, code)
    expected = {name: (401, refused_with(plane, name)) for name in wrong}
    assert wrong == expected
    assert len(wrong) >= 17


def refused_with(plane: str, credential: str) -> str:
    """The error code: Azure's for what a client has to do about it."""
    if plane.startswith(("score", "swagger", "metrics")):
        return "Unauthorized"
    if plane == "storage" and credential == "none":
        return "NoAuthenticationInformation"
    return (
        "AuthenticationFailed" if credential in ("none", "empty", "basic") else "InvalidAuthenticationToken"
    )


def test_the_studio_opens_by_its_own_links_only(server: Any, room: Room, ml_client: Any) -> None:
    wsid = server.workspace_path
    for name, credential in room.credentials.items():
        headers = {"Authorization": credential} if credential else {}
        for token in ("", "&t=garbage", "&t=1.x", f"&t={room.credentials['user'].removeprefix('Bearer ')}"):
            url = f"{server.base_url}/studio/runs/none?wsid={wsid}{token}"
            room.session.cookies.clear()
            answer = room.session.get(url, headers=headers, timeout=60)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "InvalidStudioLink"), name


def test_a_key_stops_at_once_and_the_other_goes_on(ml_client: Any, room: Room) -> None:
    uri = room.planes["score-guarded"][1]
    before = ml_client.online_endpoints.get_keys("guarded")

    def status(key: str) -> int:
        import requests

        headers = {"Authorization": f"Bearer {key}"}
        return requests.post(uri, json=BODY, headers=headers, timeout=60).status_code

    assert (status(before.primary_key), status(before.secondary_key)) == (200, 200)
    ml_client.online_endpoints.begin_regenerate_keys("guarded", key_type="secondary").result()
    assert (status(before.primary_key), status(before.secondary_key)) == (200, 401)
    ml_client.online_endpoints.begin_regenerate_keys("guarded", key_type="primary").result()
    after = ml_client.online_endpoints.get_keys("guarded")
    assert (status(before.primary_key), status(after.primary_key), status(after.secondary_key)) == (
        401,
        200,
        200,
    )


def test_another_auth_mode_ends_the_old_credentials(ml_client: Any, room: Room) -> None:
    import json

    import requests

    uri = room.planes["score-guarded"][1]
    key = ml_client.online_endpoints.get_keys("guarded").primary_key
    found = ml_client.online_endpoints.get("guarded")
    found.auth_mode = "aml_token"
    ml_client.online_endpoints.begin_create_or_update(found).result()
    token = ml_client.online_endpoints.get_keys("guarded").access_token
    for credential, wanted in ((key, 401), (token, 200)):
        answer = requests.post(uri, json=BODY, headers={"Authorization": f"Bearer {credential}"}, timeout=60)
        assert answer.status_code == wanted
    found.auth_mode = "key"
    ml_client.online_endpoints.begin_create_or_update(found).result()
    for credential, wanted in ((key, 200), (token, 401)):
        answer = requests.post(uri, json=BODY, headers={"Authorization": f"Bearer {credential}"}, timeout=60)
        assert answer.status_code == wanted
    assert json.loads(requests.post(uri, json=BODY, headers={"Authorization": f"Bearer {key}"}).text) == ["x"]


@pytest.mark.parametrize("name", MODES)
def test_invoke_finds_the_credential_of_each_mode(
    ml_client: Any, room: Room, tmp_path: Path, name: str
) -> None:
    import json

    request = tmp_path / "request.json"
    request.write_text(json.dumps(BODY))
    # Named, because the SDK goes on sending the deployment that an earlier test has named.
    answer = ml_client.online_endpoints.invoke(name, request_file=str(request), deployment_name="blue")
    assert json.loads(answer) == ["x"]
