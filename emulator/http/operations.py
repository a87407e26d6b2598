"""Long-running operations: started by a request, polled by the client until they end.

As azure-core's pollers read it: PUT answers 201 with Azure-AsyncOperation, DELETE and actions 202 with
Location. How long to wait before the next poll is told in milliseconds (`retry-after-ms`): on one machine
most operations end within a second, the least that Retry-After can say, and a client that gets neither waits
for 30 seconds.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, jsonify
from sqlalchemy import Connection, insert, select, update

from amlocal.emulator.http.auth import Authenticator
from amlocal.emulator.http.errors import AzureError, not_found
from amlocal.emulator.store import tables
from amlocal.emulator.store.database import Store

_TABLE = tables.operations
_POLL = {"retry-after-ms": "200"}


class Operations:
    """Stored operations: `Running` until `succeed` or `fail`."""

    def __init__(self, store: Store, base_url: str) -> None:
        self._store = store
        self._base_url = base_url

    def start(self, target: str) -> str:
        """A new running operation on the resource `target`; returns its id."""
        identity = str(uuid.uuid4())
        now = datetime.now(UTC).isoformat()
        self._store.write(
            lambda c: c.execute(
                insert(_TABLE).values(id=identity, status="InProgress", target=target, created_at=now)
            )
        )
        return identity

    def succeed(self, identity: str) -> None:
        self._finish(identity, "Succeeded", None)

    def fail(self, identity: str, code: str, message: str) -> None:
        self._finish(identity, "Failed", {"code": code, "message": message})

    def fail_interrupted(self) -> None:
        """At start: operations of a server that died before their end."""
        error = json.dumps({"code": "OperationInterrupted", "message": "The server stopped before the end."})
        self._store.write(
            lambda c: c.execute(
                update(_TABLE).where(_TABLE.c.status == "InProgress").values(status="Failed", error=error)
            )
        )

    def headers(self, identity: str, *, location: bool = False) -> dict[str, str]:
        """The headers that lead a client to the operation."""
        url = f"{self._base_url}/operations/{identity}"
        if location:
            return {"Location": f"{url}/result", **_POLL}
        return {"Azure-AsyncOperation": url, **_POLL}

    def get(self, identity: str) -> Mapping[str, Any]:
        row = self._store.read(lambda c: _find(c, identity))
        if row is None:
            raise not_found(f"There is no operation {identity[:60]!r}.")
        return row

    def _finish(self, identity: str, status: str, error: Mapping[str, str] | None) -> None:
        text = json.dumps(error) if error else None
        self._store.write(
            lambda c: c.execute(
                update(_TABLE).where(_TABLE.c.id == identity).values(status=status, error=text)
            )
        )


def _find(connection: Connection, identity: str) -> Mapping[str, Any] | None:
    row = connection.execute(select(_TABLE).where(_TABLE.c.id == identity)).mappings().first()
    return None if row is None else dict(row)


def create_blueprint(operations: Operations, auth: Authenticator) -> Blueprint:
    """`/operations/{id}` for Azure-AsyncOperation and `/operations/{id}/result` for Location."""
    blueprint = Blueprint("operations", __name__)

    @blueprint.get("/operations/<identity>")
    def status(identity: str) -> Response:
        auth.require_user()
        row = operations.get(identity)
        body: dict[str, Any] = {"id": f"/operations/{identity}", "name": identity, "status": row["status"]}
        if row["error"]:
            body["error"] = json.loads(row["error"])
        response = jsonify(body)
        if row["status"] == "InProgress":
            response.headers.update(_POLL)
        return response

    @blueprint.get("/operations/<identity>/result")
    def result(identity: str) -> Response:
        auth.require_user()
        row = operations.get(identity)
        if row["status"] == "InProgress":
            return Response(status=202, headers=operations.headers(identity, location=True))
        if row["status"] == "Failed":
            error = json.loads(row["error"])
            raise AzureError(409, error["code"], error["message"])
        return Response(status=204)

    return blueprint
