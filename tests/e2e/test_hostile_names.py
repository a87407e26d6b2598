"""Names that attack: over every path parameter of every ARM route, and bodies of the wrong types."""

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
from flask import Blueprint, Flask

from amlocal.emulator.arm import registry
from amlocal.emulator.storage.names import check_container

ATOMS = (
    "../", "..", "%2e%2e", "%2e%2e%2f", "%252e%252e%252f", "..%5c", "%5c", ";", "%00", "%c0%ae%c0%ae%c0%af",
    "$(id)", "%60id%60", "%7c", "%0d%0a", "%ff%fe", "%e2%80%ae", "%27%22", "%3Cscript%3E", "*", "%20", "&",
    "~",
)  # fmt: skip
NUMBER = 500
GOOD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}\Z")


def names() -> list[str]:
    """Made from a seed, so that a failure can be seen again."""
    chosen = random.Random(20261121)
    made = [*ATOMS, "A" * 10_000, "%2e" * 3_000, "../" * 40 + "etc/passwd", "-rf", ".hidden"]
    while len(made) < NUMBER:
        parts = chosen.choices(
            (*ATOMS, "a", "etc", "passwd", "secrets", "amlocal.db"), k=chosen.randint(2, 6)
        )
        name = "".join(parts)
        if not GOOD.match(unquote(name)):  # many dots and dashes within are Azure's own rule
            made.append(name)
    return made


def rules(server: Any) -> list[tuple[str, str]]:
    """(method, rule) of every route of the declared resources, with the workspace filled in."""

    class Nothing:
        pass

    app = Flask("routes")
    made: Blueprint = registry.create_blueprint(Nothing())  # type: ignore[arg-type]
    app.register_blueprint(made)
    found = []
    for rule in app.url_map.iter_rules():
        path = rule.rule
        if "<kind>" in path or "<workspace>/" not in path:
            continue
        path = server.workspace_path + path.partition("<workspace>")[2]
        found += [(m, path) for m in sorted(rule.methods or ()) if m not in ("HEAD", "OPTIONS")]
    jobs = f"{server.workspace_path}/jobs/<job>"
    found += [("GET", jobs), ("PUT", jobs), ("PATCH", jobs), ("DELETE", jobs), ("POST", f"{jobs}/cancel")]
    history = f"/history/v1.0{server.workspace_path}/runs/<run>/details"
    return [*found, ("GET", history), ("GET", "/operations/<identity>")]


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


def test_hostile_names_are_refused(server: Any, asker: Any) -> None:
    before = files(server.root)
    outside = sorted(os.listdir(server.root.parent))
    body = json.dumps({"properties": {"computeType": "AmlCompute"}}).encode()
    places = [
        (method, rule[: match.start()], rule[match.end() :])
        for method, rule in rules(server)
        for match in re.finditer(r"<\w+(?::\w+)?>", rule)
    ]
    assert len(places) > 40
    generated = names()
    assert len(generated) >= NUMBER
    wrong = []
    for number, name in enumerate(generated):
        # Every place in turn, and every name in several places.
        for offset in range(3):
            method, head, tail = places[(number * 3 + offset) % len(places)]
            path = re.sub(r"<\w+(?::\w+)?>", "good", head + "\n" + tail).replace("\n", name)
            code, content = asker(method, path, body if method in ("PUT", "PATCH", "POST") else None)
            # A slash makes it another path, which may be one that Azure has and amlocal refuses by name.
            if not 400 <= code < 500 and not (code == 501 and b"is not there yet" in content):
                wrong.append((method, path[:200], code, content[:200]))
            elif content.startswith(b"{"):
                assert set(json.loads(content)["error"]) >= {"code", "message"}, path[:200]
    assert wrong == []
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
