"""Connections by the unmodified SDK: every kind, what is shown, what is secret, what is refused."""

from __future__ import annotations

import sqlite3
import stat
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SECRET = "s3cr3t-that-nobody-may-see"


def entity(kind: str, name: str) -> Any:
    """A connection of that kind, as users write it."""
    from azure.ai.ml import entities as e

    user = e.UsernamePasswordConfiguration(username="me", password=SECRET)
    service = e.ServicePrincipalConfiguration(client_id="c", client_secret=SECRET, tenant_id="t")
    key = e.AccessKeyConfiguration(access_key_id="id", secret_access_key=SECRET)
    made = {
        "git": lambda: e.WorkspaceConnection(
            name=name,
            type="git",
            target="https://example.com/r.git",
            credentials=e.PatTokenConfiguration(pat=SECRET),
        ),
        "git-open": lambda: e.WorkspaceConnection(
            name=name,
            type="git",
            target="https://example.com/r.git",
            credentials=e.NoneCredentialConfiguration(),
        ),
        "feed": lambda: e.WorkspaceConnection(
            name=name, type="python_feed", target="https://example.com/simple", credentials=user
        ),
        "registry": lambda: e.WorkspaceConnection(
            name=name, type="container_registry", target="example.azurecr.io", credentials=user
        ),
        "s3": lambda: e.WorkspaceConnection(name=name, type="s3", target="bucket", credentials=key),
        "sql": lambda: e.WorkspaceConnection(
            name=name, type="azure_sql_db", target="Server=x", credentials=user, metadata={"a": "b"}
        ),
        "lake": lambda: e.WorkspaceConnection(
            name=name,
            type="azure_data_lake_gen2",
            target="https://x.dfs.core.windows.net",
            credentials=service,
        ),
        "blob-sas": lambda: e.AzureBlobStoreConnection(
            name=name,
            url="https://x.blob.core.windows.net/c",
            container_name="c",
            account_name="x",
            credentials=e.SasTokenConfiguration(sas_token=SECRET),
        ),
        "api-key": lambda: e.APIKeyConnection(name=name, api_base="https://example.com", api_key=SECRET),
        "open-ai": lambda: e.AzureOpenAIConnection(
            name=name, azure_endpoint="https://o.example.com", api_key=SECRET, api_version="2024-02-01"
        ),
        "search": lambda: e.AzureAISearchConnection(
            name=name, endpoint="https://s.example.com", api_key=SECRET
        ),
        "serp": lambda: e.SerpConnection(name=name, api_key=SECRET),
        "custom": lambda: e.WorkspaceConnection(
            name=name,
            type="custom",
            target="https://example.com",
            credentials=e.ApiKeyConfiguration(key=SECRET),
            metadata={"purpose": "test"},
        ),
        "identity": lambda: e.WorkspaceConnection(
            name=name,
            type="container_registry",
            target="example.azurecr.io",
            credentials=e.ManagedIdentityConfiguration(client_id="c", resource_id="r"),
        ),
    }
    return made[kind]()


KINDS = (
    "git", "git-open", "feed", "registry", "s3", "sql", "lake", "blob-sas", "api-key", "open-ai", "search",
    "serp", "custom", "identity",
)  # fmt: skip


# The wire's names of the kinds that have another one for users.
_WIRE = {"custom": "custom_keys", "azure_data_lake_gen2": "ADLSGen2", "azure_ai_search": "cognitive_search"}


def wanted_type(connection: Any) -> str:
    """What to list by."""
    return _WIRE.get(connection.type, connection.type)


def path_of(server: Any, name: str) -> str:
    return f"{server.workspace_path}/connections/{name}"


def secrets_of(server: Any, name: str) -> dict[str, Any]:
    code, answer = server.call("POST", f"{path_of(server, name)}/listsecrets")
    assert code == 200, answer
    found: dict[str, Any] = answer["properties"].get("credentials", {})
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(ml_client: Any, server: Any, kind: str) -> None:
    name = f"c-{kind}"
    wanted = entity(kind, name)
    created = ml_client.connections.create_or_update(wanted)
    # Witness: another operation, and the bytes in the database.
    found = ml_client.connections.get(name)
    listed = {one.name: one for one in ml_client.connections.list(wanted_type(wanted))}[name]
    for shown in (created, found, listed):
        assert (shown.type, shown.target) == (wanted.type, wanted.target)
        assert type(shown) is type(wanted) and type(shown.credentials) is type(wanted.credentials)
        assert SECRET not in str(shown._to_rest_object().as_dict())
    assert (found.metadata or {}) == (wanted.metadata or {})
    for place in (path_of(server, name), f"{server.workspace_path}/connections?includeAll=true"):
        assert SECRET not in str(server.call("GET", place)[1])
    credentials = secrets_of(server, name)
    if kind not in ("git-open", "identity"):
        assert SECRET in credentials.values()
    else:
        assert credentials == ({} if kind == "git-open" else {"clientId": "c", "resourceId": "r"})


def test_populating_secrets(ml_client: Any) -> None:
    made = ml_client.connections.create_or_update(entity("api-key", "filled"), populate_secrets=True)
    assert made.credentials.key == SECRET
    assert ml_client.connections.get("filled").credentials.key is None
    assert ml_client.connections.get("filled", populate_secrets=True).credentials.key == SECRET
    listed = {one.name: one for one in ml_client.connections.list(populate_secrets=True)}
    assert listed["filled"].credentials.key == SECRET


def test_get_of_what_is_not_there(ml_client: Any) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    with pytest.raises(ResourceNotFoundError) as caught:
        ml_client.connections.get("never-made", populate_secrets=True)
    assert caught.value.error.code == "ResourceNotFound" and "never-made" in caught.value.message


def test_changing_what_get_showed_keeps_the_secret(ml_client: Any, server: Any) -> None:
    ml_client.connections.create_or_update(entity("feed", "kept"))
    shown = ml_client.connections.get("kept")
    shown._target = "https://example.com/other"
    ml_client.connections.create_or_update(shown)
    assert ml_client.connections.get("kept").target == "https://example.com/other"
    assert secrets_of(server, "kept") == {"username": "me", "password": SECRET}
    code, _ = server.call("PATCH", path_of(server, "kept"), {"properties": {"metadata": {"a": "b"}}})
    assert code == 200 and secrets_of(server, "kept")["password"] == SECRET
    assert ml_client.connections.get("kept").metadata == {"a": "b"}
    # With another way of signing in nothing of the old one is left.
    body = {"category": "PythonFeed", "target": "https://e", "authType": "PAT", "credentials": {"pat": "p"}}
    assert server.call("PUT", path_of(server, "kept"), {"properties": body})[0] == 200
    assert secrets_of(server, "kept") == {"pat": "p"}


def test_list_by_kind_and_data_connections(server: Any, other_client: Callable[..., Any]) -> None:
    subscription = str(uuid.uuid4())
    theirs = other_client(subscription, "group", "connected")
    for kind in ("git", "s3", "blob-sas", "lake"):
        theirs.connections.create_or_update(entity(kind, f"c-{kind}"))

    def names(*kind: str, **more: Any) -> list[str]:
        return sorted(one.name for one in theirs.connections.list(*kind, **more))

    assert names() == ["c-git", "c-s3"]
    path = server.workspace_path.replace("00000000-0000-0000-0000-000000000000", subscription)
    path = path.replace("resourceGroups/local", "resourceGroups/group").replace(
        "workspaces/local", "workspaces/connected"
    )
    everything = server.call("GET", f"{path}/connections?includeAll=true")[1]["value"]
    assert sorted(one["name"] for one in everything) == ["c-blob-sas", "c-git", "c-lake", "c-s3"]
    assert names("git") == ["c-git"] and names("azure_blob") == ["c-blob-sas"] and names("serp") == []


def test_delete(ml_client: Any, server: Any) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    ml_client.connections.create_or_update(entity("git", "short-lived"))
    ml_client.connections.delete("short-lived")
    with pytest.raises(ResourceNotFoundError):
        ml_client.connections.get("short-lived")
    assert "short-lived" not in [one.name for one in ml_client.connections.list()]
    assert server.call("POST", f"{path_of(server, 'short-lived')}/listsecrets")[0] == 404
    ml_client.connections.delete("short-lived")  # as in Azure, once more is no error


def test_delete_of_a_bad_name(ml_client: Any) -> None:
    from azure.core.exceptions import HttpResponseError

    with pytest.raises(HttpResponseError) as caught:
        ml_client.connections.delete("-bad-")
    assert (caught.value.status_code, caught.value.error.code) == (400, "InvalidResourceName")


def test_secrets_lie_in_a_private_file(ml_client: Any, server: Any) -> None:
    name = f"c-{uuid.uuid4().hex[:12]}"
    made = entity("git", name)
    made._credentials.pat = f"pat-{name}"
    ml_client.connections.create_or_update(made)
    database: Path = server.folder.database
    connection = sqlite3.connect(database)
    rows = connection.execute("SELECT body FROM resources WHERE name = ?", (name,)).fetchall()
    connection.close()
    assert len(rows) == 1 and f"pat-{name}" in rows[0][0]
    for path in database.parent.glob("amlocal.db*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert stat.S_IMODE(server.root.stat().st_mode) == 0o700
    assert f"pat-{name}" not in server.logs()


def test_a_restarted_server_has_its_connections(new_server: Callable[[], Any]) -> None:
    server = new_server()
    server.start()
    body = {"category": "git", "target": "https://e", "authType": "pat", "credentials": {"pat": SECRET}}
    assert server.call("PUT", path_of(server, "lasting"), {"properties": body})[0] == 200
    server.stop()
    server.start()
    assert secrets_of(server, "lasting") == {"pat": SECRET}
    shown = server.call("GET", path_of(server, "lasting"))[1]["properties"]
    assert (shown["category"], shown["authType"]) == ("Git", "PAT") and "credentials" not in shown


GOOD = {"category": "Git", "target": "https://e", "authType": "PAT", "credentials": {"pat": SECRET}}


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        ({"category": "Gitt"}, 400, "Did you mean Git"),
        ({"category": 7}, 400, "category"),
        ({"authType": "Handshake"}, 400, "authType"),
        ({"authType": None}, 400, "authType"),
        ({"authType": "DelegatedSAS"}, 501, "DelegatedSAS"),
        ({"authType": "AccessKey"}, 400, "one of PAT, None, UsernamePassword"),
        ({"target": None}, 400, "target"),
        ({"target": 7}, 400, "target"),
        ({"target": "x" * 3000}, 400, "target"),
        ({"credentials": None}, 400, "credentials.pat"),
        ({"credentials": []}, 400, "credentials"),
        ({"credentials": {"pat": 7}}, 400, "credentials.pat"),
        ({"credentials": {"pat": SECRET, "key": SECRET}}, 400, "'key'"),
        ({"metadata": {"a": 1}}, 400, "metadata.a"),
        ({"metadata": []}, 400, "metadata"),
        ({"isSharedToAll": "yes"}, 400, "isSharedToAll"),
        ({"category": "CustomKeys", "authType": "CustomKeys", "credentials": {"keys": 7}}, 400, "keys"),
        (
            {"category": "S3", "authType": "AccountKey", "credentials": {"key": "a", "sas": "b"}},
            400,
            "AccountKey",
        ),
    ],
)
def test_what_is_refused(server: Any, more: dict[str, Any], code: int, words: str) -> None:
    status, answer = server.call("PUT", path_of(server, "never-good"), {"properties": {**GOOD, **more}})
    assert status == code and words in answer["error"]["message"], answer
    assert SECRET not in answer["error"]["message"]
    assert server.call("GET", path_of(server, "never-good"))[0] == 404


@pytest.mark.parametrize("name", ["ab", "a" * 34, "a.b.c", "-abc", "a%2fb%2fc", "%2e%2e%2f"])
def test_names_that_azure_refuses(server: Any, name: str) -> None:
    code, answer = server.call("PUT", path_of(server, name), {"properties": GOOD})
    # A slash makes it another path.
    assert code == (405 if "%2f" in name else 400) and answer["error"]["message"]


def test_create_of_a_bad_connection_by_the_sdk(ml_client: Any) -> None:
    from azure.core.exceptions import HttpResponseError

    wanted = entity("git", "x")
    with pytest.raises(HttpResponseError) as caught:
        ml_client.connections.create_or_update(wanted)
    assert (caught.value.status_code, caught.value.error.code) == (400, "InvalidResourceName")


def test_a_list_from_nowhere(ml_client: Any) -> None:
    from azure.core.exceptions import HttpResponseError

    with pytest.raises(HttpResponseError) as caught:
        list(ml_client.connections.list(params={"$skip": "x"}))
    assert (caught.value.status_code, caught.value.error.code) == (400, "InvalidQueryParameter")


def test_custom_keys(server: Any) -> None:
    keys = {"one": SECRET, "two": "2"}
    body = {"category": "CustomKeys", "target": "_", "authType": "CustomKeys", "credentials": {"keys": keys}}
    assert server.call("PUT", path_of(server, "several"), {"properties": body})[0] == 200
    assert secrets_of(server, "several") == {"keys": keys}
