"""Changes of a whole job tree that are one write: a job, the sweep below it, and the sweep's trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from amlocal.emulator.jobs import records
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.runners.base import NewRun, Patch
from amlocal.emulator.jobs.slots import DEVICES
from amlocal.emulator.jobs.states import JobState

LEAVES = frozenset({"trial", "command"})
# A command job is its own leaf: before its slot it has to be prepared.
UNPREPARED = frozenset({JobState.NOT_STARTED, JobState.PREPARING})
_WAITING = frozenset({JobState.NOT_STARTED, JobState.PREPARING, JobState.QUEUED})


def is_leaf(record: JobRecord) -> bool:
    """Whether the record is what an engine runs."""
    return record.kind in LEAVES


def grow(connection: Connection, root: JobRecord, runs: Sequence[NewRun]) -> bool:
    """After Preparing: make the runs below the job, and queue all. False if it is no longer preparing."""
    current = _current(connection, root)
    if current.state is not JobState.PREPARING:
        return False
    for run in runs:
        records.insert_job(
            connection,
            workspace_id=root.workspace_id,
            name=run.name,
            parent=run.parent,
            kind=run.kind,
            state=JobState.QUEUED,
            experiment=root.experiment,
            display_name=run.display_name,
            compute=root.compute,
            body=run.body,
            tags=run.tags,
            properties=run.properties,
        )
    records.transition(connection, current, JobState.QUEUED, why="waits for a slot")
    return True


def start(connection: Connection, leaf: JobRecord, devices: Sequence[str] = ()) -> JobRecord | None:
    """A slot is free: the leaf's next attempt begins, with these GPUs. None if the leaf no longer waits."""
    current = _current(connection, leaf)
    if current.state is JobState.STARTING:
        return current
    if current.state is not JobState.QUEUED:
        return None
    attempt = current.attempt + 1
    started = records.transition(
        connection,
        current,
        JobState.STARTING,
        why=f"attempt {attempt}",
        attempt=attempt,
        properties={DEVICES: ",".join(devices)} if devices or DEVICES in current.properties else None,
    )
    for above in _above(connection, started):
        if above.state in _WAITING:
            records.transition(connection, above, JobState.RUNNING)
    return started


def finalize(connection: Connection, leaf: JobRecord, outcome: Mapping[str, Patch]) -> bool:
    """The leaf ended well: its results are stored, only history is left. False if it was canceled."""
    current = _current(connection, leaf)
    if current.state is JobState.STARTING:
        current = records.transition(connection, current, JobState.RUNNING)
    if current.state is not JobState.RUNNING:
        return False
    for record in [current, *_above(connection, current)]:
        patch = outcome.get(record.name, Patch())
        records.transition(
            connection, record, JobState.FINALIZING, tags=patch.tags, properties=patch.properties
        )
    return True


def complete(connection: Connection, root: JobRecord) -> None:
    """Everything below and including the job is Completed."""
    for record in _open(connection, root):
        if record.state is JobState.FINALIZING:
            records.transition(connection, record, JobState.COMPLETED)


def request_cancel(connection: Connection, root: JobRecord, why: str) -> bool:
    """Ask for the end of all that has not ended. False if nothing can be canceled any more."""
    asked = False
    for record in _open(connection, root):
        if record.state not in (JobState.FINALIZING, JobState.CANCEL_REQUESTED):
            records.transition(connection, record, JobState.CANCEL_REQUESTED, why=why)
            asked = True
    return asked


def cancel(connection: Connection, root: JobRecord, why: str = "", message: str | None = None) -> None:
    """All that has not ended is Canceled; `message` explains a cancellation that nobody asked for."""
    error = None if message is None else {"code": "UserError", "message": message}
    for record in _open(connection, root):
        if record.state is not JobState.CANCEL_REQUESTED:
            record = records.transition(connection, record, JobState.CANCEL_REQUESTED, why=why)
        records.transition(connection, record, JobState.CANCELED, why=why, error=error)


def fail(connection: Connection, record: JobRecord, code: str, message: str) -> None:
    """The record failed, and with it its job. A job whose end was asked for is Canceled instead."""
    root = records.root_of(connection, record)
    unfinished = _open(connection, root)
    if any(one.state is JobState.CANCEL_REQUESTED for one in unfinished):
        cancel(connection, root)
        return
    kind = "User" if code == "UserError" else "System"
    for one in unfinished:
        text = message
        if one.name != record.name:
            text = f"{kind} errors were found in at least one of the child runs. {record.name}: {message}"
        records.transition(
            connection, one, JobState.FAILED, why=message[:200], error={"code": code, "message": text}
        )


def _current(connection: Connection, record: JobRecord) -> JobRecord:
    current = records.get(connection, record.workspace_id, record.name)
    if current is None:
        raise LookupError(f"Job {record.name} is not in the database.")
    return current


def _above(connection: Connection, record: JobRecord) -> list[JobRecord]:
    found = []
    parent = record.parent
    while parent is not None:
        above = records.get(connection, record.workspace_id, parent)
        assert above is not None
        found.append(above)
        parent = above.parent
    return found


def _open(connection: Connection, root: JobRecord) -> list[JobRecord]:
    return [
        record
        for record in records.tree(connection, root.workspace_id, root.name)
        if not record.state.terminal
    ]
