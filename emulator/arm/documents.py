"""Documents: the stored form of every ARM resource that is not a job."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Connection,
    Integer,
    Row,
    bindparam,
    cast,
    delete,
    func,
    insert,
    select,
    update,
)

from amlocal.emulator.store import tables
from amlocal.emulator.store.entries import Entry, having

_TABLE = tables.resources
# Longer numbers would not fit SQLite's whole numbers.
_MOST_DIGITS = 15
# Made once: putting a statement together takes longer than SQLite takes to answer it.
_BY_NAME = select(_TABLE).where(
    _TABLE.c.workspace_id == bindparam("workspace"),
    _TABLE.c.kind == bindparam("of_kind"),
    func.lower(_TABLE.c.name) == bindparam("lower"),
    _TABLE.c.version == bindparam("at"),
)
_INSERT = (
    insert(_TABLE)
    .values(
        **{column.name: bindparam(column.name) for column in _TABLE.c if column.name != "sequence"},
        sequence=select(func.coalesce(func.max(_TABLE.c.sequence), 0) + 1)
        .where(_TABLE.c.workspace_id == bindparam("workspace"), _TABLE.c.kind == bindparam("of_kind"))
        .scalar_subquery(),
    )
    .returning(_TABLE.c.sequence)
)


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
    named = {"workspace": workspace_id, "of_kind": kind, "lower": name.lower(), "at": version}
    row = c.execute(_BY_NAME, named).first()
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
        values = {
            "workspace_id": workspace_id,
            "kind": kind,
            "name": _spelling(c, workspace_id, kind, name) if version else name,
            "version": version,
            "body": text,
            "etag": _new_etag(),
            "archived": archived,
            "created_at": now,
            "modified_at": now,
        }
        sequence = c.execute(_INSERT, {**values, "workspace": workspace_id, "of_kind": kind}).scalar_one()
        return Document(**{**values, "body": json.loads(text)}, sequence=sequence), True
    if present.body == json.loads(text) and present.archived == archived:
        return present, False
    changed = {"body": text, "etag": _new_etag(), "archived": archived, "modified_at": now}
    c.execute(
        update(_TABLE)
        .where(
            _TABLE.c.workspace_id == workspace_id,
            _TABLE.c.kind == kind,
            _TABLE.c.name == present.name,
            _TABLE.c.version == version,
        )
        .values(**changed)
    )
    return replace(present, **{**changed, "body": json.loads(text)}), False


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
    entries: Sequence[Entry] = (),
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
    query = having(query, _TABLE, entries)
    order = _TABLE.c.sequence.desc() if newest_first else _TABLE.c.sequence
    query = query.order_by(order).offset(skip).limit(limit)
    return [_document(row) for row in c.execute(query)]


def latest_of_each(
    c: Connection,
    workspace_id: str,
    kind: str,
    *,
    view: str = "ActiveOnly",
    entries: Sequence[Entry] = (),
    without: Sequence[str] = (),
    skip: int = 0,
    limit: int,
) -> list[Document]:
    """The newest version of every name but `without`, names in order of that version's creation.

    A name counts as archived when all its versions are; of an active one the newest active version stands.
    """
    ours = [_TABLE.c.workspace_id == workspace_id, _TABLE.c.kind == kind]
    if without:
        ours.append(func.lower(_TABLE.c.name).not_in([name.lower() for name in without]))
    newest_active = func.max(_TABLE.c.sequence).filter(_TABLE.c.archived.is_(False))
    newest = select(func.coalesce(newest_active, func.max(_TABLE.c.sequence))).where(*ours)
    newest = newest.group_by(func.lower(_TABLE.c.name))
    if view == "ActiveOnly":
        newest = newest.having(newest_active.is_not(None))
    elif view == "ArchivedOnly":
        newest = newest.having(newest_active.is_(None))
    query = having(select(_TABLE).where(*ours, _TABLE.c.sequence.in_(newest)), _TABLE, entries)
    query = query.order_by(_TABLE.c.sequence).offset(skip).limit(limit)
    return [_document(row) for row in c.execute(query)]


def latest(c: Connection, workspace_id: str, kind: str, name: str) -> Document | None:
    """The newest active version of a name; when all are archived, the newest; None when there is none."""
    query = select(_TABLE).where(
        _TABLE.c.workspace_id == workspace_id,
        _TABLE.c.kind == kind,
        func.lower(_TABLE.c.name) == name.lower(),
    )
    row = c.execute(query.order_by(_TABLE.c.archived, _TABLE.c.sequence.desc()).limit(1)).first()
    return None if row is None else _document(row)


def next_versions(c: Connection, workspace_id: str, kind: str, names: Sequence[str]) -> dict[str, str]:
    """By lower-cased name what Azure would number the next version: one more than the largest number so far.

    One query for all `names`. Versions that are no whole numbers do not count.
    """
    lowered = func.lower(_TABLE.c.name)
    query = (
        select(lowered.label("lowered"), func.max(cast(_TABLE.c.version, Integer)).label("top"))
        .where(
            _TABLE.c.workspace_id == workspace_id,
            _TABLE.c.kind == kind,
            lowered.in_([name.lower() for name in names]),
            _TABLE.c.version.op("NOT GLOB")("*[^0-9]*"),
            func.length(_TABLE.c.version) <= _MOST_DIGITS,
        )
        .group_by(lowered)
    )
    found = {row.lowered: str(row.top + 1) for row in c.execute(query)}
    return {name.lower(): found.get(name.lower(), "1") for name in names}


def set_archived(c: Connection, workspace_id: str, kind: str, name: str, archived: bool) -> int:
    """Archive or restore every version of a name; how many versions that changed."""
    return c.execute(
        update(_TABLE)
        .where(
            _TABLE.c.workspace_id == workspace_id,
            _TABLE.c.kind == kind,
            func.lower(_TABLE.c.name) == name.lower(),
            _TABLE.c.archived != archived,
        )
        .values(
            archived=archived,
            modified_at=datetime.now(UTC).isoformat(),
            etag=func.printf('"%s"', func.lower(func.hex(func.randomblob(16)))),
        )
    ).rowcount


def _spelling(c: Connection, workspace_id: str, kind: str, name: str) -> str:
    """The name as its first version was spelled: versions that differ in case only are of one name."""
    known = latest(c, workspace_id, kind, name)
    return name if known is None else known.name


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
