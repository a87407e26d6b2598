"""Templates and names of workspaces that are refused: kinds, hostile templates, hostile names, bad bodies."""

from __future__ import annotations

import http.client
import json
import random
import ssl
from typing import Any
from urllib.parse import unquote

import pytest
from workspace_desk import PROVIDER, SUBSCRIPTION, deploy, made, path_of, template


@pytest.mark.parametrize("kind", ["hub", "project"])
def test_other_kinds_are_refused_by_name(ml_client: Any, kind: str) -> None:
    from azure.ai.ml.entities import Hub, Project
    from azure.core.exceptions import HttpResponseError

    if kind == "hub":
        wanted: Any = Hub(name="a-hub", location="local")
    else:
        wanted = Project(name="a-project", location="local", hub_id=path_of("local"))
    with pytest.raises(HttpResponseError, match="is not there yet in amlocal") as caught:
        ml_client.workspaces.begin_create(wanted).result()
    assert caught.value.status_code == 501 and wanted.name not in [
        w.name for w in ml_client.workspaces.list()
    ]


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        ({"kind": "hub"}, 501, "A hub"),
        ({"kind": "featurestore"}, 501, "A feature store"),
        ({"storageAccountOption": "existing"}, 501, "storage account of one's own"),
        ({"keyVaultOption": "existing"}, 501, "key vault of one's own"),
        ({"applicationInsightsOption": "existing"}, 501, "Application Insights"),
        ({"containerRegistryOption": "existing"}, 501, "container registry"),
        ({"encryption_status": "Enabled"}, 501, "Encryption"),
        ({"privateEndpointType": "AutoApproval"}, 501, "Microsoft.Resources/deployments"),
        ({"vnetOption": "new"}, 501, "Microsoft.Network/virtualNetworks"),
        ({"managedNetwork": {"isolationMode": "AllowInternetOutbound"}}, 501, "Managed networks"),
        ({"identity": {"type": "UserAssigned"}}, 501, "user-assigned"),
        ({"workspaceName": "../x"}, 400, "not a valid name"),
        ({"workspaceName": "ab"}, 400, "not a valid name"),
        ({"workspaceName": "[concat('a', 'bcd')]"}, 400, "not a valid name"),  # a value is no expression
        ({"publicNetworkAccess": "Sometimes"}, 400, "publicNetworkAccess"),
        ({"location": "../etc"}, 400, "location"),
        ({"location": ""}, 400, "location"),
        ({"tagValues": {"a": 1}}, 400, "tags"),
        ({"kind": "nonsense"}, 400, "kind"),
        ({"noSuchParameter": 1}, 400, "no parameter"),
    ],
)
def test_templates_that_are_refused(server: Any, more: dict[str, Any], code: int, words: str) -> None:
    status, answer = deploy(server, template(**more))
    assert status == code and words in answer["error"]["message"], answer
    assert server.call("GET", path_of("from-template"))[0] == 404


def expressions(text: Any, **more: Any) -> dict[str, Any]:
    resource = {"type": f"{PROVIDER.partition('/')[2]}/workspaces", "name": text, "location": "local"}
    return {"properties": {"template": {"resources": [resource], **more}, "parameters": {}}}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"properties": []},
        {"properties": {"template": "x"}},
        {"properties": {"template": {"resources": {}}}},
        {"properties": {"template": {"resources": [7]}}},
        {"properties": {"template": {"resources": []}}},
        {"properties": {"template": {"resources": [{"type": 7}]}}},
        {"properties": {"template": {"resources": [], "variables": []}}},
        {"properties": {"template": {"resources": []}, "parameters": [1]}},
        expressions(7),
        expressions(None),
        expressions("[concat("),
        expressions("[" + "concat(" * 3000 + ")" * 3000 + "]"),
        expressions("[variables('a')]", variables={"a": "[variables('a')]"}),
        expressions(
            "[variables('v30')]",
            variables={
                "v0": "x" * 1000,
                **{f"v{n + 1}": f"[concat(variables('v{n}'), variables('v{n}'))]" for n in range(30)},
            },
        ),
        expressions("[reference('x').secret]"),
        expressions("[parameters('nothing')]"),
        expressions("[json('{')]"),
        expressions("[subscription().nothing]"),
        expressions("[toLower(json('7'))]"),
        expressions("[if('x', 'y', 'z')]"),
        expressions("[resourceId('a')]"),
    ],
)
def test_hostile_templates(server: Any, body: Any) -> None:
    code, answer = deploy(server, body)
    assert code == 400 and answer["error"]["code"].startswith("Invalid"), answer


def test_a_template_of_ones_own(server: Any) -> None:
    body = expressions(
        "[concat(toLower(parameters('prefix')), '-', variables('end'))]",
        parameters={"prefix": {"type": "string", "defaultValue": "OWN"}},
        variables={"end": "[if(equals(resourceGroup().name, 'local'), 'here', 'there')]"},
    )
    code, answer = deploy(server, body, "own-1")
    assert code == 201 and answer["properties"]["provisioningState"] == "Succeeded"
    assert server.call("GET", path_of("own-here"))[0] == 200
    assert deploy(server, body, "own-1")[0] == 200
    listed = server.call(
        "GET", f"/subscriptions/{SUBSCRIPTION}/resourcegroups/local/deployments/own-1/operations"
    )[1]["value"]
    assert [one["properties"]["targetResource"]["id"] for one in listed] == [path_of("own-here")]
    assert deploy(server, body, "a" * 65)[0] == 400


ATOMS = (
    "../", "..", "%2e%2e", "%2e%2e%2f", "%252e%252e%252f", "..%5c", "%5c", ";", "%00", "%c0%ae%c0%ae%c0%af",
    "$(id)", "%60id%60", "%7c", "%0d%0a", "%ff%fe", "%e2%80%ae", "%27%22", "%3Cscript%3E", "*", "%20", "&",
    "~",
)  # fmt: skip


def hostile_names() -> list[str]:
    """Made from a seed, so that a failure can be seen again."""
    chosen = random.Random(20261122)
    found = [*ATOMS, "A" * 10_000, "%2e" * 3_000, "../" * 40 + "etc/passwd", "-rf", ".hidden", "a" * 34]
    while len(found) < 500:
        name = "".join(chosen.choices((*ATOMS, "a", "etc", "secrets", "amlocal.db"), k=chosen.randint(2, 6)))
        if any(not character.isalnum() and character not in "-_" for character in unquote(name)):
            found.append(name)
    return found


def test_hostile_names_of_subscriptions_groups_and_workspaces(server: Any) -> None:
    context = ssl.create_default_context(cafile=str(server.folder.tls / "ca.pem"))
    connection = http.client.HTTPSConnection("localhost", server.port, timeout=30, context=context)
    connection._validate_path = lambda path: None  # type: ignore[attr-defined,method-assign]
    token = server.user_token()
    resources = "providers/Microsoft.Resources/deployments/d"
    places = [
        (method, f"{head}/subscriptions/{s}/resourceGroups/{g}/{PROVIDER}/workspaces/{w}{tail}")
        for s, g, w in (
            ("{}", "local", "good-1"), (SUBSCRIPTION, "{}", "good-1"), (SUBSCRIPTION, "local", "{}"),
        )
        for method, head, tail in (
            ("GET", "", ""), ("PUT", "", ""), ("PATCH", "", ""), ("DELETE", "", ""),
            ("POST", "", "/listKeys"), ("POST", "", "/diagnose"), ("GET", "", "/jobs"),
            ("PUT", "", "/connections/good"),
            ("GET", "/history/v1.0", "/runs/x/details"), ("GET", "/mlflow/v1.0", "/api/2.0/mlflow/runs/get"),
        )
        if not (method == "PUT" and g == "{}" and tail == "")
    ] + [
        ("PUT", f"/subscriptions/{{}}/resourceGroups/local/{resources}"),
        ("PUT", f"/subscriptions/{SUBSCRIPTION}/resourceGroups/local/{resources[:-1]}{{}}"),
        ("GET", f"/subscriptions/{SUBSCRIPTION}/resourceGroups/local/deployments/{{}}/operations"),
        ("GET", "/subscriptions/{}"),
        ("GET", f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{{}}"),
    ]  # fmt: skip
    body = json.dumps({"location": "local", "properties": {}}).encode()
    before = server.call("GET", "/_amlocal/workspaces")[1]
    wrong = []
    for number, name in enumerate(hostile_names()):
        for offset in range(3):
            method, place = places[(number * 3 + offset) % len(places)]
            path = place.replace("{}", name)
            try:
                connection.request(
                    method,
                    path,
                    body if method in ("PUT", "PATCH", "POST") else None,
                    {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
                )
                answer = connection.getresponse()
                content = answer.read()
            except (http.client.HTTPException, OSError):
                connection.close()  # the server ends a connection whose request line is no request line
                continue
            if not 400 <= answer.status < 500 and not (answer.status == 501 and b"not there yet" in content):
                wrong.append((method, path[:200], answer.status, content[:200]))
            elif content.startswith(b"{"):
                assert set(json.loads(content)["error"]) >= {"code", "message"}, path[:200]
    connection.close()
    assert wrong == []
    assert server.call("GET", "/_amlocal/workspaces")[1] == before


@pytest.mark.parametrize(
    ("subscription", "name", "words"),
    [("not-a-guid", "good-1", "GUID"), (SUBSCRIPTION, "ab", "3 to 33"), (SUBSCRIPTION, "a" * 34, "3 to 33")],
)
def test_names_that_azure_refuses(server: Any, subscription: str, name: str, words: str) -> None:
    path = path_of(name, subscription=subscription)
    code, answer = server.call("PUT", path, {"location": "local", "properties": {}})
    assert code == 400 and words in answer["error"]["message"]
    assert server.call("GET", path)[0] == 404


def test_a_group_name_that_azure_refuses(server: Any) -> None:
    body = {"location": "local", "properties": {}}
    code, answer = server.call("PUT", path_of("good-1", group="ends-with."), body)
    assert (code, answer["error"]["code"]) == (400, "InvalidResourceName")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"properties": []}, 400),
        ({"location": 7}, 400),
        ({"location": "local", "tags": []}, 400),
        ({"location": "local", "properties": {"description": 7}}, 400),
        ({"location": "local", "properties": {"hbiWorkspace": "perhaps"}}, 400),
        ({"location": "local", "properties": {"encryption": 7}}, 400),
        ({"location": "local", "properties": {"encryption": {"keyVaultProperties": 7}}}, 400),
        ({"location": "local", "properties": {"networkAcls": {"defaultAction": "Deny"}}}, 501),
        ({"location": "local", "identity": "me"}, 400),
        ({"location": "local", "kind": 7}, 400),
        ({"location": "local", "properties": {"storageAccount": "/subscriptions/s"}}, 501),
    ],
)
def test_bodies_that_are_refused(server: Any, body: Any, code: int) -> None:
    status, answer = server.call("PUT", path_of("never-good"), body)
    assert status == code, answer
    assert server.call("GET", path_of("never-good"))[0] == 404


def test_what_cannot_change(server: Any) -> None:
    made(server, "settled", location="eastus")
    code, answer = server.call("PUT", path_of("settled"), {"location": "westus"})
    assert (code, answer["error"]["code"]) == (409, "InvalidResourceLocation")
    code, answer = server.call("PATCH", path_of("settled"), {"properties": {"hbiWorkspace": True}})
    assert code == 409 and server.call("GET", path_of("settled"))[1]["location"] == "eastus"
