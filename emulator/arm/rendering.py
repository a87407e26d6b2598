"""How a stored document is shown: the resource, one version of it, or the container of its versions."""

from __future__ import annotations

from typing import Any

from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.resource import Call, arm_id
from amlocal.emulator.store.workspace import PROVIDER


def rendered(call: Call, document: Document) -> dict[str, Any]:
    """The document as clients see it."""
    resource = call.resource
    shown = Call(call.services, call.workspace, resource, document.name, document.version)
    body = {
        key: document.body[key]
        for key in resource.top_level
        if key in document.body and key not in resource.hidden
    }
    properties = resource.present(shown, document)
    if resource.versioned:
        properties["isArchived"] = document.archived
    return {
        "id": arm_id(call.workspace, resource, document.name, document.version),
        "name": document.version or document.name.rpartition("/")[2],
        "type": f"{PROVIDER}/workspaces/{resource.kind}{'/versions' if document.version else ''}",
        "etag": document.etag,
        "properties": properties,
        "systemData": {
            "createdAt": document.created_at,
            "createdBy": "local user",
            "createdByType": "User",
            "lastModifiedAt": document.modified_at,
            "lastModifiedBy": "local user",
            "lastModifiedByType": "User",
        },
        **body,
    }


def contained(call: Call, latest: Document, next_version: str) -> dict[str, Any]:
    """The container of a name's versions, as lists show it."""
    shown = rendered(call, latest)
    properties = {
        "latestVersion": latest.version,
        "nextVersion": next_version,
        "isArchived": latest.archived,
        "tags": shown["properties"].get("tags") or {},
        "properties": shown["properties"].get("properties") or {},
        "description": shown["properties"].get("description"),
    }
    for key in ("dataType", "environmentType", "modelType"):
        if key in shown["properties"]:
            properties[key] = shown["properties"][key]
    return {
        **shown,
        "id": arm_id(call.workspace, call.resource, latest.name),
        "name": latest.name,
        "type": f"{PROVIDER}/workspaces/{call.resource.kind}",
        "properties": properties,
    }
