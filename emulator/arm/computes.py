"""Computes: names for this host's slots. Three exist from the start; more can be added under any name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from amlocal.compat import cloud
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.resource import Call, Resource, properties_of, text_of
from amlocal.emulator.http.errors import bad_request, not_there_yet
from amlocal.emulator.jobs.computes import BUILT_IN
from amlocal.emulator.services import Services
from amlocal.emulator.store.workspace import Workspace

_EPOCH = "2020-01-01T00:00:00+00:00"


def _cluster(size: str) -> dict[str, Any]:
    return {
        "computeType": "AmlCompute",
        "computeLocation": cloud.LOCATION,
        "provisioningState": "Succeeded",
        "description": "This machine.",
        "isAttachedCompute": False,
        "disableLocalAuth": True,
        "properties": {
            "vmSize": size,
            "vmPriority": "Dedicated",
            "osType": "Linux",
            "scaleSettings": {
                "minNodeCount": 1,
                "maxNodeCount": 1,
                "nodeIdleTimeBeforeScaleDown": "PT2M",
            },
            "remoteLoginPortPublicAccess": "Disabled",
        },
    }


def _builtin(services: Services, workspace: Workspace) -> Iterable[Document]:
    for name in BUILT_IN:
        body = {"location": cloud.LOCATION, "properties": _cluster("local")}
        yield Document(workspace.id, "computes", name, "", body, f'"{name}"', False, _EPOCH, _EPOCH, 0)


def _prepare(call: Call, body: dict[str, Any], present: Document | None) -> dict[str, Any]:
    properties = properties_of(body)
    compute_type = text_of(properties, "computeType")
    if compute_type.lower() != "amlcompute":
        raise not_there_yet(f"A compute of type {compute_type[:60]}")
    inner = properties.get("properties") or {}
    if not isinstance(inner, dict):
        raise bad_request(
            "InvalidRequestContent", "`properties.properties` must be an object.", target="properties"
        )
    defaults = _cluster("local")
    complete = {**defaults, **properties, "provisioningState": "Succeeded"}
    complete["computeType"] = "AmlCompute"
    complete["properties"] = {**defaults["properties"], **inner}
    return {**body, "properties": complete}


COMPUTES = Resource(
    path="computes",
    title="Compute",
    top_level=("location", "tags", "identity", "sku"),
    builtin=_builtin,
    prepare=_prepare,
)
