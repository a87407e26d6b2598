"""Online endpoints: an address, keys or tokens, and traffic over deployments."""

from __future__ import annotations

import re
from typing import Any

from flask import Response
from sqlalchemy import Connection

from amlocal.compat import cloud
from amlocal.emulator.arm import documents, endpoint_identity, endpoint_keys, endpoint_traffic
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.resource import Call, Resource, properties_of
from amlocal.emulator.endpoints.deployment_records import DEPLOYMENTS, ENDPOINTS, KEYS
from amlocal.emulator.endpoints.deployments import route_key
from amlocal.emulator.http.errors import AzureError, bad_request, conflict, not_there_yet

# Azure: 3 to 32 characters, a letter first, single dashes between letters and digits.
NAME = re.compile(r"(?=.{3,32}\Z)[A-Za-z](?:-?[A-Za-z0-9])*\Z")
NAME_WORDS = "3 to 32 letters, digits and single dashes, beginning with a letter and not ending with a dash"
AUTH_MODES = {"key": "Key", "amltoken": "AMLToken", "aadtoken": "AADToken"}
_ACCESS = {"enabled": "Enabled", "disabled": "Disabled"}
# What azure-ai-ml puts among the properties of an endpoint that it read, and sends back with the next update.
_OF_THE_CLIENT = ("createdBy", "createdAt", "lastModifiedAt")


def _prepare(call: Call, body: dict[str, Any], present: Document | None) -> dict[str, Any]:
    given = properties_of(body)
    before: dict[str, Any] = {} if present is None else present.properties
    if given.get("compute") or str(body.get("kind") or "").lower() in ("k8s", "kubernetes"):
        raise not_there_yet("A Kubernetes online endpoint (`compute`)")
    properties: dict[str, Any] = {
        "authMode": _one_of(
            AUTH_MODES, given.get("authMode") or before.get("authMode") or "Key", "authMode", "AuthMode"
        ),
        "traffic": endpoint_traffic.weights(given.get("traffic"), "traffic"),
        "mirrorTraffic": endpoint_traffic.weights(given.get("mirrorTraffic"), "mirrorTraffic"),
        "properties": _own_properties(given.get("properties"), before.get("properties") or {}),
        "provisioningState": "Succeeded",
    }
    if given.get("description") is not None:
        properties["description"] = given["description"]
    if given.get("publicNetworkAccess"):
        properties["publicNetworkAccess"] = _one_of(
            _ACCESS, given["publicNetworkAccess"], "publicNetworkAccess", "PublicNetworkAccess"
        )
    known: dict[str, Any] = {} if present is None else present.body
    return {
        **body,
        "location": body.get("location") or known.get("location") or cloud.LOCATION,
        "kind": "Managed",
        "identity": endpoint_identity.identity_of(body.get("identity"), known.get("identity")),
        "properties": properties,
        endpoint_keys.CHOSEN: endpoint_keys.chosen(given.get("keys")),
    }


def _one_of(values: dict[str, str], given: Any, field: str, code: str) -> str:
    """Azure's spelling of a value that compares without case. Raises 400 naming those that there are."""
    value = values.get(str(given).lower())
    if value is None:
        raise bad_request(
            f"Invalid{code}", f"{field} {str(given)[:60]!r}: use {_either(values)}.", target=field
        )
    return value


def _either(values: dict[str, str]) -> str:
    *most, last = values.values()
    return f"{', '.join(most)} or {last}"


def _own_properties(given: Any, before: dict[str, str]) -> dict[str, str]:
    """The user's own properties. REST reference: they can be added, but not removed or altered."""
    if given is not None and not isinstance(given, dict):
        raise _bad_properties("`properties.properties` must map texts to texts.")
    own = {key: value for key, value in (given or {}).items() if key not in _OF_THE_CLIENT}
    for key, value in own.items():
        if not isinstance(value, str):
            raise _bad_properties(f"`properties.properties.{key[:100]}` must be a text; write it in quotes.")
        if before.get(key, value) != value:
            raise conflict(
                f"Property {key[:100]!r} of the endpoint is {before[key][:100]!r} and cannot be altered: "
                "properties can be added only. Use tags for what changes.",
                code="PropertyCannotBeChanged",
                target="properties",
            )
    return {**before, **own}


def _bad_properties(message: str) -> AzureError:
    return bad_request("InvalidRequestContent", message, target="properties")


def _settle(c: Connection, call: Call, prepared: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    properties = kept["properties"]
    live, copies = endpoint_traffic.settled(
        c, call.workspace.id, call.name, properties["traffic"], properties["mirrorTraffic"]
    )
    endpoint_keys.ensure(c, call.workspace.id, call.name, prepared[endpoint_keys.CHOSEN])
    return {**kept, "properties": {**properties, "traffic": live, "mirrorTraffic": copies}}


def _present(call: Call, document: Document) -> dict[str, Any]:
    address = f"{call.services.settings.router_url}/{route_key(call.workspace, document.name)}"
    return {
        # What the user has not chosen is told as it is: nothing but this machine reaches an endpoint.
        "publicNetworkAccess": "Disabled",
        **document.properties,
        "scoringUri": f"{address}/score",
        "swaggerUri": f"{address}/swagger.json",
    }


def _after_put(call: Call, document: Document, created: bool) -> Response | None:
    call.services.deployments.publish()
    return None


def _on_delete(call: Call, document: Document) -> Response:
    """The endpoint and everything below it."""
    services, workspace = call.services, call.workspace

    def remove(c: Connection) -> list[str]:
        below = documents.listing(c, workspace.id, DEPLOYMENTS, prefix=f"{document.name}/")
        for deployment in below:
            documents.remove(c, workspace.id, DEPLOYMENTS, deployment.name)
        documents.remove(c, workspace.id, ENDPOINTS, document.name)
        documents.remove(c, workspace.id, KEYS, document.name)
        return [deployment.name for deployment in below]

    names = services.store.write(remove)
    services.deployments.publish()
    operation = services.operations.start(call.arm_id)
    for name in names:
        services.deployments.withdraw(workspace, name, services.operations.start(f"{call.arm_id}/{name}"))
    services.operations.succeed(operation)
    return Response(status=202, headers=services.operations.headers(operation, location=True))


ONLINE_ENDPOINTS = Resource(
    path=ENDPOINTS,
    title="Online endpoint",
    name_rule=NAME,
    name_words=NAME_WORDS,
    top_level=("location", "tags", "identity", "kind", "sku"),
    prepare=_prepare,
    settle=_settle,
    present=_present,
    after_put=_after_put,
    on_delete=_on_delete,
    actions={
        "listKeys": endpoint_keys.list_keys,
        "regenerateKeys": endpoint_keys.regenerate,
        "token": endpoint_keys.token,
    },
)
