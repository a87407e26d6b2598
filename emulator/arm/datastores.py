"""Datastores: names for storage. The four of every workspace are built in; secrets are SAS of our own."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from amlocal.compat import cloud
from amlocal.emulator.arm import documents
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.resource import Call, Resource, properties_of, text_of
from amlocal.emulator.http.errors import bad_request, not_there_yet
from amlocal.emulator.jobs.inputs import containers
from amlocal.emulator.services import Services
from amlocal.emulator.storage.names import check_container
from amlocal.emulator.store.workspace import Workspace

DEFAULT = "workspaceblobstore"
_SAS_LIFETIME = timedelta(hours=24)
_EPOCH = "2020-01-01T00:00:00+00:00"


def _builtin(services: Services, workspace: Workspace) -> Iterable[Document]:
    account = cloud.account_host(services.settings.port, workspace.account)
    for name, container in containers(workspace).items():
        properties: dict[str, Any] = {
            "accountName": account,
            "containerName": container,
            "credentials": {"credentialsType": "Sas"},
            "datastoreType": "AzureBlob",
            "endpoint": cloud.STORAGE_SUFFIX,
            "protocol": "https",
            "isDefault": name == DEFAULT,
            "serviceDataAccessAuthIdentity": "None",
            "subscriptionId": workspace.subscription,
            "resourceGroup": workspace.resource_group,
            "tags": {},
            "properties": {},
            "description": None,
        }
        yield Document(
            workspace.id,
            "datastores",
            name,
            "",
            {"properties": properties},
            f'"{name}"',
            False,
            _EPOCH,
            _EPOCH,
            0,
        )


def _prepare(call: Call, body: dict[str, Any], present: Document | None) -> dict[str, Any]:
    properties = properties_of(body)
    datastore_type = text_of(properties, "datastoreType")
    if datastore_type != "AzureBlob":
        raise not_there_yet(f"A datastore of type {datastore_type[:60]}")
    account = text_of(properties, "accountName")
    container = text_of(properties, "containerName")
    if account not in (
        call.workspace.account,
        cloud.account_host(call.services.settings.port, call.workspace.account),
    ):
        raise bad_request(
            "InvalidAccountName",
            f"accountName {account[:100]!r}: a datastore can only reach this workspace's own account, "
            f"{call.workspace.account!r}. Data outside this machine is not fetched.",
            target="accountName",
        )
    check_container(container)
    # Secrets of a client are not needed (ours open the account), so they are not kept.
    kept = {
        **{key: value for key, value in properties.items() if key != "credentials"},
        "accountName": cloud.account_host(call.services.settings.port, call.workspace.account),
        "credentials": {"credentialsType": "Sas"},
        "endpoint": cloud.STORAGE_SUFFIX,
        "protocol": "https",
        "isDefault": False,
    }
    return {**body, "properties": kept}


def _list_secrets(call: Call, document: Document) -> dict[str, Any]:
    return {
        "secretsType": "Sas",
        "sasToken": call.services.sas.sign(
            call.workspace.account,
            document.properties["containerName"],
            "racwdl",
            datetime.now(UTC) + _SAS_LIFETIME,
        ),
    }


def long_uri(call: Call, path: Path) -> str:
    """The datastore URI, in Azure's long form, of a file or folder in a container of the workspace.

    Clients parse the text between `datastores/` and `paths/` when they download; public notebooks append file
    names to the address of a folder.
    """
    workspace = call.workspace
    relative = path.resolve().relative_to(call.services.folder.blobs.resolve() / workspace.account)
    container, inside = relative.parts[0], "/".join(relative.parts[1:])
    stored = call.services.store.read(lambda c: documents.listing(c, workspace.id, "datastores"))
    names = {document.properties["containerName"]: document.name for document in stored}
    names.update({container: name for name, container in containers(workspace).items()})
    return (
        f"azureml://subscriptions/{workspace.subscription}/resourcegroups/{workspace.resource_group}"
        f"/workspaces/{workspace.name}/datastores/{names[container]}/paths/{inside}"
    )


DATASTORES = Resource(
    path="datastores",
    title="Datastore",
    top_level=(),
    builtin=_builtin,
    prepare=_prepare,
    actions={"listSecrets": _list_secrets},
    filters={
        "isDefault": lambda document, value: (
            bool(document.properties.get("isDefault")) == (value.lower() == "true")
        )
    },
)
