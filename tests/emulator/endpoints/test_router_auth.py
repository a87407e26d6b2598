"""Who is let in by the router: the matrix of authentication modes and credentials."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from amlocal.compat import cloud
from amlocal.compat.tokens import TokenError, TokenIssuer, TokenVerifier
from amlocal.emulator.endpoints import endpoint_tokens
from amlocal.emulator.endpoints.keys import generate_key
from amlocal.emulator.endpoints.route_table import EndpointRoute

if TYPE_CHECKING:
    from conftest import Seen, Stage

OTHER_WORKSPACE = "11111111-2222-3333-4444-555555555555"
BASE_URL = "https://localhost:4265"
ISSUER = "https://issuer.example/"


def credentials(stage: Stage, folder: Path) -> dict[str, str]:
    """Every kind of thing that a caller might carry."""
    issuer = stage.issuer
    long_ago = TokenIssuer(stage.folder / "signing_key.pem", "https://sts.amlocal.localhost/", lambda: 1e9)
    stranger = TokenIssuer(folder / "stranger.pem", "https://sts.amlocal.localhost/")
    header, _, rest = issuer.issue("https://ml.azure.com").partition(".")

    def own(signer: TokenIssuer, workspace: str, endpoint: str, created: str = stage.created) -> str:
        return endpoint_tokens.issue(signer, workspace, endpoint, created).token

    unsigned = f"{header}.{rest.rpartition('.')[0]}."
    return {
        "key": stage.keys.primary,
        "second key": stage.keys.secondary,
        "another endpoint's key": generate_key(),
        "AML token": own(issuer, stage.workspace, "Digits"),
        "AML token of another endpoint": own(issuer, stage.workspace, "letters"),
        "AML token of another workspace": own(issuer, OTHER_WORKSPACE, "digits"),
        "AML token of a deleted endpoint": own(issuer, stage.workspace, "digits", "2026-01-01T00:00:00"),
        "expired AML token": own(long_ago, stage.workspace, "digits"),
        "forged AML token": own(stranger, stage.workspace, "digits"),
        "user's token": issuer.issue("https://ml.azure.com"),
        "user's token with a slash": issuer.issue("https://ml.azure.com/"),
        "token for the control plane": issuer.issue("https://management.azure.com"),
        "token for another audience": issuer.issue("https://graph.microsoft.com"),
        "expired user's token": long_ago.issue("https://ml.azure.com"),
        "forged user's token": stranger.issue("https://ml.azure.com"),
        "unsigned user's token": unsigned,
        "job's token": issuer.issue(f"{BASE_URL}/jobs", wsid=stage.workspace, run="r"),
        "nothing": "-",
    }


OPEN = {
    "Key": {"key", "second key"},
    "AMLToken": {"AML token"},
    "AADToken": {"user's token", "user's token with a slash", "token for the control plane"},
}


@pytest.mark.parametrize("mode", list(OPEN))
def test_each_mode_takes_its_own_credentials_only(stage: Stage, tmp_path: Path, mode: str) -> None:
    stage.reset(auth_mode=mode)
    let_in = set()
    for name, value in credentials(stage, tmp_path).items():
        for method, path in (("POST", "score"), ("GET", "swagger.json"), ("GET", "")):
            answer = stage.ask(path, method=method, Authorization=f"Bearer {value}")
            if answer.status_code == 200:
                let_in.add(name)
                continue
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "Unauthorized"), (name, path)
            assert answer.headers["www-authenticate"].startswith("Bearer"), name
            assert value == "-" or value not in answer.text, name
    assert let_in == OPEN[mode]
    # What was refused has not reached a scorer, and no scorer gets to see a credential.
    assert len(stage.scorers["blue"].seen) == 3 * len(let_in)
    assert all("authorization" not in seen.headers for seen in stage.scorers["blue"].seen)


def test_no_header_and_other_schemes(stage: Stage) -> None:
    url = f"{stage.url}/{stage.workspace}/digits/score"
    for mode in OPEN:
        stage.reset(auth_mode=mode)
        # What has no body leaves the connection as it is; the rest of a refused body would be in the way.
        for body, closed in ((None, None), (b"", None), (b"x", "close")):
            refused = stage.client.post(url, content=body)
            assert (refused.status_code, refused.headers.get("connection")) == (401, closed)
        basic = {"Authorization": f"Basic {stage.keys.primary}"}
        assert stage.client.post(url, headers=basic).status_code == 401


def test_a_key_opens_the_endpoint_of_its_own_workspace_only(stage: Stage) -> None:
    other = stage.new_keys()
    route = EndpointRoute(
        key_hashes=other.hashes(), traffic={"blue": 100}, deployments={"blue": stage.deployment("blue")}
    )
    stage.routes.put(OTHER_WORKSPACE, "digits", route)

    def status(workspace: str, key: str) -> int:
        url = f"{stage.url}/{workspace}/digits/score"
        return stage.client.post(url, headers={"Authorization": f"Bearer {key}"}).status_code

    assert status(stage.workspace, stage.keys.primary) == status(OTHER_WORKSPACE, other.primary) == 200
    assert status(stage.workspace, other.primary) == status(OTHER_WORKSPACE, stage.keys.primary) == 401


def test_why_a_token_was_refused_is_said(stage: Stage, tmp_path: Path) -> None:
    stage.reset(auth_mode="AMLToken")
    expired = stage.post(Authorization=f"Bearer {credentials(stage, tmp_path)['expired AML token']}")
    assert (
        'error="invalid_token", error_description="the token has expired"'
        in (expired.headers["www-authenticate"])
    )
    assert "the token has expired" in expired.json()["error"]["message"]


def test_an_unknown_mode_opens_to_nobody(stage: Stage) -> None:
    stage.reset(auth_mode="Open")
    answer: httpx.Response = stage.post()
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "AuthModeNotSupported")


def test_metrics_are_for_users_only(stage: Stage, tmp_path: Path) -> None:
    opens = set()
    for name, value in credentials(stage, tmp_path).items():
        answer = stage.client.get(f"{stage.url}/metrics", headers={"Authorization": f"Bearer {value}"})
        if answer.status_code == 200:
            opens.add(name)
        else:
            assert answer.status_code == 401 and "amlocal_" not in answer.text
    assert opens == OPEN["AADToken"]


def test_loose_takes_any_bearer_but_not_none(loose_stage: Stage) -> None:
    stage = loose_stage
    for mode in OPEN:
        stage.reset(auth_mode=mode)
        for value in ("anything", stage.keys.primary, stage.issuer.issue("https://ml.azure.com")):
            assert stage.post(Authorization=f"Bearer {value}").status_code == 200
            assert "authorization" not in stage.scorers["blue"].seen[-1].headers
        for value in ("", "Bearer", f"Basic {stage.keys.primary}"):
            refused = stage.post(Authorization=value)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "Unauthorized")
    url = f"{stage.url}/metrics"
    assert stage.client.get(url).status_code == 401
    assert stage.client.get(url, headers={"Authorization": "Bearer any"}).status_code == 200


def test_a_connection_that_is_kept_does_not_hold_up_the_end(loose_stage: Stage) -> None:
    stage = loose_stage
    # Before and after the answer: one is in the middle of a request when the router is told to end.
    came, go_on = threading.Event(), threading.Event()

    def slow(seen: Seen) -> bytes:
        came.set()
        assert go_on.wait(20)
        return stage.answer()

    assert stage.client.get(f"{stage.url}/ready").status_code == 200
    stage.behave("blue", slow)
    answers: list[int] = []
    client = stage.new_client()
    thread = threading.Thread(target=lambda: answers.append(stage.post(client=client).status_code))
    thread.start()
    assert came.wait(20)
    stage.router.terminate()
    go_on.set()
    thread.join(20)
    assert answers == [200]
    # Without a limit each of the two would be waited for for 30 seconds.
    assert stage.router.wait(15) == -signal.SIGTERM
    client.close()


def test_times_of_an_endpoint_token(tmp_path: Path) -> None:
    now = 1_700_000_000.0
    issuer = TokenIssuer(tmp_path / "key.pem", ISSUER, lambda: now)
    access = endpoint_tokens.issue(issuer, "W-1", "Digits", "then")
    assert (access.expires, access.refresh_after) == (1_700_003_600, 1_700_002_160)
    assert access.token not in repr(access)

    def verify(
        moment: float, workspace: str = "w-1", endpoint: str = "digits", created: str = "then"
    ) -> None:
        verifier = TokenVerifier(issuer.public_key, ISSUER, lambda: moment)
        endpoint_tokens.verify(verifier, access.token, workspace, endpoint, created)

    verify(now + 3599)
    with pytest.raises(TokenError, match="expired"):
        verify(now + 3600)
    for workspace, endpoint in (("w-2", "digits"), ("w-1", "digit"), ("w-1", "digits2")):
        with pytest.raises(TokenError, match="another audience"):
            verify(now, workspace, endpoint)
    for created in ("later", ""):
        with pytest.raises(TokenError, match="has been deleted"):
            verify(now, created=created)
    with pytest.raises(TokenError, match="another audience"):
        issuer.verify(access.token, cloud.audiences(BASE_URL))


def test_a_verifier_holds_no_private_key(tmp_path: Path) -> None:
    issuer = TokenIssuer(tmp_path / "key.pem", ISSUER)
    verifier = TokenVerifier(issuer.public_key, ISSUER)
    assert not hasattr(verifier, "issue") and not hasattr(verifier, "_key")
    assert verifier.verify(issuer.issue("a"), ["a"])["aud"] == "a"
    with pytest.raises(ValueError):
        TokenVerifier(b"no key", ISSUER)


def test_the_router_loads_neither_torch_nor_mlflow_nor_httpx() -> None:
    code = (
        "import sys, amlocal.emulator.endpoints.router; "
        "heavy = ('torch', 'mlflow', 'mltable', 'httpx', 'flask', 'sqlalchemy'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
