"""Changes of job trees that are one write: a job, the sweep below it, and the sweep's trials.

A trial has a life of its own: it completes, fails or is canceled alone. The runs above the trials, the job
and its sweep, end together. A command job is both: its own leaf and its whole tree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from amlocal.emulator.jobs import records
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.runners.base import NewRun, Patch
from amlocal.emulator.jobs.slots import DEVICES
from amlocal.emulator.jobs.states import JobState
from amlocal.emulator.jobs.sweeps import records as sweep_records

LEAVES = frozenset({"trial", "command"})
# A command job is its own leaf: before its slot it has to be prepared.
UNPREPARED = frozenset({JobState.NOT_STARTED, JobState.PREPARING})
GROWING = frozenset({JobState.QUEUED, JobState.RUNNING})
"""The states of a job whose sweep can get more trials."""
TERMINATED = "amlocal.terminated"
"""The tag of a trial that the early termination policy ended, with the reason."""
TIME_LIMIT = "amlocal.time_limit"
"""The tag of a run that was stopped because its time was up, with the text for its user."""
_WAITING = frozenset({JobState.NOT_STARTED, JobState.PREPARING, JobState.QUEUED})
# Nobody asks for the end of what has ended by itself, or twice.
_ENDING = frozenset({JobState.FINALIZING, JobState.CANCEL_REQUESTED})


def is_leaf(record: JobRecord) -> bool:
    """Whether the record is what an engine runs."""
    return record.kind in LEAVES


def is_trial(record: JobRecord) -> bool:
    """Whether the record is a trial of a sweep."""
    return is_leaf(record) and record.parent is not None


def grow(
    connection: Connection, root: JobRecord, runs: Sequence[NewRun], heads: Mapping[str, Patch] | None = None
) -> bool:
    """After Preparing: make the runs below the job, and queue all. False if it is no longer preparing.

    `heads` are what is added to the runs, and to the job, by name; a run's own tags and properties win.
    """
    current = _current(connection, root)
    if current.state is not JobState.PREPARING:
        return False
    heads = heads or {}
    for run in runs:
        _insert(connection, root, run, heads.get(run.name, Patch()))
    head = heads.get(root.name, Patch())
    records.transition(
        connection,
        current,
        JobState.QUEUED,
        why="waits for a slot",
        tags=head.tags,
        properties=head.properties,
    )
    return True


def add_trial(connection: Connection, root: JobRecord, run: NewRun, above: Patch) -> bool:
    """Make a trial; `above` is added to its sweep. False if the job takes no more trials."""
    if _current(connection, root).state not in GROWING:
        return False
    sweep = records.get(connection, root.workspace_id, run.parent)
    if sweep is None or sweep.state not in GROWING:
        return False
    _insert(connection, root, run, Patch())
    records.patch(connection, sweep, tags=above.tags, properties=above.properties)
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
    _transition(connection, current, JobState.FINALIZING, outcome.get(current.name, Patch()))
    return True


def settle(connection: Connection, root: JobRecord, outcome: Mapping[str, Patch]) -> bool:
    """All trials have ended and one of them is the best. False if the job's end was asked for."""
    if _current(connection, root).state is not JobState.RUNNING:
        return False
    for record in _together(connection, root):
        _transition(connection, record, JobState.FINALIZING, outcome.get(record.name, Patch()))
    return True


def complete(connection: Connection, record: JobRecord) -> None:
    """What is Finalizing of the leaf, or of the job and its sweep, is Completed."""
    for one in _together(connection, record):
        if one.state is JobState.FINALIZING:
            records.transition(connection, one, JobState.COMPLETED)


def request_cancel(connection: Connection, record: JobRecord, why: str) -> bool:
    """Ask for the end of a trial, or of a whole job. False if nothing can be canceled any more."""
    asked = False
    for one in _open(connection, record):
        if one.state not in _ENDING:
            tags = sweep_records.CANCELED.tags if one.kind == "sweep" else None
            records.transition(connection, one, JobState.CANCEL_REQUESTED, why=why, tags=tags)
            asked = True
    return asked


def terminate(connection: Connection, trial: JobRecord, reason: str) -> bool:
    """The policy ends a trial. False if it is not running any more."""
    current = _current(connection, trial)
    if current.state is not JobState.RUNNING:
        return False
    records.transition(connection, current, JobState.CANCEL_REQUESTED, why=reason, tags={TERMINATED: reason})
    return True


def time_up(connection: Connection, record: JobRecord, text: str) -> None:
    """The time of a trial, or of a whole sweep, is up: its open trials have to end, and there are no more."""
    if not is_leaf(record):
        records.patch(connection, record, tags={TIME_LIMIT: text})
    for one in _open(connection, record):
        if is_leaf(one) and one.state not in _ENDING:
            tags = {TIME_LIMIT: text}
            records.transition(connection, one, JobState.CANCEL_REQUESTED, why="time limit", tags=tags)


def cancel(
    connection: Connection,
    record: JobRecord,
    why: str = "",
    message: str | None = None,
    outcome: Mapping[str, Patch] | None = None,
) -> None:
    """The leaf, or the job and its sweep, is Canceled; `message` explains what nobody asked for."""
    error = None if message is None else {"code": "UserError", "message": message}
    for one in _together(connection, record):
        if one.state is JobState.FINALIZING:
            continue
        if one.state is not JobState.CANCEL_REQUESTED:
            one = records.transition(connection, one, JobState.CANCEL_REQUESTED, why=why)
        patch = (outcome or {}).get(one.name, Patch())
        records.transition(
            connection,
            one,
            JobState.CANCELED,
            why=why,
            error=error,
            tags=patch.tags,
            properties=patch.properties,
        )


def fail(
    connection: Connection,
    record: JobRecord,
    code: str,
    message: str,
    outcome: Mapping[str, Patch] | None = None,
) -> None:
    """The leaf, or the job and its sweep, failed; one whose end was asked for is Canceled instead.

    Trials of a job that failed above them, if there are any, have to end.
    """
    together = _together(connection, record)
    if any(one.state is JobState.CANCEL_REQUESTED for one in together):
        cancel(connection, record)
        return
    for one in together:
        patch = (outcome or {}).get(one.name, Patch())
        records.transition(
            connection,
            one,
            JobState.FAILED,
            why=message[:200],
            error={"code": code, "message": message},
            tags=patch.tags,
            properties=patch.properties,
        )
    request_cancel(connection, record, "the job failed")


def _insert(connection: Connection, root: JobRecord, run: NewRun, head: Patch) -> None:
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
        tags={**head.tags, **run.tags},
        properties={**head.properties, **run.properties},
    )


def _transition(connection: Connection, record: JobRecord, state: JobState, patch: Patch) -> None:
    records.transition(connection, record, state, tags=patch.tags, properties=patch.properties)


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


def _open(connection: Connection, record: JobRecord) -> list[JobRecord]:
    """What has not ended of the record and everything below it."""
    return [
        one for one in records.tree(connection, record.workspace_id, record.name) if not one.state.terminal
    ]


def _together(connection: Connection, record: JobRecord) -> list[JobRecord]:
    """What has not ended of what ends in one write: a leaf alone, or a job with its sweep."""
    if is_leaf(record):
        current = _current(connection, record)
        return [] if current.state.terminal else [current]
    root = records.root_of(connection, record)
    return [one for one in _open(connection, root) if not is_leaf(one)]
