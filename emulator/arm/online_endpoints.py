"""Online endpoints: an address, keys, and traffic over deployments."""

from __future__ import annotations

import re
from typing import Any

from flask import Response

from amlocal.emulator.arm import documents
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.resource import Call, Resource, json_body, properties_of
from amlocal.emulator.endpoints.deployments import DEPLOYMENTS, ENDPOINTS, KEYS, route_key
from amlocal.emulator.endpoints.keys import EndpointKeys, generate_key, generate_keys
from amlocal.emulator.http.errors import bad_request, not_there_yet

# Azure: 3 to 32 characters, a letter first, single dashes between letters and digits.
NAME = re.compile(r"(?=.{3,32}\Z)[A-Za-z](?:-?[A-Za-z0-9])*\Z")


def _prepare(call: Call, body: dict[str, Any], present: Document | None) -> dict[str, Any]:
    properties = dict(properties_of(body))
    mode = str(properties.get("authMode") or "Key")
    if mode.lower() in ("amltoken", "aadtoken"):
        raise not_there_yet(f"authMode {mode} of an online endpoint")
    if mode.lower() != "key":
        raise bad_request(
            "InvalidAuthMode", f"authMode {mode[:60]!r}: use Key, AMLToken or AADToken.", target="authMode"
        )
    if properties.get("mirrorTraffic"):
        raise not_there_yet("Mirror traffic of an online endpoint")
    properties["authMode"] = "Key"
    properties["traffic"] = _traffic(call, properties.get("traffic"))
    properties["mirrorTraffic"] = {}
    properties["properties"] = properties.get("properties") or {}
    properties["provisioningState"] = "Succeeded"
    # Keys that a client chose are not part of what everybody may read.
    properties.pop("keys", None)
    return {**body, "properties": properties}


def _traffic(call: Call, wanted: Any) -> dict[str, int]:
    """Weights by deployment. Raises 400 for an unknown deployment or a sum that Azure would refuse."""
    if wanted is None:
        return {}
    if not isinstance(wanted, dict):
        raise bad_request(
            "InvalidTraffic", "`traffic` must map deployments to percentages.", target="traffic"
        )
    deployments = call.services.store.read(
        lambda c: documents.listing(c, call.workspace.id, DEPLOYMENTS, prefix=f"{call.name}/")
    )
    known = [document.name.partition("/")[2] for document in deployments]
    for name, weight in wanted.items():
        if isinstance(weight, bool) or not isinstance(weight, int) or not 0 <= weight <= 100:
            raise bad_request(
                "InvalidTraffic",
                f"traffic of {str(name)[:60]!r} is {str(weight)[:20]!r}: use a whole number from 0 to 100.",
                target="traffic",
            )
        if name not in known and weight > 0:
            raise bad_request(
                "InvalidTraffic",
                f"traffic names deployment {str(name)[:60]!r}, which endpoint {call.name!r} does not have. "
                f"It has: {', '.join(known) or 'none yet'}.",
                target="traffic",
            )
    if sum(wanted.values()) not in (0, 100):
        raise bad_request(
            "InvalidTraffic",
            f"traffic sums up to {sum(wanted.values())}: the percentages must sum up to 100, or to 0.",
            target="traffic",
        )
    return {str(name): int(weight) for name, weight in wanted.items()}


def _present(call: Call, document: Document) -> dict[str, Any]:
    address = f"{call.services.settings.router_url}/{route_key(call.workspace, document.name)}"
    return {
        **document.properties,
        "scoringUri": f"{address}/score",
        "swaggerUri": f"{address}/swagger.json",
        "publicNetworkAccess": "Disabled",
    }


def _after_put(call: Call, document: Document, created: bool) -> Response | None:
    def ensure_keys(c: Any) -> None:
        if documents.get(c, call.workspace.id, KEYS, document.name) is None:
            _put_keys(c, call, document.name, generate_keys())

    call.services.store.write(ensure_keys)
    call.services.deployments.publish()
    return None


def _put_keys(c: Any, call: Call, name: str, keys: EndpointKeys) -> None:
    body = {"primary": keys.primary, "secondary": keys.secondary, "hashes": list(keys.hashes())}
    documents.put(c, call.workspace.id, KEYS, name, "", body)


def _keys(call: Call, document: Document) -> EndpointKeys:
    stored = call.services.store.read(lambda c: documents.get(c, call.workspace.id, KEYS, document.name))
    assert stored is not None
    return EndpointKeys(stored.body["primary"], stored.body["secondary"])


def _list_keys(call: Call, document: Document) -> dict[str, Any]:
    keys = _keys(call, document)
    return {"primaryKey": keys.primary, "secondaryKey": keys.secondary}


def _regenerate_keys(call: Call, document: Document) -> Response:
    body = json_body()
    which = str(body.get("keyType", "")).lower()
    if which not in ("primary", "secondary"):
        raise bad_request("InvalidKeyType", "`keyType` must be Primary or Secondary.", target="keyType")
    old = _keys(call, document)
    # A caller's own key value is not taken: 256 random bits are what the stored hash relies on.
    keys = EndpointKeys(
        generate_key() if which == "primary" else old.primary,
        generate_key() if which == "secondary" else old.secondary,
    )
    call.services.store.write(lambda c: _put_keys(c, call, document.name, keys))
    call.services.deployments.publish()
    operation = call.services.operations.start(call.arm_id)
    call.services.operations.succeed(operation)
    return Response(status=202, headers=call.services.operations.headers(operation, location=True))


def _on_delete(call: Call, document: Document) -> Response:
    """The endpoint and everything below it."""
    services, workspace = call.services, call.workspace

    def remove(c: Any) -> list[str]:
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
    top_level=("location", "tags", "identity", "kind", "sku"),
    prepare=_prepare,
    present=_present,
    after_put=_after_put,
    on_delete=_on_delete,
    actions={"listKeys": _list_keys, "regenerateKeys": _regenerate_keys},
)
