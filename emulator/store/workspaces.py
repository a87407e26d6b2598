"""The workspaces that answer: known triples of subscription, resource group and name."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from amlocal.compat import cloud
from amlocal.emulator import crash_points
from amlocal.emulator.http.errors import AzureError, bad_request
from amlocal.emulator.store import tables
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.workspace import Workspace

_TABLE = tables.workspaces
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{1,32}\Z")
_GROUP = re.compile(r"[\w().-]{0,89}[\w()-]\Z")
_SUBSCRIPTION = re.compile(r"[A-Za-z0-9-]{1,64}\Z")


def key_of(subscription: str, resource_group: str, name: str) -> str:
    """Names of Azure resources compare without case."""
    return f"{subscription}/{resource_group}/{name}".lower()


class Workspaces:
    """Finds, adds, changes and removes workspaces.

    Their identities are few and never change, so they are kept in memory too; their settings are read anew.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, Workspace] = {}
        self._accounts: dict[str, Workspace] = {}
        # Ids of removed workspaces: a look-up that began before the removal must not bring one back.
        self._removed: set[str] = set()
        self._added: list[Callable[[Workspace], None]] = []

    def on_add(self, listener: Callable[[Workspace], None]) -> None:
        """Have `listener` called with every workspace that `add` is asked for; it must be idempotent."""
        self._added.append(listener)

    def find(self, subscription: str, resource_group: str, name: str) -> Workspace | None:
        key = key_of(subscription, resource_group, name)
        known = self._known.get(key)
        if known is None or known.id in self._removed:
            found = self._store.read(lambda c: _select(c, _TABLE.c.key == key))
            if not found or found[0].id in self._removed:
                return None
            known = self._known[key] = found[0]
        return known

    def get(self, subscription: str, resource_group: str, name: str) -> Workspace:
        """The workspace, or 404 with the command that adds it."""
        found = self.find(subscription, resource_group, name)
        if found is None:
            triple = f"{subscription[:80]}/{resource_group[:100]}/{name[:80]}"
            raise AzureError(
                404,
                "ResourceNotFound",
                f"The workspace {triple} is not known to this server. "
                f"To add it run: amlocal workspace add {triple}",
                target="workspace",
            )
        return found

    def by_account(self, account: str) -> Workspace:
        """The workspace whose storage account that is. Raises 404."""
        known = self._accounts.get(account)
        if known is None or known.id in self._removed:
            found = self._store.read(lambda c: _select(c, _TABLE.c.account == account))
            if not found or found[0].id in self._removed:
                raise AzureError(
                    404, "ResourceNotFound", f"No workspace has the storage account {account[:60]!r}."
                )
            known = self._accounts[account] = found[0]
        return known

    def all(self) -> list[Workspace]:
        return self._store.read(lambda c: _select(c, True))

    def add(self, subscription: str, resource_group: str, name: str) -> Workspace:
        """Make the triple answer; adding it again changes nothing. Raises 400 for a bad name."""
        return self.create(subscription, resource_group, name, {"location": cloud.LOCATION, "tags": {}})[0]

    def create(
        self, subscription: str, resource_group: str, name: str, body: Mapping[str, Any]
    ) -> tuple[Workspace, bool]:
        """The workspace, and whether it is new; one that exists keeps its settings.

        Raises 400 for a bad name. `body` holds `location`, `tags` and `properties` as checked by
        `arm/workspace_settings.py`.
        """
        for what, value, rule in (
            ("subscription", subscription, _SUBSCRIPTION),
            ("resource group", resource_group, _GROUP),
            ("workspace", name, _NAME),
        ):
            if not rule.match(value):
                raise bad_request(
                    "InvalidResourceName", f"{value[:100]!r} is not a valid {what} name.", target=what
                )
        identity = uuid.uuid4()

        def insert_new(connection: Connection) -> tuple[Workspace, bool]:
            key = key_of(subscription, resource_group, name)
            present = _select(connection, _TABLE.c.key == key)
            if present:
                return present[0], False
            connection.execute(
                insert(_TABLE).values(
                    id=str(identity),
                    subscription=subscription,
                    resource_group=resource_group,
                    name=name,
                    key=key,
                    account=f"aml{identity.hex[:12]}",
                    body=json.dumps(body),
                    created_at=datetime.now(UTC).isoformat(),
                )
            )
            return _select(connection, _TABLE.c.key == key)[0], True

        workspace, created = self._store.write(insert_new)
        crash_points.reach("workspace.stored")
        for listener in self._added:
            listener(workspace)
        return workspace, created

    def body(self, workspace: Workspace) -> dict[str, Any]:
        """The settings as stored, and `createdAt`. Raises 404 when the workspace has been removed."""
        return self._store.read(lambda c: _body(c, workspace))

    def described(self) -> list[tuple[Workspace, dict[str, Any]]]:
        """Every workspace with its settings, as `body` gives them, oldest first."""

        def read(c: Connection) -> list[tuple[Workspace, dict[str, Any]]]:
            return [(workspace, _body(c, workspace)) for workspace in _select(c, True)]

        return self._store.read(read)

    def change(self, workspace: Workspace, changed: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
        """Replace the settings by `changed(settings)`, in one transaction. Raises 404 as `body`."""

        def write(c: Connection) -> None:
            body = dict(changed(_body(c, workspace)))
            body.pop("createdAt", None)
            c.execute(update(_TABLE).where(_TABLE.c.id == workspace.id).values(body=json.dumps(body)))

        self._store.write(write)

    def remove(self, workspace: Workspace, check: Callable[[Connection], None]) -> None:
        """Forget the workspace and every row of it, in one transaction; files are the caller's.

        `check` raises in that transaction when the workspace cannot go. Raises 404 when it is gone already.
        """

        def write(c: Connection) -> None:
            _body(c, workspace)
            check(c)
            for table in tables.metadata.tables.values():
                if "workspace_id" in table.c:
                    c.execute(delete(table).where(table.c.workspace_id == workspace.id))
            c.execute(delete(_TABLE).where(_TABLE.c.id == workspace.id))

        self._store.write(write)
        self._removed.add(workspace.id)
        self._known.pop(workspace.key, None)


def parse_triple(text: str) -> tuple[str, str, str]:
    """`SUBSCRIPTION/GROUP/NAME`. Raises 400 showing the form."""
    parts = text.strip("/").split("/")
    if len(parts) != 3 or not all(parts):
        raise bad_request("InvalidWorkspace", f"{text!r} is not of the form SUBSCRIPTION/GROUP/NAME.")
    return parts[0], parts[1], parts[2]


def _body(c: Connection, workspace: Workspace) -> dict[str, Any]:
    row = c.execute(select(_TABLE.c.body, _TABLE.c.created_at).where(_TABLE.c.id == workspace.id)).first()
    if row is None:
        raise AzureError(404, "ResourceNotFound", f"The workspace {workspace.name} has been deleted.")
    return {**json.loads(row.body), "createdAt": row.created_at}


def _select(connection: Connection, condition: object) -> list[Workspace]:
    rows = connection.execute(select(_TABLE).where(condition).order_by(_TABLE.c.created_at))  # type: ignore[arg-type]
    return [
        Workspace(row.id, row.subscription, row.resource_group, row.name, row.account) for row in rows.all()
    ]
