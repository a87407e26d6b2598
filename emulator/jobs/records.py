"""Job records: rows of the tables `jobs` and `transitions`.

All functions take the Connection of a Store.read or Store.write, so that several changes can be one
transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, func, insert, select, update

from amlocal.emulator.jobs.states import TERMINAL, JobState, check
from amlocal.emulator.store.entries import Entry, having
from amlocal.emulator.store.tables import jobs, transitions

# Made once: putting a statement together takes longer than SQLite takes to answer it.
_BY_NAME = select(jobs).where(jobs.c.workspace_id == bindparam("workspace"), jobs.c.name == bindparam("job"))


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job or one run below a job. Times are ISO 8601 in UTC; `body` is the ARM `properties` as sent."""

    workspace_id: str
    name: str
    parent: str | None
    kind: str
    state: JobState
    experiment: str
    display_name: str
    compute: str
    body: dict[str, Any]
    tags: dict[str, str]
    properties: dict[str, str]
    error: dict[str, Any] | None
    attempt: int
    archived: bool
    cancel_requested: bool
    created_at: str
    started_at: str | None
    ended_at: str | None
    sequence: int


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of state, oldest first in `history`."""

    state: JobState
    at: str
    why: str


def now() -> str:
    """The present time as the records write it: ISO 8601, UTC, microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def insert_job(
    connection: Connection,
    *,
    workspace_id: str,
    name: str,
    kind: str,
    experiment: str,
    display_name: str,
    compute: str,
    body: Mapping[str, Any],
    parent: str | None = None,
    state: JobState = JobState.NOT_STARTED,
    tags: Mapping[str, str] | None = None,
    properties: Mapping[str, str] | None = None,
    archived: bool = False,
    why: str = "",
    at: str | None = None,
) -> JobRecord:
    """Add a job with its first transition. Raises IntegrityError when the name is taken."""
    at = at or now()
    sequence = connection.execute(select(func.coalesce(func.max(jobs.c.sequence), 0))).scalar_one() + 1
    connection.execute(
        insert(jobs).values(
            workspace_id=workspace_id,
            name=name,
            parent=parent,
            kind=kind,
            state=state.value,
            experiment=experiment,
            display_name=display_name,
            compute=compute,
            body=json.dumps(body),
            tags=json.dumps(dict(tags or {})),
            properties=json.dumps(dict(properties or {})),
            error=None,
            attempt=0,
            archived=archived,
            cancel_requested=False,
            created_at=at,
            sequence=sequence,
        )
    )
    _note(connection, workspace_id, name, state, at, why)
    return _must(connection, workspace_id, name)


def get(connection: Connection, workspace_id: str, name: str) -> JobRecord | None:
    """The record, or None."""
    row = connection.execute(_BY_NAME, {"workspace": workspace_id, "job": name}).one_or_none()
    return None if row is None else _record(row)


def list_roots(
    connection: Connection,
    workspace_id: str,
    *,
    archived: bool | None = False,
    job_type: str | None = None,
    entries: Sequence[Entry] = (),
    before: int | None = None,
    skip: int = 0,
    limit: int = 100,
) -> list[JobRecord]:
    """Root jobs, newest first, after the job with the sequence `before` and after `skip` jobs.

    `archived` None lists both kinds; `entries` name columns with maps of texts (tags, properties).
    """
    query = select(jobs).where(jobs.c.workspace_id == workspace_id, jobs.c.parent.is_(None))
    if archived is not None:
        query = query.where(jobs.c.archived == archived)
    if job_type is not None:
        query = query.where(func.lower(func.json_extract(jobs.c.body, "$.jobType")) == job_type.lower())
    query = having(query, jobs, entries)
    if before is not None:
        query = query.where(jobs.c.sequence < before)
    return _records(connection, query.order_by(jobs.c.sequence.desc()).offset(skip).limit(limit))


def children(connection: Connection, workspace_id: str, parent: str) -> list[JobRecord]:
    """The runs right below a job, oldest first."""
    query = select(jobs).where(jobs.c.workspace_id == workspace_id, jobs.c.parent == parent)
    return _records(connection, query.order_by(jobs.c.sequence))


def tree(connection: Connection, workspace_id: str, name: str) -> list[JobRecord]:
    """A job and everything below it, parents before children; empty when there is no such job."""
    root = get(connection, workspace_id, name)
    if root is None:
        return []
    found = [root]
    # One query for each level: a sweep can have a thousand trials.
    level = found[:]
    while level:
        names = [record.name for record in level]
        below = select(jobs).where(jobs.c.workspace_id == workspace_id, jobs.c.parent.in_(names))
        level = _records(connection, below.order_by(jobs.c.sequence))
        found.extend(level)
    return found


def root_of(connection: Connection, record: JobRecord) -> JobRecord:
    """The topmost job above a record (itself when it has no parent)."""
    while record.parent is not None:
        record = _must(connection, record.workspace_id, record.parent)
    return record


def in_states(connection: Connection, states: Iterable[JobState]) -> list[JobRecord]:
    """Jobs and runs of all workspaces in one of the states, oldest first."""
    names = [state.value for state in states]
    return _records(connection, select(jobs).where(jobs.c.state.in_(names)).order_by(jobs.c.sequence))


def unfinished(connection: Connection) -> list[JobRecord]:
    """Everything that has not ended, oldest first."""
    return in_states(connection, [state for state in JobState if state not in TERMINAL])


def roots(connection: Connection) -> list[tuple[str, str]]:
    """(workspace id, name) of every root job, oldest first."""
    query = select(jobs.c.workspace_id, jobs.c.name).where(jobs.c.parent.is_(None)).order_by(jobs.c.sequence)
    return [(row.workspace_id, row.name) for row in connection.execute(query)]


def transition(
    connection: Connection,
    record: JobRecord,
    state: JobState,
    *,
    why: str = "",
    error: Mapping[str, Any] | None = None,
    attempt: int | None = None,
    tags: Mapping[str, str] | None = None,
    properties: Mapping[str, str] | None = None,
    at: str | None = None,
) -> JobRecord:
    """Change the state and note it; tags and properties are merged in the same write.

    Raises TransitionError when the stored state does not allow it; the state in `record` does not count.
    """
    current = _must(connection, record.workspace_id, record.name)
    check(current.name, current.state, state)
    at = at or now()
    values: dict[str, Any] = {"state": state.value, **_merged(current, tags, properties)}
    if state is JobState.CANCEL_REQUESTED:
        values["cancel_requested"] = True
    if state in (JobState.STARTING, JobState.RUNNING) and current.started_at is None:
        values["started_at"] = at
    if state in TERMINAL:
        values["ended_at"] = at
    if error is not None:
        values["error"] = json.dumps(error)
    if attempt is not None:
        values["attempt"] = attempt
    _update(connection, current, values)
    _note(connection, current.workspace_id, current.name, state, at, why)
    return _must(connection, current.workspace_id, current.name)


def patch(
    connection: Connection,
    record: JobRecord,
    *,
    tags: Mapping[str, str | None] | None = None,
    properties: Mapping[str, str | None] | None = None,
    display_name: str | None = None,
    description: str | None = None,
    archived: bool | None = None,
) -> JobRecord:
    """Merge tags and properties (None takes one away), replace display name and description, archive."""
    current = _must(connection, record.workspace_id, record.name)
    values = _merged(current, tags, properties)
    if display_name is not None:
        values["display_name"] = display_name
    if description is not None:
        values["body"] = json.dumps({**current.body, "description": description})
    if archived is not None:
        values["archived"] = archived
    if values:
        _update(connection, current, values)
    return _must(connection, current.workspace_id, current.name)


def history(connection: Connection, workspace_id: str, name: str) -> list[Transition]:
    """Every state that a job was in, oldest first."""
    query = select(transitions).where(transitions.c.workspace_id == workspace_id, transitions.c.job == name)
    return [
        Transition(JobState(row.state), row.at, row.why)
        for row in connection.execute(query.order_by(transitions.c.id))
    ]


def _must(connection: Connection, workspace_id: str, name: str) -> JobRecord:
    record = get(connection, workspace_id, name)
    if record is None:
        raise LookupError(f"Job {name} is not in the database.")
    return record


def _merged(
    current: JobRecord,
    tags: Mapping[str, str | None] | None,
    properties: Mapping[str, str | None] | None,
) -> dict[str, Any]:
    values = {}
    for name, old, change in (("tags", current.tags, tags), ("properties", current.properties, properties)):
        if change:
            merged = {**old, **change}
            values[name] = json.dumps({key: text for key, text in merged.items() if text is not None})
    return values


def _update(connection: Connection, record: JobRecord, values: Mapping[str, Any]) -> None:
    connection.execute(
        update(jobs)
        .where(jobs.c.workspace_id == record.workspace_id, jobs.c.name == record.name)
        .values(**values)
    )


def _note(connection: Connection, workspace_id: str, name: str, state: JobState, at: str, why: str) -> None:
    connection.execute(
        insert(transitions).values(workspace_id=workspace_id, job=name, state=state.value, at=at, why=why)
    )


def _records(connection: Connection, query: Select[Any]) -> list[JobRecord]:
    return [_record(row) for row in connection.execute(query)]


def _record(row: Row[Any]) -> JobRecord:
    values = dict(row._mapping)
    values["state"] = JobState(values["state"])
    for column in ("body", "tags", "properties"):
        values[column] = json.loads(values[column])
    values["error"] = None if values["error"] is None else json.loads(values["error"])
    return JobRecord(**values)
