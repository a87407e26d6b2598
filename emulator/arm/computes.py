"""Computes: names for this host's slots. Some exist from the start; more can be added under any name.

No machine stands behind a compute but this one. A compute instance's state is a record that start and stop
change; a Kubernetes compute is a record only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from flask import Response
from sqlalchemy import Connection, func, select

from amlocal.compat import cloud
from amlocal.emulator.arm import documents
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.resource import Call, Resource, json_body, missing, properties_of, text_of
from amlocal.emulator.http.errors import bad_request, conflict, not_there_yet
from amlocal.emulator.jobs.computes import BUILT_IN
from amlocal.emulator.services import Services
from amlocal.emulator.store.tables import jobs
from amlocal.emulator.store.workspace import Workspace

_EPOCH = "2020-01-01T00:00:00+00:00"
_CLUSTER, _INSTANCE = "AmlCompute", "ComputeInstance"
_TYPES = {kind.lower(): kind for kind in (_CLUSTER, _INSTANCE, "Kubernetes")}
_DESCRIPTIONS = {
    _CLUSTER: "This machine.",
    _INSTANCE: "A record of amlocal: this machine stands behind it, whatever its state.",
    "Kubernetes": "A record of amlocal: no cluster stands behind it.",
}
_MOST_NODES = 10_000


def _inner_defaults(compute_type: str) -> dict[str, Any]:
    if compute_type != _CLUSTER:
        return {}
    return {
        "vmSize": "local",
        "vmPriority": "Dedicated",
        "osType": "Linux",
        "scaleSettings": {"minNodeCount": 1, "maxNodeCount": 1, "nodeIdleTimeBeforeScaleDown": "PT2M"},
        "remoteLoginPortPublicAccess": "Disabled",
    }


def _outer_defaults(compute_type: str) -> dict[str, Any]:
    return {
        "computeType": compute_type,
        "computeLocation": cloud.LOCATION,
        "provisioningState": "Succeeded",
        "description": _DESCRIPTIONS[compute_type],
        "isAttachedCompute": compute_type == "Kubernetes",
        "disableLocalAuth": True,
    }


def _builtin(services: Services, workspace: Workspace) -> Iterable[Document]:
    for name in BUILT_IN:
        properties = {**_outer_defaults(_CLUSTER), "properties": _inner_defaults(_CLUSTER)}
        body = {"location": cloud.LOCATION, "properties": properties}
        yield Document(workspace.id, "computes", name, "", body, f'"{name}"', False, _EPOCH, _EPOCH, 0)


def _prepare(call: Call, body: dict[str, Any], present: Document | None) -> dict[str, Any]:
    properties = properties_of(body)
    sent = text_of(properties, "computeType")
    compute_type = _TYPES.get(sent.lower())
    if compute_type is None:
        raise not_there_yet(f"A compute of type {sent[:60]}")
    if present is not None and present.properties["computeType"] != compute_type:
        raise conflict(
            f"Compute {call.name!r} is of type {present.properties['computeType']}, which cannot be changed. "
            "Delete it first or choose another name.",
            target="computeType",
        )
    inner = properties.get("properties") or {}
    if not isinstance(inner, dict):
        raise bad_request(
            "InvalidRequestContent", "`properties.properties` must be an object.", target="properties"
        )
    given = {key: value for key, value in properties.items() if value is not None}
    complete = {**_outer_defaults(compute_type), **given, "provisioningState": "Succeeded"}
    complete["computeType"] = compute_type
    complete["properties"] = {**_inner_defaults(compute_type), **inner}
    if compute_type == _CLUSTER:
        _check_scale(complete["properties"].get("scaleSettings"))
    if compute_type == _INSTANCE:
        before = present.properties["properties"].get("state") if present is not None else None
        complete["properties"]["state"] = before or "Running"
    return {**body, "properties": complete}


def _check_scale(settings: Any) -> None:
    if not isinstance(settings, dict):
        raise bad_request(
            "InvalidRequestContent", "`scaleSettings` must be an object.", target="scaleSettings"
        )
    least, most = settings.get("minNodeCount", 0), settings.get("maxNodeCount", 1)
    for name, value in (("minNodeCount", least), ("maxNodeCount", most)):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_NODES:
            raise bad_request(
                "InvalidScaleSettings",
                f"{name} must be a whole number from 0 to {_MOST_NODES}.",
                target=f"scaleSettings.{name}",
            )
    if least > most:
        raise bad_request(
            "InvalidScaleSettings",
            f"minNodeCount {least} is larger than maxNodeCount {most}.",
            target="scaleSettings.minNodeCount",
        )


def _nodes(call: Call, document: Document) -> dict[str, Any]:
    if document.properties["computeType"] != _CLUSTER:
        raise conflict(f"Compute {document.name!r} is no AmlCompute cluster: only those have nodes.")
    running = call.services.store.read(
        lambda c: c.execute(
            select(jobs.c.name)
            .where(
                jobs.c.workspace_id == call.workspace.id,
                jobs.c.state == "Running",
                func.lower(jobs.c.compute) == document.name.lower(),
            )
            .order_by(jobs.c.sequence.desc())
            .limit(1)
        ).scalar()
    )
    return {
        "nodes": [
            {
                "nodeId": os.uname().nodename,
                "privateIpAddress": "127.0.0.1",
                "publicIpAddress": None,
                "port": None,
                "nodeState": "running" if running else "idle",
                "runId": running,
            }
        ]
    }


def _to_state(state: str) -> Any:
    """An action that records `state` for a compute instance. Anything else is refused with 409."""

    def act(call: Call, document: Document) -> Response:
        if document.properties["computeType"] != _INSTANCE:
            raise conflict(
                f"Compute {document.name!r} is of type {document.properties['computeType']}: "
                "only compute instances start and stop."
            )

        def write(c: Connection) -> None:
            now = documents.get(c, call.workspace.id, "computes", document.name)
            if now is None:
                raise missing(call.resource, document.name)
            inner = {
                **now.properties["properties"],
                "state": state,
                "lastOperation": {
                    "operationName": "Stop" if state == "Stopped" else "Start",
                    "operationTime": datetime.now(UTC).isoformat(),
                    "operationStatus": "Succeeded",
                },
            }
            body = {**now.body, "properties": {**now.properties, "properties": inner}}
            documents.put(c, call.workspace.id, "computes", now.name, "", body)

        call.services.store.write(write)
        # Clients take nothing but 202 here; the record is changed already.
        operations = call.services.operations
        operation = operations.start(call.arm_id)
        operations.succeed(operation)
        return Response(status=202, headers=operations.headers(operation, location=True))

    return act


def _enable_sso(call: Call, document: Document) -> dict[str, Any]:
    """Keep on a compute instance's record whether it has single sign-on. Raises 409 for other computes."""
    if document.properties["computeType"] != _INSTANCE:
        raise conflict(
            f"Compute {document.name!r} is of type {document.properties['computeType']}: "
            "only compute instances have single sign-on."
        )
    enabled = json_body().get("enableSSO")
    if not isinstance(enabled, bool):
        raise bad_request("InvalidRequestContent", "`enableSSO` must be true or false.", target="enableSSO")

    def write(c: Connection) -> None:
        now = documents.get(c, call.workspace.id, "computes", document.name)
        if now is None:
            raise missing(call.resource, document.name)
        inner = {**now.properties["properties"], "enableSSO": enabled}
        body = {**now.body, "properties": {**now.properties, "properties": inner}}
        documents.put(c, call.workspace.id, "computes", now.name, "", body)

    call.services.store.write(write)
    return {}


COMPUTES = Resource(
    path="computes",
    title="Compute",
    top_level=("location", "tags", "identity", "sku"),
    builtin=_builtin,
    prepare=_prepare,
    actions={
        "enableSso": _enable_sso,
        "listNodes": _nodes,
        "start": _to_state("Running"),
        "stop": _to_state("Stopped"),
        "restart": _to_state("Running"),
    },
    filters={
        "computeType": lambda document, value: document.properties["computeType"].lower() == value.lower()
    },
)
