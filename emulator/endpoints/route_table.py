"""The route table: all that the router knows, in one file that the server replaces and the router reads.

{"version": n, "endpoints": {"<workspace id>/<endpoint>": {"auth_mode", "created", "key_hashes": [sha256
hex], "traffic": {deployment: percent}, "mirror": {deployment: percent}, "deployments": {name: {"instances":
[{"socket"}], "request_timeout_ms", "max_concurrent", "max_queue_wait_ms", "state"}}}}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

# Azure's defaults of `request_settings`.
DEFAULT_TIMEOUT_MS = 5000
DEFAULT_QUEUE_WAIT_MS = 500
SERVING = "Succeeded"


class RouteTableError(ValueError):
    """The file is not a route table; the message names the field."""


@dataclass(frozen=True)
class Instance:
    """One scorer process, by the path of its unix socket."""

    socket: str


@dataclass(frozen=True)
class DeploymentRoute:
    """A deployment's instances and limits; `max_concurrent` is per instance.

    `max_queue_wait_ms` is kept and has no effect, as Azure documents it for managed endpoints: the time
    that a request waits for an instance counts towards `request_timeout_ms`.
    """

    instances: tuple[Instance, ...] = ()
    request_timeout_ms: int = DEFAULT_TIMEOUT_MS
    max_concurrent: int = 1
    max_queue_wait_ms: int = DEFAULT_QUEUE_WAIT_MS
    state: str = SERVING

    @property
    def serving(self) -> bool:
        return self.state == SERVING and bool(self.instances)


@dataclass(frozen=True)
class EndpointRoute:
    """An endpoint: who may call it, and where its requests go.

    `auth_mode`: "Key", "AMLToken" or "AADToken". `created`: when it was created, which tells it from another
    endpoint that had its name before. `mirror`: the percentage of requests of which a deployment gets a copy.
    """

    auth_mode: str = "Key"
    created: str = ""
    key_hashes: tuple[str, ...] = ()
    traffic: Mapping[str, int] = field(default_factory=dict)
    mirror: Mapping[str, int] = field(default_factory=dict)
    deployments: Mapping[str, DeploymentRoute] = field(default_factory=dict)


@dataclass(frozen=True)
class RouteTable:
    """Endpoints by `endpoint_key`. `version` grows with each change."""

    version: int = 0
    endpoints: Mapping[str, EndpointRoute] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def parse(cls, text: str) -> RouteTable:
        """Raises RouteTableError."""
        try:
            raw = json.loads(text)
        except json.JSONDecodeError as error:
            raise RouteTableError(f"not JSON: {error}") from error
        endpoints = _mapping(raw, "the route table").get("endpoints", {})
        return cls(
            version=_number(raw, "version", 0, "the route table"),
            endpoints={key: _endpoint(value, key) for key, value in _mapping(endpoints, "endpoints").items()},
        )


def endpoint_key(workspace_id: str, endpoint: str) -> str:
    """How an endpoint is called in the table and in its scoring URI. Endpoint names ignore case in Azure."""
    return f"{workspace_id}/{endpoint}".lower()


def _endpoint(raw: Any, key: str) -> EndpointRoute:
    value = _mapping(raw, key)
    deployments = _mapping(value.get("deployments", {}), f"{key}: deployments")
    return EndpointRoute(
        auth_mode=_text(value, "auth_mode", "Key", key),
        created=_text(value, "created", "", key),
        key_hashes=tuple(str(item) for item in value.get("key_hashes", ())),
        traffic=_weights(value, "traffic", key),
        mirror=_weights(value, "mirror", key),
        deployments={name: _deployment(item, f"{key}: {name}") for name, item in deployments.items()},
    )


def _weights(raw: Mapping[str, Any], name: str, where: str) -> dict[str, int]:
    where = f"{where}: {name}"
    weights = _mapping(raw.get(name, {}), where)
    return {deployment: _number(weights, deployment, 0, where) for deployment in weights}


def _deployment(raw: Any, where: str) -> DeploymentRoute:
    value = _mapping(raw, where)
    instances = value.get("instances", [])
    if not isinstance(instances, list):
        raise RouteTableError(f"{where}: instances must be a list")
    return DeploymentRoute(
        instances=tuple(Instance(_text(_mapping(item, where), "socket", "", where)) for item in instances),
        request_timeout_ms=_number(value, "request_timeout_ms", DEFAULT_TIMEOUT_MS, where),
        max_concurrent=max(1, _number(value, "max_concurrent", 1, where)),
        max_queue_wait_ms=max(0, _number(value, "max_queue_wait_ms", DEFAULT_QUEUE_WAIT_MS, where)),
        state=_text(value, "state", SERVING, where),
    )


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise RouteTableError(f"{where} must be an object")
    return value


def _number(raw: Mapping[str, Any], name: str, default: int, where: str) -> int:
    value = raw.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise RouteTableError(f"{where}: {name} must be a whole number, not {value!r}")
    return value


def _text(raw: Mapping[str, Any], name: str, default: str, where: str) -> str:
    value = raw.get(name, default)
    if not isinstance(value, str):
        raise RouteTableError(f"{where}: {name} must be text, not {value!r}")
    return value
