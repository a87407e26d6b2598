"""What an endpoint may be: names, credentials, identity, own properties, updates, YAML files, deletion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from endpoint_desk import deployment, endpoint, score, scripted

USER_IDENTITY = (
    "/subscriptions/1f3a52c7-60c5-4b3e-9d9d-0c2b7a9c1e11/resourceGroups/team/providers"
    "/Microsoft.ManagedIdentity/userAssignedIdentities/reader"
)
VERSION = "api-version=2024-10-01"


def refusal(act: Callable[[], Any], status: int, code: str) -> str:
    from azure.core.exceptions import HttpResponseError

    with pytest.raises(HttpResponseError) as caught:
        act()
    assert (caught.value.status_code, caught.value.error.code) == (status, code), caught.value.message
    return str(caught.value.error.message)


def put(server: Any, name: str, properties: dict[str, Any], **more: Any) -> tuple[int, Any]:
    body = {"location": "local", "properties": {"authMode": "Key", **properties}, **more}
    answer: tuple[int, Any] = server.call(
        "PUT", f"{server.workspace_path}/onlineEndpoints/{name}?{VERSION}", body
    )
    return answer


def post(server: Any, name: str, action: str) -> tuple[int, Any]:
    path = f"{server.workspace_path}/onlineEndpoints/{name}/{action}?{VERSION}"
    answer: tuple[int, Any] = server.call("POST", path, {"keyType": "Primary"})
    return answer


def test_each_auth_mode_has_its_credentials(server: Any, ml_client: Any) -> None:
    import time

    begin = time.time()
    endpoint(ml_client, "by-key")
    keys = ml_client.online_endpoints.get_keys("by-key")
    assert len({keys.primary_key, keys.secondary_key}) == 2 and len(keys.primary_key) >= 32
    code, answer = post(server, "by-key", "token")
    assert (code, answer["error"]["code"]) == (400, "AuthModeMismatch")
    assert "listKeys" in answer["error"]["message"]

    endpoint(ml_client, "by-token", auth_mode="aml_token")
    assert ml_client.online_endpoints.get("by-token").auth_mode == "aml_token"
    token = ml_client.online_endpoints.get_keys("by-token")
    assert token.token_type == "Bearer" and token.access_token.count(".") == 2
    # Whole seconds: the token may begin up to one second before this test looked at the clock.
    assert begin - 1 + 3600 <= token.expiry_time_utc <= time.time() + 3600
    assert token.expiry_time_utc - token.refresh_after_time_utc == 1440
    for action in ("listKeys", "regenerateKeys"):
        code, answer = post(server, "by-token", action)
        assert (code, answer["error"]["code"]) == (400, "AuthModeMismatch")
    assert "POST .../token" in answer["error"]["message"]
    from azure.ai.ml.exceptions import ValidationException

    with pytest.raises(ValidationException, match="does not use keys"):
        ml_client.online_endpoints.begin_regenerate_keys("by-token")

    endpoint(ml_client, "by-user", auth_mode="aad_token")
    assert ml_client.online_endpoints.get("by-user").auth_mode == "aad_token"
    user = ml_client.online_endpoints.get_keys("by-user")
    import jwt

    claims = jwt.decode(user.access_token, options={"verify_signature": False})
    assert claims["aud"].rstrip("/") == "https://ml.azure.com" and claims["exp"] == user.expiry_time_utc
    for action in ("listKeys", "token", "regenerateKeys"):
        code, answer = post(server, "by-user", action)
        assert (code, answer["error"]["code"]) == (400, "AuthModeMismatch")
    assert "https://ml.azure.com" in answer["error"]["message"]
    assert put(server, "by-nothing", {"authMode": "None"})[1]["error"]["code"] == "InvalidAuthMode"


def test_a_token_ends_with_its_endpoint(ml_client: Any) -> None:
    def status(token: str) -> int:
        uri = ml_client.online_endpoints.get("made-again").scoring_uri
        return int(score(uri, token).status_code)

    tokens = []
    for _ in range(2):
        endpoint(ml_client, "made-again", auth_mode="aml_token")
        tokens.append(ml_client.online_endpoints.get_keys("made-again").access_token)
        # 404: let in, and there is no deployment.
        assert status(tokens[-1]) == 404
        ml_client.online_endpoints.begin_delete("made-again").result()
    endpoint(ml_client, "made-again", auth_mode="aml_token")
    assert [status(token) for token in tokens] == [401, 401]
    found = ml_client.online_endpoints.get("made-again")
    found.tags = {"updated": "yes"}
    token = ml_client.online_endpoints.get_keys("made-again").access_token
    ml_client.online_endpoints.begin_create_or_update(found).result()
    assert status(token) == 404


def test_the_auth_mode_of_an_endpoint_can_be_changed(server: Any, ml_client: Any) -> None:
    # As `az ml online-endpoint update --set auth_mode=...` does: get, change, update.
    endpoint(ml_client, "changing")
    before = ml_client.online_endpoints.get_keys("changing")
    found = ml_client.online_endpoints.get("changing")
    found.auth_mode = "aml_token"
    ml_client.online_endpoints.begin_create_or_update(found).result()
    assert ml_client.online_endpoints.get_keys("changing").access_token
    found.auth_mode = "key"
    ml_client.online_endpoints.begin_create_or_update(found).result()
    assert ml_client.online_endpoints.get_keys("changing").primary_key == before.primary_key


def test_regenerating_one_key_leaves_the_other(ml_client: Any) -> None:
    endpoint(ml_client, "rotating")
    keys = [ml_client.online_endpoints.get_keys("rotating")]
    for kind in ("primary", "secondary"):
        ml_client.online_endpoints.begin_regenerate_keys("rotating", key_type=kind).result()
        keys.append(ml_client.online_endpoints.get_keys("rotating"))
    first, second, third = keys
    assert first.primary_key != second.primary_key == third.primary_key
    assert first.secondary_key == second.secondary_key != third.secondary_key


def test_keys_that_the_user_chose(server: Any, ml_client: Any) -> None:
    own = "the-key-of-the-whole-team-0123456789"
    code, body = put(server, "own-keys", {"keys": {"primaryKey": own}})
    assert code == 201 and own not in str(body) and not body["properties"].get("keys")
    assert ml_client.online_endpoints.get_keys("own-keys").primary_key == own
    assert put(server, "own-keys", {"keys": {"primaryKey": own}})[0] == 200
    code, body = put(server, "own-keys", {"keys": {"primaryKey": own[::-1]}})
    assert (code, body["error"]["code"]) == (409, "KeysCannotBeChanged") and own not in str(body)
    for weak in ("short", own + " ", 7):
        code, body = put(server, "weak-keys", {"keys": {"primaryKey": weak}})
        assert (code, body["error"]["code"]) == (400, "InvalidKeys")
    assert "weak-keys" not in [e.name for e in ml_client.online_endpoints.list()]


@pytest.mark.parametrize(
    "name", ["ab", "a" * 33, "1-begins", "-begins", "ends-", "two--dashes", "under_score"]
)
def test_names_that_azure_refuses(server: Any, name: str) -> None:
    code, body = put(server, name, {})
    assert (code, body["error"]["code"], body["error"]["target"]) == (400, "InvalidResourceName", "name")
    assert "3 to 32 letters, digits and single dashes" in body["error"]["message"]


def test_names_are_of_one_workspace_and_without_case(
    server: Any, ml_client: Any, other_client: Callable[[str, str, str], Any]
) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    # azure-ai-ml writes every name in lower case; other clients do not.
    assert put(server, "Same-Name", {}, tags={"in": "local"})[0] == 201
    other = other_client("1f3a52c7-60c5-4b3e-9d9d-0c2b7a9c1e11", "team", "endpoints-elsewhere")
    with pytest.raises(ResourceNotFoundError):
        other.online_endpoints.get("Same-Name")
    endpoint(other, "same-name", tags={"in": "elsewhere"})
    assert other.online_endpoints.get_keys("same-name").primary_key != (
        ml_client.online_endpoints.get_keys("SAME-NAME").primary_key
    )
    endpoint(ml_client, "same-name", tags={"in": "both"})
    listed = server.call("GET", f"{server.workspace_path}/onlineEndpoints?{VERSION}")[1]["value"]
    assert [item["name"] for item in listed if item["name"].lower() == "same-name"] == ["Same-Name"]
    assert ml_client.online_endpoints.get("same-name").tags == {"in": "both"}
    assert other.online_endpoints.get("same-name").tags == {"in": "elsewhere"}
    assert ml_client.online_endpoints.get("same-name").scoring_uri != (
        other.online_endpoints.get("same-name").scoring_uri
    )


def test_what_a_user_says_of_an_endpoint_comes_back(ml_client: Any) -> None:
    made = endpoint(
        ml_client,
        "described",
        description="digits of the till",
        tags={"team": "vision"},
        properties={"cost-centre": "7"},
        public_network_access="enabled",
    )
    found = ml_client.online_endpoints.get("described")
    for shown in (made, found):
        assert (shown.description, shown.tags) == ("digits of the till", {"team": "vision"})
        assert shown.properties["cost-centre"] == "7"
        assert (shown.public_network_access, shown.kind) == ("Enabled", "Managed")
        assert (shown.provisioning_state, shown.location) == ("Succeeded", "local")
        assert (shown.identity.type, shown.identity.principal_id) == ("system_assigned", None)
        assert shown.openapi_uri == shown.scoring_uri.removesuffix("score") + "swagger.json"
    found.tags, found.description = {"team": "audio"}, "changed"
    found.properties["also"] = "8"
    ml_client.online_endpoints.begin_create_or_update(found).result()
    again = ml_client.online_endpoints.get("described")
    assert (again.tags, again.description) == ({"team": "audio"}, "changed")
    assert (again.properties["cost-centre"], again.properties["also"]) == ("7", "8")
    assert again.properties["createdAt"] == found.properties["createdAt"]
    again.properties["cost-centre"] = "9"
    message = refusal(
        lambda: ml_client.online_endpoints.begin_create_or_update(again), 409, "PropertyCannotBeChanged"
    )
    assert "cost-centre" in message and "Use tags" in message
    # Left out is not removed: properties can be added only.
    endpoint(ml_client, "described")
    assert ml_client.online_endpoints.get("described").properties["cost-centre"] == "7"


def test_a_patch_changes_what_it_names(server: Any, ml_client: Any) -> None:
    endpoint(ml_client, "patched", tags={"a": "b"}, description="stays")
    path = f"{server.workspace_path}/onlineEndpoints/patched?{VERSION}"
    code, body = server.call("PATCH", path, {"tags": {"c": "d"}})
    assert code == 200 and body["tags"] == {"a": "b", "c": "d"}
    assert body["properties"]["description"] == "stays"


def test_the_identity_is_kept_and_cannot_be_changed(server: Any, ml_client: Any) -> None:
    from azure.ai.ml.entities import IdentityConfiguration, ManagedIdentityConfiguration

    user = IdentityConfiguration(
        type="user_assigned",
        user_assigned_identities=[ManagedIdentityConfiguration(resource_id=USER_IDENTITY)],
    )
    endpoint(ml_client, "identified", identity=user)
    shown = ml_client.online_endpoints.get("identified").identity
    assert shown.type == "user_assigned" and shown.principal_id is None
    (assigned,) = shown.user_assigned_identities
    # Nobody has registered that identity anywhere: nothing is made up for it.
    assert (assigned.resource_id, assigned.client_id, assigned.principal_id) == (USER_IDENTITY, None, None)
    found = ml_client.online_endpoints.get("identified")
    found.tags = {"again": "yes"}
    assert ml_client.online_endpoints.begin_create_or_update(found).result().tags == {"again": "yes"}
    message = refusal(lambda: endpoint(ml_client, "identified"), 409, "IdentityCannotBeChanged")
    assert "UserAssigned" in message
    for identity in (
        {"type": "Everybody"},
        {"type": "UserAssigned"},
        {"type": "SystemAssigned", "userAssignedIdentities": {USER_IDENTITY: {}}},
        {"type": "UserAssigned", "userAssignedIdentities": {"user_identity_ARM_id_place_holder": {}}},
        "SystemAssigned",
    ):
        code, body = put(server, "unidentified", {}, identity=identity)
        assert (code, body["error"]["code"]) == (400, "InvalidIdentity"), identity


@pytest.mark.parametrize(
    ("properties", "status", "code"),
    [
        ({"publicNetworkAccess": "Sometimes"}, 400, "InvalidPublicNetworkAccess"),
        ({"properties": {"a": 1}}, 400, "InvalidRequestContent"),
        ({"properties": []}, 400, "InvalidRequestContent"),
        ({"compute": "azureml:inferencecompute"}, 501, "NotImplemented"),
        ({"traffic": {"blue": 100}}, 400, "InvalidTraffic"),
    ],
)
def test_bodies_that_are_refused(server: Any, properties: Any, status: int, code: str) -> None:
    got, body = put(server, "refused-body", properties)
    assert (got, body["error"]["code"]) == (status, code)
    assert server.call("GET", f"{server.workspace_path}/onlineEndpoints/refused-body?{VERSION}")[0] == 404


# The fields that the endpoint files of Azure's own CLI examples use.
FILES = {
    "key": ("auth_mode: key", {"auth_mode": "key"}),
    "aml-token": ("auth_mode: aml_token", {"auth_mode": "aml_token"}),
    "aad-token": ("auth_mode: aad_token", {"auth_mode": "aad_token"}),
    "private": (
        "auth_mode: key\npublic_network_access: disabled",
        {"public_network_access": "Disabled"},
    ),
    "described": (
        "auth_mode: key\ndescription: a till\ntags:\n  tag1: value-1\nproperties:\n  a: b\ntraffic: {}\n"
        "mirror_traffic: {}",
        {"description": "a till", "tags": {"tag1": "value-1"}, "traffic": {}, "mirror_traffic": {}},
    ),
    "system": ("auth_mode: key\nidentity:\n  type: system_assigned", {"auth_mode": "key"}),
    "user": (
        "auth_mode: key\nidentity:\n  type: user_assigned\n  user_assigned_identities:\n"
        f"    - resource_id: {USER_IDENTITY}",
        {"auth_mode": "key"},
    ),
}


@pytest.mark.parametrize(("text", "wanted"), FILES.values(), ids=FILES.keys())
def test_endpoint_files(
    ml_client: Any, tmp_path: Path, request: Any, text: str, wanted: dict[str, Any]
) -> None:
    from azure.ai.ml import load_online_endpoint

    name = f"file-{request.node.callspec.id}"
    file = tmp_path / "endpoint.yml"
    schema = "$schema: https://azuremlschemas.azureedge.net/latest/managedOnlineEndpoint.schema.json"
    file.write_text(f"{schema}\nname: {name}\n{text}\n")
    ml_client.online_endpoints.begin_create_or_update(load_online_endpoint(str(file))).result()
    found = ml_client.online_endpoints.get(name)
    assert {key: getattr(found, key) for key in wanted} == wanted


def test_an_endpoint_goes_with_all_below_it(server: Any, ml_client: Any, tmp_path: Path) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    script = scripted(tmp_path / "code", "x")
    endpoint(ml_client, "going")
    # Not awaited: the deployment is there from its submission on.
    ml_client.online_deployments.begin_create_or_update(deployment("going", "blue", **script))
    ml_client.online_endpoints.begin_delete("going").result()
    with pytest.raises(ResourceNotFoundError):
        ml_client.online_endpoints.get("going")
    path = f"{server.workspace_path}/onlineEndpoints/going"
    assert server.call("GET", f"{path}/deployments/blue?{VERSION}")[0] == 404
    assert server.call("DELETE", f"{path}?{VERSION}")[0] == 204
    endpoint(ml_client, "going")
    assert list(ml_client.online_deployments.list("going")) == []
    assert ml_client.online_endpoints.get("going").traffic == {}
