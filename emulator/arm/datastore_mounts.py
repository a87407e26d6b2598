"""Mounting a folder as a datastore, and our own administration routes for it."""

from __future__ import annotations

import re
import shutil
import uuid
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, jsonify, request
from sqlalchemy import Connection

from amlocal.compat import cloud
from amlocal.emulator.arm import documents
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.resource import json_body
from amlocal.emulator.http.errors import AzureError, bad_request, conflict, not_found
from amlocal.emulator.jobs.inputs import containers
from amlocal.emulator.services import Services
from amlocal.emulator.storage.mounts import CONTAINER_PREFIX, Mount, Mounts
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.workspace import Workspace
from amlocal.emulator.store.workspaces import Workspaces, parse_triple

ROUTE = "/_amlocal/datastores"
# The rule in the REST reference of datastores.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,254}\Z")


def own_blob(workspace: Workspace, container: str) -> dict[str, Any]:
    """The stored properties of a datastore in the workspace's own account."""
    return {
        "accountName": workspace.account,
        "containerName": container,
        "credentials": {"credentialsType": "Sas"},
        "datastoreType": "AzureBlob",
        "endpoint": cloud.STORAGE_SUFFIX,
        "protocol": "https",
        "isDefault": False,
        "serviceDataAccessAuthIdentity": "None",
        "subscriptionId": workspace.subscription,
        "resourceGroup": workspace.resource_group,
        "tags": {},
        "properties": {},
        "description": None,
    }


def mount(
    store: Store, mounts: Mounts, workspace: Workspace, name: str, folder: str, *, writable: bool
) -> Document:
    """Makes the folder a datastore; the same mount again only changes `writable`.

    AzureError 400 for a bad name or path, 403 where the folder is not allowed, 404 where there is none, 409
    where the name is another datastore's.
    """
    if not NAME.match(name):
        raise bad_request(
            "InvalidResourceName",
            f"{name[:100]!r} is not a datastore's name: letters, digits, '_' and '-', beginning with a "
            "letter or digit.",
        )
    if not folder.startswith("/") or "\0" in folder:
        raise bad_request("InvalidFolder", f"{folder[:200]!r} is not an absolute path.")
    real = mounts.real_folder(Path(folder), name)
    if name.lower() in containers(workspace):
        raise conflict(f"Datastore {name!r} is built in. Choose another name.")

    def write(c: Connection) -> Document:
        present = documents.get(c, workspace.id, "datastores", name)
        if present is None:
            container = f"{CONTAINER_PREFIX}{uuid.uuid4().hex[:12]}"
            body = {"properties": own_blob(workspace, container), "secrets": {}}
        else:
            known = present.body.get("mount")
            if known is None or known["folder"] != str(real):
                what = f"the folder {known['folder']}" if known else "a datastore in storage"
                raise conflict(
                    f"Datastore {present.name!r} exists already and is {what}. Choose another name, or "
                    f"remove it first: amlocal datastore unmount {present.name}"
                )
            body = present.body
        stored = {**body, "mount": {"folder": str(real), "writable": writable}}
        return documents.put(c, workspace.id, "datastores", name, "", stored)[0]

    document = store.write(write)
    mounts.forget()
    return document


def unmount(
    store: Store, mounts: Mounts, folder: DataFolder, workspace: Workspace, document: Document
) -> None:
    """Forgets a mounted datastore and what was kept about its blobs; its folder stays as it is."""
    store.write(lambda c: documents.remove(c, workspace.id, "datastores", document.name))
    mounts.forget()
    container = str(document.properties["containerName"])
    shutil.rmtree(folder.blob_meta / workspace.account / container, ignore_errors=True)


def find(store: Store, workspace: Workspace, name: str) -> Document:
    """A mounted datastore. AzureError 404 for one that is none."""
    found = store.read(lambda c: documents.get(c, workspace.id, "datastores", name))
    if found is None or "mount" not in found.body:
        raise not_found(f"No folder is mounted as datastore {name[:100]!r} in workspace {workspace.name}.")
    return found


def listing(store: Store, mounts: Mounts, workspace: Workspace) -> list[dict[str, Any]]:
    """The mounts of a workspace: name, folder, writable, and `problem`, '' where it can be read."""
    found = store.read(lambda c: documents.listing(c, workspace.id, "datastores"))
    return [_shown(mounts, document) for document in found if "mount" in document.body]


def workspace_named(workspaces: Workspaces, triple: str | None) -> Workspace:
    """The workspace SUB/GROUP/NAME, or the well-known one. AzureError 400, 404."""
    if triple is None:
        return workspaces.get(cloud.SUBSCRIPTION_ID, cloud.RESOURCE_GROUP, cloud.WORKSPACE)
    return workspaces.get(*parse_triple(triple))


def create_blueprint(services: Services) -> Blueprint:
    """What `amlocal datastore` asks a running server."""
    blueprint = Blueprint("datastore_mounts", __name__)
    store, mounts = services.store, services.mounts

    @blueprint.get(ROUTE)
    def listed() -> Response:
        services.auth.require_user()
        workspace = workspace_named(services.workspaces, request.args.get("workspace"))
        return jsonify({"value": listing(store, mounts, workspace)})

    @blueprint.post(ROUTE)
    def mounted() -> tuple[Response, int]:
        services.auth.require_user()
        body = json_body()
        workspace = workspace_named(services.workspaces, _text(body, "workspace", needed=False))
        name, folder = _text(body, "name"), _text(body, "folder")
        writable = body.get("writable", False)
        if not isinstance(writable, bool):
            raise bad_request("InvalidRequestContent", "`writable` must be true or false.", target="writable")
        document = mount(store, mounts, workspace, name or "", folder or "", writable=writable)
        return jsonify(_shown(mounts, document)), 201

    @blueprint.post(f"{ROUTE}/unmount")
    def unmounted() -> Response:
        services.auth.require_user()
        body = json_body()
        workspace = workspace_named(services.workspaces, _text(body, "workspace", needed=False))
        document = find(store, workspace, _text(body, "name") or "")
        unmount(store, mounts, services.folder, workspace, document)
        return jsonify(_shown(mounts, document))

    return blueprint


def _shown(mounts: Mounts, document: Document) -> dict[str, Any]:
    known = document.body["mount"]
    try:
        mounts.check(Mount(document.name, Path(known["folder"]), known["writable"]))
        problem = ""
    except AzureError as error:
        problem = error.message
    return {"name": document.name, **known, "problem": problem}


def _text(body: dict[str, Any], name: str, *, needed: bool = True) -> str | None:
    value = body.get(name)
    if value is None and not needed:
        return None
    if not isinstance(value, str) or not value:
        raise bad_request("InvalidRequestContent", f"`{name}` must be a text.", target=name)
    return value
