"""The workspaces that answer: known triples of subscription, resource group and name."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import Connection, insert, select

from amlocal.compat import cloud
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
    """Finds and adds workspaces. They are few and never change, so they are kept in memory too."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, Workspace] = {}
        self._added: list[Callable[[Workspace], None]] = []

    def on_add(self, listener: Callable[[Workspace], None]) -> None:
        """Have `listener` called with every workspace that `add` is asked for; it must be idempotent."""
        self._added.append(listener)

    def find(self, subscription: str, resource_group: str, name: str) -> Workspace | None:
        key = key_of(subscription, resource_group, name)
        if key not in self._known:
            found = self._store.read(lambda c: _select(c, _TABLE.c.key == key))
            if not found:
                return None
            self._known[key] = found[0]
        return self._known[key]

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

    def by_account(self, account: str) -> Workspace | None:
        found = self._store.read(lambda c: _select(c, _TABLE.c.account == account))
        return found[0] if found else None

    def all(self) -> list[Workspace]:
        return self._store.read(lambda c: _select(c, True))

    def add(self, subscription: str, resource_group: str, name: str) -> Workspace:
        """Make the triple answer; adding it again changes nothing. Raises 400 for a bad name."""
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

        def insert_new(connection: Connection) -> Workspace:
            key = key_of(subscription, resource_group, name)
            present = _select(connection, _TABLE.c.key == key)
            if present:
                return present[0]
            connection.execute(
                insert(_TABLE).values(
                    id=str(identity),
                    subscription=subscription,
                    resource_group=resource_group,
                    name=name,
                    key=key,
                    account=f"aml{identity.hex[:12]}",
                    body=json.dumps({"location": cloud.LOCATION, "tags": {}}),
                    created_at=datetime.now(UTC).isoformat(),
                )
            )
            return _select(connection, _TABLE.c.key == key)[0]

        workspace = self._store.write(insert_new)
        for listener in self._added:
            listener(workspace)
        return workspace


def parse_triple(text: str) -> tuple[str, str, str]:
    """`SUBSCRIPTION/GROUP/NAME`. Raises 400 showing the form."""
    parts = text.strip("/").split("/")
    if len(parts) != 3 or not all(parts):
        raise bad_request("InvalidWorkspace", f"{text!r} is not of the form SUBSCRIPTION/GROUP/NAME.")
    return parts[0], parts[1], parts[2]


def _select(connection: Connection, condition: object) -> list[Workspace]:
    rows = connection.execute(select(_TABLE).where(condition).order_by(_TABLE.c.created_at))  # type: ignore[arg-type]
    return [
        Workspace(row.id, row.subscription, row.resource_group, row.name, row.account) for row in rows.all()
    ]
