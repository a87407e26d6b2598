"""Datastores through the real SDK: records of every type, their secrets, and what is refused."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from azure.ai.ml import Input, MLClient, command
from azure.ai.ml.entities import (
    AccountKeyConfiguration,
    AzureBlobDatastore,
    AzureDataLakeGen1Datastore,
    AzureDataLakeGen2Datastore,
    AzureFileDatastore,
    CertificateConfiguration,
    Data,
    Datastore,
    NoneCredentialConfiguration,
    SasTokenConfiguration,
    ServicePrincipalConfiguration,
)
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

TENANT = {
    "tenant_id": "11111111-1111-1111-1111-111111111111",
    "client_id": "22222222-2222-2222-2222-222222222222",
    "authority_url": "https://login.microsoftonline.com",
    "resource_url": "https://storage.azure.com/",
}


def new_name(kind: str = "ds") -> str:
    return f"{kind}_{uuid.uuid4().hex[:10]}"


def elsewhere(kind: str, **more: Any) -> Datastore:
    """A datastore on an account that is not this machine's."""
    if kind == "blob":
        made = AzureBlobDatastore(
            name=new_name(), account_name="contosodata", container_name="images", **more
        )
    elif kind == "file":
        made = AzureFileDatastore(
            name=new_name(), account_name="contosofiles", file_share_name="my-share", **more
        )
    else:
        made = AzureDataLakeGen2Datastore(
            name=new_name(), account_name="contosolake", filesystem="gen2", **more
        )
    return made


@pytest.mark.parametrize("kind", ["blob", "file", "gen2"])
@pytest.mark.parametrize(
    ("credentials", "secret"),
    [
        (AccountKeyConfiguration(account_key="a2V5LXRoYXQtaXMtc2VjcmV0"), "account_key"),
        (SasTokenConfiguration(sas_token="sv=2022&sig=secret-signature"), "sas_token"),
        (ServicePrincipalConfiguration(client_secret="secret-of-it", **TENANT), "client_secret"),
        (CertificateConfiguration(certificate="secret-pem", thumbprint="AB12", **TENANT), "certificate"),
        (NoneCredentialConfiguration(), ""),
    ],
    ids=["key", "sas", "principal", "certificate", "none"],
)
def test_records_keep_everything_and_show_no_secret(
    ml_client: MLClient, server: Any, kind: str, credentials: Any, secret: str
) -> None:
    sent = elsewhere(kind, credentials=credentials, description="theirs", tags={"team": "a"})
    ml_client.datastores.create_or_update(sent)
    shown = ml_client.datastores.get(sent.name)
    assert (type(shown), shown.name, shown.description, shown.tags) == (
        type(sent), sent.name, "theirs", {"team": "a"},
    )  # fmt: skip
    assert shown.account_name == sent.account_name
    assert type(shown.credentials) is type(credentials)
    if not secret:
        return
    assert getattr(shown.credentials, secret) is None
    value = getattr(credentials, secret)
    _, raw = server.call("GET", f"{server.workspace_path}/datastores/{sent.name}?api-version=2024-10-01")
    _, page = server.call("GET", f"{server.workspace_path}/datastores?api-version=2024-10-01&count=1000")
    assert value not in str(raw) and value not in str(page)
    known = ml_client.datastores.get(sent.name, include_secrets=True)
    assert known == sent
    assert getattr(known.credentials, secret) == value
    listed = {item.name: item for item in ml_client.datastores.list(include_secrets=True)}
    assert getattr(listed[sent.name].credentials, secret) == value


def test_an_update_without_the_secret_keeps_it(ml_client: MLClient) -> None:
    sent = elsewhere("blob", credentials=AccountKeyConfiguration(account_key="Zmlyc3Q="))
    ml_client.datastores.create_or_update(sent)
    got = ml_client.datastores.get(sent.name)
    got.description = "changed"
    ml_client.datastores.create_or_update(got)
    known = ml_client.datastores.get(sent.name, include_secrets=True)
    assert (known.description, known.credentials.account_key) == ("changed", "Zmlyc3Q=")
    # Another kind of credentials takes no secret over.
    got.credentials = SasTokenConfiguration(sas_token=None)
    with pytest.raises(HttpResponseError) as lacking:
        ml_client.datastores.create_or_update(got)
    assert lacking.value.status_code == 400 and "secrets.sasToken" in lacking.value.message


def test_secrets_lie_in_the_private_database_only(ml_client: MLClient, server: Any) -> None:
    sent = elsewhere("blob", credentials=AccountKeyConfiguration(account_key="needle-in-a-file"))
    ml_client.datastores.create_or_update(sent)
    with sqlite3.connect(f"file:{server.folder.database}?mode=ro", uri=True) as database:
        query = "select body from resources where kind = 'datastores' and name = ?"
        assert "needle-in-a-file" in database.execute(query, (sent.name,)).fetchone()[0]
    assert server.folder.database.stat().st_mode & 0o077 == 0
    for path in server.folder.logs.rglob("*"):
        assert b"needle-in-a-file" not in path.read_bytes(), path


def test_our_own_account(ml_client: MLClient) -> None:
    default = ml_client.datastores.get_default()
    assert default.name == "workspaceblobstore"
    sent = AzureBlobDatastore(
        name=new_name(),
        account_name=default.account_name,
        container_name=default.container_name,
        credentials=AccountKeyConfiguration(account_key="bm90IG91cnM="),
    )
    ml_client.datastores.create_or_update(sent)
    known = ml_client.datastores.get(sent.name, include_secrets=True)
    # As on Azure, what opens the account comes as a signature that expires.
    assert isinstance(known.credentials, SasTokenConfiguration) and "sig=" in known.credentials.sas_token
    assert known.account_name == default.account_name
    for other in (
        AzureFileDatastore(name=new_name(), account_name=default.account_name, file_share_name="share"),
        AzureDataLakeGen2Datastore(name=new_name(), account_name=default.account_name, filesystem="lake"),
    ):
        with pytest.raises(HttpResponseError) as refused:
            ml_client.datastores.create_or_update(other)
        assert refused.value.status_code == 400 and "use the type AzureBlob" in refused.value.message


def test_another_workspaces_account_is_refused(
    ml_client: MLClient, other_client: Callable[[str, str, str], MLClient]
) -> None:
    theirs = other_client("sub-ds", "group-ds", "space-ds").datastores.get_default()
    with pytest.raises(HttpResponseError) as refused:
        ml_client.datastores.create_or_update(
            AzureBlobDatastore(
                name=new_name(),
                account_name=theirs.account_name.rpartition("/")[2],
                container_name=theirs.container_name,
            )
        )
    assert refused.value.status_code == 400 and "isolated" in refused.value.message


def test_delete_leaves_the_data(ml_client: MLClient) -> None:
    default = ml_client.datastores.get_default()
    name = new_name()
    ml_client.datastores.create_or_update(
        AzureBlobDatastore(
            name=name, account_name=default.account_name, container_name=default.container_name
        )
    )
    assert name in [item.name for item in ml_client.datastores.list()]
    ml_client.datastores.delete(name)
    assert name not in [item.name for item in ml_client.datastores.list()]
    with pytest.raises(ResourceNotFoundError):
        ml_client.datastores.get(name)
    assert ml_client.datastores.get_default().name == "workspaceblobstore"
    ml_client.datastores.delete(name)  # as on Azure, deleting what is not there is no error


@pytest.mark.parametrize("name", ["workspaceblobstore", "workspaceartifactstore", "WorkspaceFileStore"])
def test_built_in_ones_stay(ml_client: MLClient, name: str) -> None:
    with pytest.raises(HttpResponseError) as deleted:
        ml_client.datastores.delete(name)
    assert deleted.value.status_code == 409 and "built in" in deleted.value.message
    with pytest.raises(HttpResponseError) as changed:
        ml_client.datastores.create_or_update(
            AzureBlobDatastore(name=name, account_name="contosodata", container_name="images")
        )
    assert changed.value.status_code == 409
    assert ml_client.datastores.get(name).account_name.startswith("localhost:")


def test_the_type_cannot_change(ml_client: MLClient) -> None:
    sent = elsewhere("blob")
    ml_client.datastores.create_or_update(sent)
    other = elsewhere("file")
    other.name = sent.name
    with pytest.raises(HttpResponseError) as refused:
        ml_client.datastores.create_or_update(other)
    assert refused.value.status_code == 409 and "of type AzureBlob" in refused.value.message
    assert ml_client.datastores.get(sent.name) == sent


def test_gen1_is_refused(ml_client: MLClient) -> None:
    name = new_name()
    with pytest.raises(HttpResponseError) as refused:
        ml_client.datastores.create_or_update(AzureDataLakeGen1Datastore(name=name, store_name="old-lake"))
    assert refused.value.status_code == 400 and "AzureDataLakeGen1" in refused.value.message
    assert refused.value.error.code == "DatastoreTypeNotSupported"
    with pytest.raises(ResourceNotFoundError):
        ml_client.datastores.get(name)


GOOD = {"datastoreType": "AzureBlob", "accountName": "contosodata", "containerName": "images"}


@pytest.mark.parametrize(
    ("name", "changes", "status", "says"),
    [
        ("x", {"datastoreType": "Hdfs"}, 400, "AzureDataLakeGen2"),
        ("x", {"datastoreType": 3}, 400, "datastoreType"),
        ("x", {"datastoreType": "OneLake"}, 501, "OneLake"),
        ("x", {"accountName": "Contoso"}, 400, "accountName"),
        ("x", {"accountName": "contoso.evil.com/x"}, 400, "accountName"),
        ("x", {"accountName": "evil.com:443/contosodata"}, 400, "accountName"),
        ("x", {"containerName": "../etc"}, 400, "container name"),
        ("x", {"containerName": None}, 400, "containerName"),
        ("x", {"credentials": []}, 400, "credentials"),
        ("x", {"credentials": {"credentialsType": "Magic"}}, 400, "credentialsType"),
        ("x", {"credentials": {"credentialsType": ["None"]}}, 400, "credentialsType"),
        ("x", {"credentials": {"credentialsType": "Sas"}}, 400, "secrets.sasToken"),
        ("x", {"credentials": {"credentialsType": "Sas", "secrets": {"sasToken": 3}}}, 400, "sasToken"),
        ("x", {"credentials": {"credentialsType": "Sas", "secrets": "x"}}, 400, "secrets"),
        (
            "x",
            {"credentials": {"credentialsType": "ServicePrincipal", "secrets": {"clientSecret": "x"}}},
            400,
            "clientId",
        ),
        ("x", {"endpoint": "evil.com/path?"}, 400, "endpoint"),
        ("x", {"protocol": "file"}, 400, "protocol"),
        ("x", {"isDefault": True}, 501, "default"),
        ("a.b", {}, 400, "valid name"),
        ("-x", {}, 400, "valid name"),
        ("x" * 256, {}, 400, "valid name"),
    ],
)
def test_bad_datastores(server: Any, name: str, changes: dict[str, Any], status: int, says: str) -> None:
    body = {"properties": {**GOOD, **changes}}
    path = f"{server.workspace_path}/datastores/{name}?api-version=2024-10-01"
    code, answer = server.call("PUT", path, body)
    assert code == status, answer
    assert says in answer["error"]["message"]
    assert server.call("GET", path)[0] in (400, 404)


def test_a_client_cannot_mount_by_a_body(server: Any, ml_client: MLClient) -> None:
    own = ml_client.datastores.get_default().account_name
    name = new_name()
    path = f"{server.workspace_path}/datastores/{name}?api-version=2024-10-01"
    body = {
        "properties": {**GOOD, "accountName": own, "mount": {"folder": "/etc", "writable": True}},
        "mount": {"folder": "/etc", "writable": True},
        "secrets": {"key": "x"},
    }
    assert server.call("PUT", path, body)[0] == 201
    assert server.call("PATCH", path, body)[0] == 200
    _, shown = server.call("GET", path)
    assert "etc" not in str(shown) and "amlocal.mount" not in str(shown)
    with sqlite3.connect(f"file:{server.folder.database}?mode=ro", uri=True) as database:
        query = "select body from resources where kind = 'datastores' and name = ?"
        assert "/etc" not in database.execute(query, (name,)).fetchone()[0]
    for container in ("amlocal-mount-0123456789ab", "amlocal-mount-x"):
        body = {"properties": {**GOOD, "accountName": own, "containerName": container}}
        code, answer = server.call("PUT", f"{path.replace(name, new_name())}", body)
        assert code == 400 and "mounted folders" in answer["error"]["message"]


def test_no_secrets_of_one_without_credentials(server: Any, ml_client: MLClient) -> None:
    sent = elsewhere("gen2")
    ml_client.datastores.create_or_update(sent)
    path = f"{server.workspace_path}/datastores/{sent.name}/listSecrets?api-version=2024-10-01"
    code, answer = server.call("POST", path, {})
    assert code == 400 and answer["error"]["code"] == "NoSecrets"


@pytest.mark.parametrize("kind", ["blob", "file", "gen2"])
@pytest.mark.parametrize("form", ["short", "long"])
def test_data_elsewhere_is_refused_when_it_is_named(ml_client: MLClient, kind: str, form: str) -> None:
    sent = elsewhere(kind)
    ml_client.datastores.create_or_update(sent)
    head = "azureml://"
    if form == "long":
        head += (
            f"subscriptions/{ml_client.subscription_id}/resourcegroups/{ml_client.resource_group_name}"
            f"/workspaces/{ml_client.workspace_name}/"
        )
    uri = f"{head}datastores/{sent.name}/paths/images/"
    with pytest.raises(HttpResponseError) as refused:
        ml_client.jobs.create_or_update(
            command(
                command="ls ${{inputs.data}}",
                environment="azureml:AzureML-sklearn-1.5@latest",
                inputs={"data": Input(type="uri_folder", path=uri)},
            )
        )
    assert refused.value.status_code == 400
    assert sent.name in refused.value.message and sent.account_name in refused.value.message
    with pytest.raises(HttpResponseError) as asset:
        ml_client.data.create_or_update(Data(name=new_name("data"), version="1", type="uri_folder", path=uri))
    assert asset.value.status_code == 400 and sent.account_name in asset.value.message


@pytest.mark.parametrize(
    "uri",
    [
        "abfss://gen2@contosolake.dfs.core.windows.net/folder/",
        "abfs://gen2@contosolake.dfs.core.windows.net/folder/",
        "wasbs://images@contosodata.blob.core.windows.net/folder/",
        "adl://contosolake.azuredatalakestore.net/folder/",
    ],
)
def test_storage_schemes_are_refused_by_name(ml_client: MLClient, uri: str) -> None:
    with pytest.raises(HttpResponseError) as refused:
        ml_client.jobs.create_or_update(
            command(
                command="ls ${{inputs.data}}",
                environment="azureml:AzureML-sklearn-1.5@latest",
                inputs={"data": Input(type="uri_folder", path=uri)},
            )
        )
    # 501 where a copy on this machine (setting `mirrors`) would be the way.
    assert refused.value.status_code in (400, 501)
    assert uri.partition(":")[0] + ":" in refused.value.message
    with pytest.raises(HttpResponseError) as asset:
        ml_client.data.create_or_update(Data(name=new_name("data"), version="1", type="uri_folder", path=uri))
    assert asset.value.status_code == 400 and uri.partition(":")[0] + ":" in asset.value.message
