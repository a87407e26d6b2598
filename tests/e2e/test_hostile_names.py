"""Names that attack: over every path parameter of every route, and bodies of the wrong types."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from amlocal.emulator import settings, worker
from amlocal.emulator.app import create_app
from amlocal.emulator.storage.names import check_container

PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")

ATOMS = (
    "../", "..", "%2e%2e", "%2e%2e%2f", "%252e%252e%252f", "..%5c", "%5c", ";", "%00", "%c0%ae%c0%ae%c0%af",
    "$(id)", "%60id%60", "%7c", "%0d%0a", "%ff%fe", "%e2%80%ae", "%27%22", "%3Cscript%3E", "*", "%20", "&",
    "~",
)  # fmt: skip
GOOD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}\Z")


def names(number: int) -> list[str]:
    """Made from a seed, so that a failure can be seen again."""
    chosen = random.Random(20261121)
    made = [*ATOMS, "A" * 10_000, "%2e" * 3_000, "../" * 40 + "etc/passwd", "-rf", ".hidden"]
    while len(made) < number:
        parts = chosen.choices(
            (*ATOMS, "a", "etc", "passwd", "secrets", "amlocal.db"), k=chosen.randint(2, 6)
        )
        name = "".join(parts)
        if not GOOD.match(unquote(name)):  # many dots and dashes within are Azure's own rule
            made.append(name)
    return made


@pytest.fixture(scope="module")
def places(server: Any, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str, str]]:
    """(method, path before, path after) of every path parameter of every route but the blobs'."""
    root = tmp_path_factory.mktemp("routes")
    services = worker.build_services(settings.load({"data_dir": str(root)}, {}), root)
    rules = [
        rule for rule in create_app(services).url_map.iter_rules() if not rule.endpoint.startswith("storage.")
    ]
    services.store.close()
    found = []
    for rule in rules:
        methods = sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
        for match in PARAMETER.finditer(rule.rule):
            head, tail = (
                filled(part, server) for part in (rule.rule[: match.start()], rule.rule[match.end() :])
            )
            found += [(method, head, tail) for method in methods]
    return found


def filled(text: str, server: Any) -> str:
    """A part of a rule with the parameters of the tests' workspace; all others are `good`."""
    _, _, subscription, _, group, *_ = server.workspace_path.split("/")
    known = {
        "subscription": subscription,
        "group": group,
        "workspace": "local",
        "version": "v1.0",
        "s1": "subscriptions",
        "s2": "resourceGroups",
        "s3": "providers",
        "s4": "Microsoft.MachineLearningServices",
        "s5": "workspaces",
    }
    return PARAMETER.sub(lambda match: known.get(match[1], "good"), text)


def files(root: Path) -> set[str]:
    """What lies in the data folder, without what the server writes by itself."""
    own = ("logs", "mlflow", "tmp", "amlocal.db")
    found = set()
    for folder, _, entries in os.walk(root):
        for entry in entries:
            relative = os.path.relpath(os.path.join(folder, entry), root)
            if not relative.startswith(own):
                found.add(relative)
    return found


@pytest.fixture
def asker(server: Any) -> Callable[..., tuple[int, Any]]:
    """Raw calls over one connection; paths go out byte for byte."""
    context = ssl.create_default_context(cafile=str(server.folder.tls / "ca.pem"))
    connection = http.client.HTTPSConnection("localhost", server.port, timeout=30, context=context)
    connection._validate_path = lambda path: None  # type: ignore[attr-defined]
    token = server.user_token()

    def ask(method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        path += f"{'&' if '?' in path else '?'}api-version=2024-04-01"
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
        except (http.client.HTTPException, OSError):
            connection.close()
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
        content = answer.read()
        return answer.status, content

    return ask


def test_hostile_names_are_refused(server: Any, asker: Any, places: Any) -> None:
    refuse(server, asker, places, names(500))


@pytest.mark.slow
def test_ten_thousand_hostile_names_are_refused(server: Any, asker: Any, places: Any) -> None:
    refuse(server, asker, places, names(10_000))


def refuse(server: Any, asker: Any, places: list[tuple[str, str, str]], generated: list[str]) -> None:
    before = files(server.root)
    outside = sorted(os.listdir(server.root.parent))
    body = json.dumps({"properties": {"computeType": "AmlCompute"}}).encode()
    assert len(places) > 150
    wrong = []
    for number, name in enumerate(generated):
        # Every place in turn, and every name in several places.
        for offset in range(3):
            method, head, tail = places[(number * 3 + offset) % len(places)]
            path = f"{head}{name}{tail}"
            code, content = asker(method, path, body if method in ("PUT", "PATCH", "POST") else None)
            # A slash makes it another path, which may be one that Azure has and amlocal refuses by name.
            if not 400 <= code < 500 and not (code == 501 and b"is not there yet" in content):
                wrong.append((method, path[:200], code, content[:200]))
            elif content.startswith(b"{"):
                assert set(json.loads(content)["error"]) >= {"code", "message"}, path[:200]
    assert wrong == [], "\n".join(map(str, wrong))
    assert files(server.root) == before
    assert sorted(os.listdir(server.root.parent)) == outside


BODIES = {
    "not-json": b"{",
    "not-utf8": b'{"properties": "\xff"}',
    "a-list": b"[]",
    "a-text": b'"x"',
    "no-properties": b"{}",
    "deep": b"[" * 100_000,
    "properties-list": b'{"properties": []}',
    "properties-null": b'{"properties": null}',
    "tags-list": b'{"tags": [], "properties": {}}',
    "tag-number": b'{"tags": {"a": 1}, "properties": {}}',
    "numbers": json.dumps(
        {
            "properties": dict.fromkeys(
                (
                    "dataUri", "dataType", "modelUri", "modelType", "computeType", "datastoreType",
                    "accountName",
                    "containerName", "tags", "description", "isArchived", "isAnonymous", "jobType", "codeUri",
                    "condaFile", "image", "properties", "authMode", "endpointComputeType", "model", "traffic",
                ),
                7,
            )
        }
    ).encode(),
}  # fmt: skip


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize(
    "path",
    [
        "data/x/versions/1",
        "models/x/versions/1",
        "data/x",
        "codes/x/versions/1",
        "environments/x/versions/1",
        "datastores/x",
        "computes/x",
        "onlineEndpoints/x-1",
        "jobs/x",
    ],
)
def test_bodies_of_the_wrong_types(server: Any, asker: Any, path: str, body: bytes) -> None:
    code, content = asker("PUT", f"{server.workspace_path}/{path}", body)
    assert 400 <= code < 500, content
    assert set(json.loads(content)["error"]) >= {"code", "message"}


def test_an_oversized_body(server: Any, asker: Any) -> None:
    body = b'{"properties": {"x": "' + b"a" * (9 * 1024**2) + b'"}}'
    code, content = asker("PUT", f"{server.workspace_path}/computes/large", body)
    assert code == 413 and json.loads(content)["error"]["code"] == "RequestEntityTooLarge"


def test_containers_of_blobs_have_a_name_rule() -> None:
    from amlocal.emulator.http.errors import AzureError

    for name in ("..", "a/b", "%2e%2e", "A", "a" * 64, "a\0b"):
        with pytest.raises(AzureError):
            check_container(name)
