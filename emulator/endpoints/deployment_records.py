"""What is stored of deployments: what is wanted, what became of it, and what each served last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from amlocal.emulator.arm import documents
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.workspace import Workspace

ENDPOINTS = "onlineEndpoints"
DEPLOYMENTS = "onlineEndpoints/deployments"
KEYS = "onlineEndpoints/keys"
# The settings that a deployment served last: what goes on when an update fails.
SERVED = "onlineEndpoints/served"

Settings = Mapping[str, Any]


def settle(store: Store, workspace: Workspace, name: str, settings: Settings) -> None:
    """Deployment `endpoint/deployment` serves with these settings."""

    def write(c: Connection) -> None:
        _change(c, workspace, name, "Succeeded", None, settings)
        if documents.get(c, workspace.id, DEPLOYMENTS, name) is not None:
            documents.put(c, workspace.id, SERVED, name, "", {"properties": {}, "amlocal": dict(settings)})

    store.write(write)


def set_failed(
    store: Store, workspace: Workspace, name: str, error: str, settings: Settings | None = None
) -> None:
    """The deployment cannot be brought up with these settings, or with any for None."""
    store.write(lambda c: _change(c, workspace, name, "Failed", error, settings))


def _change(
    c: Connection, workspace: Workspace, name: str, state: str, error: str | None, settings: Settings | None
) -> None:
    """Store what became of a deployment, unless something else is wanted of it by now."""
    present = documents.get(c, workspace.id, DEPLOYMENTS, name)
    if present is None or (settings is not None and present.body["amlocal"] != settings):
        return
    properties = {**present.properties, "provisioningState": state}
    body = {**present.body, "properties": properties, "error": error}
    documents.put(c, workspace.id, DEPLOYMENTS, name, "", body)
