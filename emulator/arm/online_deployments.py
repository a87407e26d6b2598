"""Online deployments: a model behind an endpoint, in processes of its own."""

from __future__ import annotations

import re
from typing import Any

from flask import Response, jsonify
from sqlalchemy import Connection

from amlocal.emulator.arm import deployment_request, documents, endpoint_identity, endpoint_traffic
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.online_endpoints import ONLINE_ENDPOINTS
from amlocal.emulator.arm.resource import Call, Resource, find, json_body, properties_of
from amlocal.emulator.endpoints import container_logs
from amlocal.emulator.endpoints.deployment_records import DEPLOYMENTS
from amlocal.emulator.endpoints.versions import same_but_count
from amlocal.emulator.http.errors import bad_request, conflict
from amlocal.emulator.jobs.environments import merged
from amlocal.emulator.store.workspace import PROVIDER

# Azure: 3 to 32 letters, digits and dashes, a letter first, no dash at the end.
NAME = re.compile(r"(?=.{3,32}\Z)[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]\Z")
MOST_DEPLOYMENTS = 20
_ERROR = "amlocal.error"
_LOGS = {
    "inferenceserver": container_logs.INFERENCE_SERVER,
    "storageinitializer": container_logs.STORAGE_INITIALIZER,
}


def _prepare(call: Call, body: dict[str, Any], present: Document | None) -> dict[str, Any]:
    properties = dict(properties_of(body))
    endpoint = find(call.services, call.workspace, ONLINE_ENDPOINTS, call.name.partition("/")[0])
    if present is not None:
        deployment_request.check_unchanged(present, properties)
        for name in ("instanceType", "endpointComputeType"):
            properties[name] = properties.get(name) or present.properties.get(name)
    settings = deployment_request.read(call, properties, body.get("sku"))
    settings["identity"] = (endpoint.body.get("identity") or {}).get("type") != endpoint_identity.NONE
    versions = call.services.deployments.versions
    plan = versions.plan(call.workspace, settings)
    if plan is not None:
        settings["environment"] = plan.definition.label
    given = properties.get("properties")
    if given is not None and not isinstance(given, dict):
        raise bad_request("InvalidRequestContent", "`properties.properties` must be an object.")
    properties["endpointComputeType"] = properties.get("endpointComputeType") or "Managed"
    properties["scaleSettings"] = properties.get("scaleSettings") or {"scaleType": "Default"}
    properties["properties"] = merged(given or {}, versions.properties(plan))
    properties["properties"].pop(_ERROR, None)
    properties["provisioningState"] = _state(present, settings)
    sku = {"name": "Default", **(body.get("sku") or {}), "capacity": settings["instances"]}
    return {**body, "properties": properties, "sku": sku, "amlocal": settings}


def _state(present: Document | None, settings: dict[str, Any]) -> str:
    """What Azure calls the way to the wished state."""
    if present is None or present.properties.get("provisioningState") == "Creating":
        return "Creating"
    before = present.body.get("amlocal") or {}
    if same_but_count(before, settings) and before.get("instances") != settings["instances"]:
        return "Scaling"
    return "Updating"


def _present(call: Call, document: Document) -> dict[str, Any]:
    properties = dict(document.properties)
    if document.body.get("error"):
        properties["properties"] = {**properties["properties"], _ERROR: document.body["error"]}
    return properties


def _after_put(call: Call, document: Document, created: bool) -> Response:
    services = call.services
    operation = services.operations.start(call.arm_id)
    services.deployments.provision(call.workspace, document.name, operation)
    response = jsonify(
        {
            "id": call.arm_id,
            "name": document.name.partition("/")[2],
            "type": f"{PROVIDER}/workspaces/{DEPLOYMENTS}",
            "location": document.body.get("location"),
            "sku": document.body["sku"],
            "tags": document.body.get("tags") or {},
            "properties": _present(call, document),
        }
    )
    response.status_code = 201 if created else 200
    response.headers.update(services.operations.headers(operation))
    return response


def _on_delete(call: Call, document: Document) -> Response:
    services, workspace = call.services, call.workspace

    def remove(c: Any) -> None:
        endpoint_traffic.release(c, workspace.id, document.name)
        documents.remove(c, workspace.id, DEPLOYMENTS, document.name)

    services.store.write(remove)
    operation = services.operations.start(call.arm_id)
    services.deployments.withdraw(workspace, document.name, operation)
    return Response(status=202, headers=services.operations.headers(operation, location=True))


def _get_logs(call: Call, document: Document) -> dict[str, Any]:
    body = json_body()
    tail = body.get("tail") or 50
    if isinstance(tail, bool) or not isinstance(tail, int) or not 1 <= tail <= 100_000:
        raise bad_request("InvalidRequestContent", "`tail` must be a whole number from 1.", target="tail")
    wanted = str(body.get("containerType") or "InferenceServer")
    if wanted.lower() not in _LOGS:
        raise bad_request(
            "InvalidContainerType",
            f"containerType {wanted[:60]!r}: use InferenceServer or StorageInitializer.",
            target="containerType",
        )
    content = call.services.deployments.tail(call.workspace, document.name, tail, _LOGS[wanted.lower()])
    return {"content": content}


def _settle(c: Connection, call: Call, prepared: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    # Again, in the transaction that stores: the endpoint may have been deleted meanwhile.
    endpoint = call.name.partition("/")[0]
    find(call.services, call.workspace, ONLINE_ENDPOINTS, endpoint, connection=c)
    others = documents.listing(c, call.workspace.id, DEPLOYMENTS, prefix=f"{endpoint}/")
    if len(others) >= MOST_DEPLOYMENTS and call.name.lower() not in {one.name.lower() for one in others}:
        raise conflict(
            f"Endpoint {endpoint!r} has {len(others)} deployments, the most that it can have. Delete one.",
            code="TooManyDeployments",
        )
    return kept


ONLINE_DEPLOYMENTS = Resource(
    path="onlineEndpoints/{}/deployments",
    title="Online deployment",
    name_rule=NAME,
    top_level=("location", "tags", "identity", "kind", "sku", "amlocal"),
    hidden=("amlocal",),
    prepare=_prepare,
    settle=_settle,
    present=_present,
    after_put=_after_put,
    on_delete=_on_delete,
    actions={"getLogs": _get_logs},
)
