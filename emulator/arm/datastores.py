"""Datastores: names for storage. The four of every workspace are built in; folders can be mounted as others.

What lies in this workspace's own account is served from this machine. Every other account is a record only:
its names and secrets are kept, and nothing is ever fetched from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flask import Response

from amlocal.compat import cloud
from amlocal.emulator.arm import datastore_credentials, datastore_mounts, documents
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.resource import Call, Resource, properties_of, text_of
from amlocal.emulator.http.errors import bad_request, conflict, not_there_yet
from amlocal.emulator.jobs.inputs import containers
from amlocal.emulator.services import Services
from amlocal.emulator.storage.mounts import check_not_reserved
from amlocal.emulator.storage.names import check_container
from amlocal.emulator.store.workspace import Workspace

DEFAULT = "workspaceblobstore"
_SAS_LIFETIME = timedelta(hours=24)
_EPOCH = "2020-01-01T00:00:00+00:00"
_CONTAINERS = {
    "AzureBlob": "containerName",
    "AzureFile": "fileShareName",
    "AzureDataLakeGen2": "filesystem",
}
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}\Z")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}\Z")
_PROTOCOLS = ("https", "http", "abfss", "abfs", "wasbs", "wasb")
_LOCAL = re.compile(r"(?:localhost:\d{1,5}/)?(?P<account>[^/]+)\Z")


def _builtin(services: Services, workspace: Workspace) -> Iterable[Document]:
    for name, container in containers(workspace).items():
        properties = datastore_mounts.own_blob(workspace, container)
        yield Document(
            workspace.id,
            "datastores",
            name,
            "",
            {"properties": {**properties, "isDefault": name == DEFAULT}},
            f'"{name}"',
            False,
            _EPOCH,
            _EPOCH,
            0,
        )


def _prepare(call: Call, body: dict[str, Any], present: Document | None) -> dict[str, Any]:
    properties = properties_of(body)
    kind = text_of(properties, "datastoreType")
    _check_type(call, kind, present)
    if properties.get("isDefault") not in (None, False):
        raise not_there_yet("Making another datastore the default one")
    given = text_of(properties, "accountName")
    container = text_of(properties, _CONTAINERS[kind])
    check_container(container)
    account = _account(call, given)
    before = present.body if present is not None else {}
    credentials, secrets = datastore_credentials.split(
        properties.get("credentials"),
        before.get("properties", {}).get("credentials"),
        before.get("secrets"),
        ours=account == call.workspace.account,
    )
    kept = {
        **datastore_mounts.own_blob(call.workspace, container),
        "accountName": account,
        "credentials": credentials,
        "datastoreType": kind,
        "tags": properties.get("tags") or {},
        "description": properties.get("description"),
        "endpoint": _choice(properties, "endpoint", _HOST.match, cloud.STORAGE_SUFFIX),
        "protocol": _choice(properties, "protocol", _PROTOCOLS.__contains__, "https"),
    }
    for field in ("subscriptionId", "resourceGroup", "serviceDataAccessAuthIdentity"):
        if isinstance(properties.get(field), str):
            kept[field] = properties[field]
    if kind != "AzureBlob":
        del kept["containerName"]
        kept[_CONTAINERS[kind]] = container
    stored: dict[str, Any] = {"properties": kept, "secrets": secrets}
    if mount := before.get("mount"):
        if (account, container) != (call.workspace.account, before["properties"]["containerName"]):
            raise conflict(
                f"Datastore {call.name!r} is a mounted folder: its account and container cannot be changed.",
                target="containerName",
            )
        stored["mount"] = mount
    elif account == call.workspace.account:
        if kind != "AzureBlob":
            raise bad_request(
                "InvalidAccountName",
                f"accountName {given[:100]!r} is this workspace's own account, which has blob containers "
                "only: use the type AzureBlob.",
                target="accountName",
            )
        check_not_reserved(container)
    return stored


def _check_type(call: Call, kind: str, present: Document | None) -> None:
    if kind == "AzureDataLakeGen1":
        raise bad_request(
            "DatastoreTypeNotSupported",
            "AzureDataLakeGen1: Azure has shut down Data Lake Storage Gen1. Use AzureDataLakeGen2.",
            target="datastoreType",
        )
    if kind == "OneLake":
        raise not_there_yet("A datastore of type OneLake")
    if kind not in _CONTAINERS:
        raise bad_request(
            "DatastoreTypeNotSupported",
            f"datastoreType {kind[:60]!r}: use {', '.join(_CONTAINERS)}.",
            target="datastoreType",
        )
    if present is not None and present.properties.get("datastoreType") != kind:
        raise conflict(
            f"Datastore {call.name!r} exists already and is of type {present.properties['datastoreType']}; "
            "a datastore's type cannot be changed. Delete it first, or choose another name.",
            target="datastoreType",
        )


def _account(call: Call, given: str) -> str:
    """The account's plain name. Raises 400; clients see our own behind the server's address."""
    match = _LOCAL.match(given)
    if match is not None and match["account"] == call.workspace.account:
        return call.workspace.account
    if not _ACCOUNT.match(given):
        raise bad_request(
            "InvalidAccountName",
            f"accountName {given[:100]!r} is not the name of a storage account: 3 to 24 lower-case letters "
            f"and digits. This workspace's own account is {call.workspace.account!r}.",
            target="accountName",
        )
    if any(workspace.account == given for workspace in call.services.workspaces.all()):
        raise bad_request(
            "InvalidAccountName",
            f"accountName {given!r} is the account of another workspace; workspaces are isolated from each "
            f"other. This workspace's own account is {call.workspace.account!r}.",
            target="accountName",
        )
    return given


def _choice(properties: Mapping[str, Any], name: str, good: Any, default: str) -> str:
    value = properties.get(name)
    if value is None or value == "":
        return default
    if not isinstance(value, str) or not good(value):
        raise bad_request(
            "InvalidRequestContent",
            f"`properties.{name}` is {str(value)[:60]!r}, which is no {name}.",
            target=name,
        )
    return value


def _present(call: Call, document: Document) -> dict[str, Any]:
    shown = dict(document.properties)
    if _is_own(call, document):
        # An earlier start may have had another port.
        shown["accountName"] = cloud.account_host(call.services.settings.port, call.workspace.account)
    if mount := document.body.get("mount"):
        shown["properties"] = {
            "amlocal.mount": mount["folder"],
            "amlocal.writable": str(mount["writable"]).lower(),
        }
    return shown


def _is_own(call: Call, document: Document) -> bool:
    account = str(document.properties["accountName"])
    return document.properties["datastoreType"] == "AzureBlob" and (
        account.rpartition("/")[2] == call.workspace.account
    )


def _list_secrets(call: Call, document: Document) -> dict[str, Any]:
    kind = document.properties["credentials"]["credentialsType"]
    if kind == "None":
        raise bad_request(
            "NoSecrets",
            f"Datastore {document.name!r} has no credentials, so there are no secrets.",
            target="name",
        )
    if not _is_own(call, document) or kind not in ("Sas", "AccountKey"):
        return dict(document.body["secrets"])
    # Our account is opened by our own signatures, as Azure gives out a SAS where an account key is stored.
    mount = document.body.get("mount")
    return {
        "secretsType": "Sas",
        "sasToken": call.services.sas.sign(
            call.workspace.account,
            document.properties["containerName"],
            "rl" if mount and not mount["writable"] else "racwdl",
            datetime.now(UTC) + _SAS_LIFETIME,
        ),
    }


def _on_delete(call: Call, document: Document) -> Response | None:
    if "mount" not in document.body:
        return None
    services = call.services
    datastore_mounts.unmount(services.store, services.mounts, services.folder, call.workspace, document)
    return Response(status=200)


def long_uri(call: Call, path: Path) -> str:
    """The datastore URI, in Azure's long form, of a file or folder in a datastore of the workspace.

    Clients parse the text between `datastores/` and `paths/` when they download; public notebooks append file
    names to the address of a folder.
    """
    workspace, real = call.workspace, path.resolve()
    root = call.services.folder.blobs.resolve() / workspace.account
    if real.is_relative_to(root):
        container, *inside = real.relative_to(root).parts
        stored = call.services.store.read(lambda c: documents.listing(c, workspace.id, "datastores"))
        names = {
            document.properties["containerName"]: document.name
            for document in stored
            if document.properties["accountName"].rpartition("/")[2] == workspace.account
        }
        names.update({container: name for name, container in containers(workspace).items()})
        datastore, relative = names[container], "/".join(inside)
    else:
        held = call.services.mounts.holding(workspace.account, real)
        if held is None:
            raise bad_request(
                "InvalidUri", f"{path.name!r} lies in no datastore of workspace {workspace.name}."
            )
        datastore, relative = held
    return (
        f"azureml://subscriptions/{workspace.subscription}/resourcegroups/{workspace.resource_group}"
        f"/workspaces/{workspace.name}/datastores/{datastore}/paths/{relative}"
    )


DATASTORES = Resource(
    path="datastores",
    title="Datastore",
    name_rule=datastore_mounts.NAME,
    top_level=("secrets", "mount"),
    hidden=("secrets", "mount"),
    builtin=_builtin,
    prepare=_prepare,
    present=_present,
    on_delete=_on_delete,
    actions={"listSecrets": _list_secrets},
    filters={
        "isDefault": lambda document, value: (
            bool(document.properties.get("isDefault")) == (value.lower() == "true")
        )
    },
)
