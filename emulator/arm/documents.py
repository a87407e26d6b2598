"""Documents: the stored form of every ARM resource that is not a job."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from amlocal.emulator.store import tables

_TABLE = tables.resources


@dataclass(frozen=True)
class Document:
    """One resource, or one version of it.

    `body` holds `properties` and, where the resource has them, tags, sku, identity.
    `sequence` grows with every new version of a name: the newest has the largest. Times are ISO 8601 in UTC.
    """

    workspace_id: str
    kind: str
    name: str
    version: str
    body: dict[str, Any]
    etag: str
    archived: bool
    created_at: str
    modified_at: str
    sequence: int

    @property
    def properties(self) -> dict[str, Any]:
        properties: dict[str, Any] = self.body.get("properties") or {}
        return properties


def get(c: Connection, workspace_id: str, kind: str, name: str, version: str = "") -> Document | None:
    """Names compare without case, as in Azure."""
    row = c.execute(
        select(_TABLE).where(
            _TABLE.c.workspace_id == workspace_id,
            _TABLE.c.kind == kind,
            func.lower(_TABLE.c.name) == name.lower(),
            _TABLE.c.version == version,
        )
    ).first()
    return None if row is None else _document(row)


def put(
    c: Connection,
    workspace_id: str,
    kind: str,
    name: str,
    version: str,
    body: Mapping[str, Any],
    *,
    archived: bool = False,
) -> tuple[Document, bool]:
    """Store a document; (the stored one, whether it is new). The same body again keeps etag and time."""
    now = datetime.now(UTC).isoformat()
    text = json.dumps(body)
    present = get(c, workspace_id, kind, name, version)
    if present is None:
        top = c.execute(
            select(func.max(_TABLE.c.sequence)).where(
                _TABLE.c.workspace_id == workspace_id, _TABLE.c.kind == kind
            )
        ).scalar()
        c.execute(
            insert(_TABLE).values(
                workspace_id=workspace_id,
                kind=kind,
                name=name,
                version=version,
                body=text,
                etag=_new_etag(),
                archived=archived,
                created_at=now,
                modified_at=now,
                sequence=(top or 0) + 1,
            )
        )
    elif present.body != json.loads(text) or present.archived != archived:
        c.execute(
            update(_TABLE)
            .where(
                _TABLE.c.workspace_id == workspace_id,
                _TABLE.c.kind == kind,
                _TABLE.c.name == present.name,
                _TABLE.c.version == version,
            )
            .values(body=text, etag=_new_etag(), archived=archived, modified_at=now)
        )
    stored = get(c, workspace_id, kind, name, version)
    assert stored is not None
    return stored, present is None


def remove(c: Connection, workspace_id: str, kind: str, name: str, version: str | None = None) -> int:
    """Delete one version, or with `version=None` all of a name; how many documents went."""
    conditions = [
        _TABLE.c.workspace_id == workspace_id,
        _TABLE.c.kind == kind,
        func.lower(_TABLE.c.name) == name.lower(),
    ]
    if version is not None:
        conditions.append(_TABLE.c.version == version)
    return c.execute(delete(_TABLE).where(*conditions)).rowcount


def listing(
    c: Connection,
    workspace_id: str,
    kind: str,
    *,
    name: str | None = None,
    prefix: str | None = None,
    view: str = "ActiveOnly",
    newest_first: bool = False,
    skip: int = 0,
    limit: int | None = None,
) -> list[Document]:
    """Documents of a kind (or all versions of `name`, or names below `prefix`) in order of creation."""
    query = select(_TABLE).where(_TABLE.c.workspace_id == workspace_id, _TABLE.c.kind == kind)
    if name is not None:
        query = query.where(func.lower(_TABLE.c.name) == name.lower())
    if prefix is not None:
        query = query.where(_TABLE.c.name.startswith(prefix, autoescape=True))
    if view != "All":
        query = query.where(_TABLE.c.archived == (view == "ArchivedOnly"))
    order = _TABLE.c.sequence.desc() if newest_first else _TABLE.c.sequence
    query = query.order_by(order).offset(skip).limit(limit)
    return [_document(row) for row in c.execute(query)]


def latest_of_each(
    c: Connection, workspace_id: str, kind: str, *, view: str = "ActiveOnly", skip: int = 0, limit: int
) -> list[Document]:
    """The newest version of every name, names in order of that version's creation."""
    newest = select(func.max(_TABLE.c.sequence)).where(
        _TABLE.c.workspace_id == workspace_id, _TABLE.c.kind == kind
    )
    if view != "All":
        newest = newest.where(_TABLE.c.archived == (view == "ArchivedOnly"))
    query = (
        select(_TABLE)
        .where(
            _TABLE.c.workspace_id == workspace_id,
            _TABLE.c.kind == kind,
            _TABLE.c.sequence.in_(newest.group_by(_TABLE.c.name)),
        )
        .order_by(_TABLE.c.sequence)
        .offset(skip)
        .limit(limit)
    )
    return [_document(row) for row in c.execute(query)]


def next_version(versions: list[str]) -> str:
    """What Azure would number the next one: one more than the largest number among `versions`."""
    numbers = [int(version) for version in versions if version.isascii() and version.isdigit()]
    return str(max(numbers, default=0) + 1)


def _new_etag() -> str:
    return f'"{uuid.uuid4().hex}"'


def _document(row: Row[Any]) -> Document:
    return Document(
        workspace_id=row.workspace_id,
        kind=row.kind,
        name=row.name,
        version=row.version,
        body=json.loads(row.body),
        etag=row.etag,
        archived=bool(row.archived),
        created_at=row.created_at,
        modified_at=row.modified_at,
        sequence=row.sequence,
    )
