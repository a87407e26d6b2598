"""Code assets: the folders that jobs run, each uploaded once into a container of its own.

Clients look for the hash of a folder before they upload it; the name that they ask by is a fresh one each
time, so the hash is looked up over all code assets of the workspace.
"""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from flask import request
from sqlalchemy import select

from amlocal.compat.azureml_uri import UriError, clean_path
from amlocal.emulator.arm import documents
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.resource import Call, Resource, json_body, properties_of, text_of
from amlocal.emulator.http.errors import bad_request, user_error
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.tables import resources
from amlocal.emulator.store.workspace import Workspace

_CONTAINER = re.compile(r"azureml-code-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HASH = re.compile(r"[0-9a-f]{64}")
_SAS_LIFETIME = timedelta(hours=24)


def folder_of(folder: DataFolder, workspace: Workspace, code_uri: str) -> Path:
    """The folder (or file) of an uploaded code asset, which need not exist.

    Raises AzureError 400 for an address that is not one of this workspace's code containers.
    """
    path = urlsplit(code_uri).path.strip("/")
    account, _, rest = path.partition("/")
    container, _, inside = rest.partition("/")
    if account != workspace.account or not _CONTAINER.fullmatch(container):
        raise user_error(
            f"codeUri {code_uri[:200]!r} is not the address of code that was uploaded to workspace "
            f"{workspace.name}. Give `code` as a local folder.",
            target="codeUri",
        )
    root = folder.container(account, container)
    if not inside:
        return root
    try:
        found = root / clean_path(unquote(inside, errors="strict"))
    except (UriError, UnicodeDecodeError) as error:
        raise user_error(f"codeUri {code_uri[:200]!r}: {error}", target="codeUri") from error
    if found.resolve() != root.resolve() and root.resolve() not in found.resolve().parents:
        raise user_error(f"codeUri {code_uri[:200]!r} leaves its container.", target="codeUri")
    return found


def _prepare(call: Call, body: dict[str, Any], present: Document | None) -> dict[str, Any]:
    properties = properties_of(body)
    uri = text_of(properties, "codeUri")
    if not folder_of(call.services.folder, call.workspace, uri).exists():
        raise bad_request("InvalidCodeUri", f"There is nothing at {uri[:500]}.", target="codeUri")
    given = properties.get("properties")
    if given is not None and not isinstance(given, dict):
        raise bad_request("InvalidRequestContent", "`properties.properties` must be an object.")
    return body


def _search(call: Call) -> list[Document] | None:
    """The versions with the hash that the query asks for, of any name; None where it asks for none."""
    wanted = request.args.get("hash")
    if wanted is None:
        return None
    if not _HASH.fullmatch(wanted):
        return []
    services, workspace = call.services, call.workspace
    query = select(resources.c.name, resources.c.version).where(
        resources.c.workspace_id == workspace.id,
        resources.c.kind == "codes",
        resources.c.body.contains(wanted),
    )

    def read(c: Any) -> list[Document]:
        rows = c.execute(query).all()
        found = [documents.get(c, workspace.id, "codes", row.name, row.version) for row in rows]
        return [document for document in found if document is not None]

    return [
        document
        for document in services.store.read(read)
        if (document.properties.get("properties") or {}).get("hash_sha256") == wanted
        and folder_of(services.folder, workspace, str(document.properties.get("codeUri"))).exists()
    ]


def _start_pending_upload(call: Call) -> dict[str, Any]:
    """A new container, and what opens it for the upload."""
    kind = json_body().get("pendingUploadType", "TemporaryBlobReference")
    if kind != "TemporaryBlobReference":
        raise bad_request(
            "InvalidPendingUploadType",
            f"pendingUploadType {str(kind)[:60]!r}: use TemporaryBlobReference.",
            target="pendingUploadType",
        )
    services, account = call.services, call.workspace.account
    container = f"azureml-code-{uuid.uuid4()}"
    services.blobs.create_container(account, container)
    uri = f"{services.settings.base_url}/{account}/{container}"
    sas = services.sas.sign(account, container, "racwdl", datetime.now(UTC) + _SAS_LIFETIME)
    return {
        "pendingUploadId": container.removeprefix("azureml-code-"),
        "pendingUploadType": kind,
        "blobReferenceForConsumption": {
            "blobUri": uri,
            "storageAccountArmId": f"{call.workspace.arm_id}/storageAccounts/{account}",
            "credential": {"credentialType": "SAS", "sasUri": f"{uri}?{sas}"},
        },
    }


CODES = Resource(
    path="codes",
    title="Code asset",
    versioned=True,
    immutable=("codeUri",),
    top_level=(),
    prepare=_prepare,
    search=_search,
    version_actions={"startPendingUpload": _start_pending_upload},
)
