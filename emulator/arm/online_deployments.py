"""Online deployments: a model behind an endpoint, in processes of its own."""

from __future__ import annotations

import re
from typing import Any

import isodate
from flask import Response, jsonify

from amlocal.emulator.arm import documents
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.models import MODELS
from amlocal.emulator.arm.online_endpoints import ONLINE_ENDPOINTS
from amlocal.emulator.arm.resource import Call, Resource, find, json_body, properties_of
from amlocal.emulator.endpoints.deployments import DEPLOYMENTS
from amlocal.emulator.http.errors import bad_request, conflict, not_there_yet
from amlocal.emulator.store.workspace import PROVIDER

NAME = re.compile(r"(?=.{1,32}\Z)[A-Za-z](?:-?[A-Za-z0-9_])*\Z")
_MODEL = re.compile(
    r"(?:azureml:)?(?P<workspace>/.+/workspaces/[^/]+/models/)?(?P<name>[^/:@]+)(?:/versions/|:)(?P<version>[^/:]+)\Z"
)
_MOST_INSTANCES = 50
_MOST_TIMEOUT_MS = 180_000
_DEFAULT_TIMEOUT = "PT5S"


def _prepare(call: Call, body: dict[str, Any], present: Document | None) -> dict[str, Any]:
    properties = dict(properties_of(body))
    endpoint = call.name.partition("/")[0]
    find(call.services, call.workspace, ONLINE_ENDPOINTS, endpoint)
    if properties.get("codeConfiguration"):
        raise not_there_yet("A deployment with a scoring script (codeConfiguration)")
    model = _model(call, properties.get("model"))
    settings = {
        "model_uri": model.properties["modelUri"],
        "instances": _instances(body.get("sku")),
        **_request_settings(properties.get("requestSettings")),
    }
    variables = properties.get("environmentVariables") or {}
    if not isinstance(variables, dict) or not all(isinstance(value, str) for value in variables.values()):
        raise bad_request(
            "InvalidRequestContent",
            "`environmentVariables` must map texts to texts.",
            target="environmentVariables",
        )
    properties["endpointComputeType"] = properties.get("endpointComputeType") or "Managed"
    properties["scaleSettings"] = properties.get("scaleSettings") or {"scaleType": "Default"}
    properties["properties"] = properties.get("properties") or {}
    properties["provisioningState"] = "Creating" if present is None else "Updating"
    sku = {"name": "Default", **(body.get("sku") or {}), "capacity": settings["instances"]}
    return {**body, "properties": properties, "sku": sku, "amlocal": settings}


def _model(call: Call, reference: Any) -> Document:
    if not isinstance(reference, str) or not reference:
        raise bad_request("InvalidModel", "`properties.model` must name a registered model.", target="model")
    match = _MODEL.match(reference)
    if match is None:
        raise bad_request(
            "InvalidModel",
            f"model {reference[:200]!r}: give azureml:NAME:VERSION or a model's ARM id.",
            target="model",
        )
    prefix = match["workspace"]
    own = f"{call.workspace.arm_id}/models/"
    if prefix and prefix.lower() != own.lower():
        raise bad_request(
            "InvalidModel", f"model {reference[:300]!r} is in another workspace.", target="model"
        )
    document = find(call.services, call.workspace, MODELS, match["name"], match["version"])
    if document.properties.get("modelType") != "mlflow_model":
        raise bad_request(
            "InvalidModel",
            f"model {document.name}:{document.version} is a {document.properties.get('modelType')}; "
            "without a scoring script only an mlflow_model can be deployed.",
            target="model",
        )
    return document


def _instances(sku: Any) -> int:
    capacity = (sku or {}).get("capacity", 1) if isinstance(sku, dict) or sku is None else None
    if isinstance(capacity, bool) or not isinstance(capacity, int) or not 1 <= capacity <= _MOST_INSTANCES:
        raise bad_request(
            "InvalidInstanceCount",
            f"instance_count must be a whole number from 1 to {_MOST_INSTANCES}.",
            target="sku",
        )
    return capacity


def _request_settings(settings: Any) -> dict[str, int]:
    settings = settings or {}
    text = settings.get("requestTimeout") or _DEFAULT_TIMEOUT
    try:
        timeout = round(isodate.parse_duration(text).total_seconds() * 1000)
    except (isodate.ISO8601Error, TypeError, AttributeError) as error:
        raise bad_request(
            "InvalidRequestSettings",
            f"requestTimeout {str(text)[:40]!r} is not a duration.",
            target="requestTimeout",
        ) from error
    if not 1 <= timeout <= _MOST_TIMEOUT_MS:
        raise bad_request(
            "InvalidRequestSettings",
            f"request_timeout_ms is {timeout}: use 1 to {_MOST_TIMEOUT_MS}.",
            target="requestTimeout",
        )
    concurrent = settings.get("maxConcurrentRequestsPerInstance") or 1
    if isinstance(concurrent, bool) or not isinstance(concurrent, int) or not 1 <= concurrent <= 1000:
        raise bad_request(
            "InvalidRequestSettings",
            "max_concurrent_requests_per_instance must be a whole number from 1 to 1000.",
            target="maxConcurrentRequestsPerInstance",
        )
    return {"request_timeout_ms": timeout, "max_concurrent": concurrent}


def _present(call: Call, document: Document) -> dict[str, Any]:
    properties = dict(document.properties)
    if document.body.get("error"):
        properties["properties"] = {**properties["properties"], "amlocal.error": document.body["error"]}
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
    response.status_code = 201
    response.headers.update(services.operations.headers(operation))
    return response


def _on_delete(call: Call, document: Document) -> Response:
    services, workspace = call.services, call.workspace
    endpoint_name, _, deployment = document.name.partition("/")

    def remove(c: Any) -> None:
        endpoint = documents.get(c, workspace.id, ONLINE_ENDPOINTS.kind, endpoint_name)
        weight = (endpoint.properties.get("traffic") or {}).get(deployment, 0) if endpoint else 0
        if weight:
            raise conflict(
                f"Deployment {deployment!r} has {weight} % of the traffic of endpoint {endpoint_name!r}. "
                "Set its traffic to 0 first.",
                code="DeploymentHasTraffic",
                target="traffic",
            )
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
    if str(body.get("containerType") or "InferenceServer").lower() == "storageinitializer":
        # Models are read where they lie, so nothing is ever fetched for a deployment.
        return {"content": f"The model is read in place: {document.body['amlocal']['model_uri']}\n"}
    return {"content": call.services.deployments.tail(call.workspace, document.name, tail)}


ONLINE_DEPLOYMENTS = Resource(
    path="onlineEndpoints/{}/deployments",
    title="Online deployment",
    name_rule=NAME,
    top_level=("location", "tags", "identity", "kind", "sku", "amlocal"),
    hidden=("amlocal",),
    prepare=_prepare,
    present=_present,
    after_put=_after_put,
    on_delete=_on_delete,
    actions={"getLogs": _get_logs},
)
