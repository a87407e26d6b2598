"""The steps of a job: each takes a job from one stored state to the next, and may be repeated after a crash.

A step returns whether it did its part; otherwise, or when it raises, the scheduler calls it again after a
while.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection

from amlocal.emulator import crash_points
from amlocal.emulator.http.disk import MESSAGE as DISK_FULL
from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs import command_files, records, tree
from amlocal.emulator.jobs.engines.base import Engine, EngineError, EngineState
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.runners.base import Abandoned, ErrorCode, JobFailure, Runner
from amlocal.emulator.jobs.states import JobState
from amlocal.emulator.jobs.tracking import Tracking
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.workspace import Workspace, by_id

_LOG = logging.getLogger(__name__)
# Bytes; with less left a command has probably failed for that.
_FULL = 1 << 20


class Steps:
    """Called by the scheduler only, one step per job tree at a time."""

    def __init__(
        self,
        store: Store,
        folder: DataFolder,
        engine: Engine,
        runners: Mapping[str, Runner],
        tracking: Tracking,
        stopping: Callable[[], bool],
        mlflow_patience: float,
    ) -> None:
        self._store = store
        self._folder = folder
        self._engine = engine
        self._runners = runners
        self._tracking = tracking
        self._stopping = stopping
        self._mlflow_patience = mlflow_patience
        # Attempts that were told to stop by this process: telling them once is enough.
        self._told: set[tuple[str, str, int]] = set()

    def has_news(self, leaf: JobRecord) -> bool:
        """Whether there is something to do for a leaf that is Starting, Running or CancelRequested."""
        asked = (leaf.workspace_id, leaf.name, leaf.attempt) in self._told
        if leaf.state is JobState.STARTING or (leaf.state is JobState.CANCEL_REQUESTED and not asked):
            return True
        try:
            return self._state(leaf).name != "running"
        except EngineError:
            return True

    def prepare(self, record: JobRecord, root: JobRecord) -> bool:
        """NotStarted or Preparing: check the data, make the files and the runs below."""
        current = self._store.write(lambda c: _begin_preparing(c, root))
        if current.state is not JobState.PREPARING:
            return True
        crash_points.reach("job.preparing")
        self._mark(current)
        runner = self._runners[root.kind]
        try:
            runs = runner.prepare(self._workspace(root), current, lambda: self._abandoned(root))
        except Abandoned:
            return True
        except JobFailure as failure:
            return self._fail(root, failure.code, failure.message)
        except AzureError as error:
            return self._fail(root, "UserError", error.message)
        except OSError as error:
            self._clear(root)
            return self._fail(root, "SystemError", f"The job could not be prepared: {error}.")
        crash_points.reach("job.prepared")
        self._store.write(lambda c: tree.grow(c, root, runs))
        crash_points.reach("job.queued")
        self._mark(root)
        return True

    def start(self, record: JobRecord, root: JobRecord, devices: Sequence[str] = ()) -> bool:
        """Queued with a free slot, or Starting without a process: start the next attempt.

        `devices` are the GPUs that it gets; those of a leaf that is Starting already stay as they are.
        """
        leaf = self._store.write(lambda c: tree.start(c, record, devices))
        if leaf is None:
            return True
        crash_points.reach("job.starting")
        self._tracking.flush(root.workspace_id, root.name, self._mlflow_patience)
        crash_points.reach("job.tracked")
        runner, workspace, root = self._runners[root.kind], self._workspace(root), self._fresh(root)
        # The limit of a command counts from Running, and it is started once: its shim measures.
        left = runner.timeout(root) if leaf.kind == "command" else self._time_left(runner, root)
        if left is not None and left <= 0:
            return self._timed_out(runner, workspace, leaf, root)
        try:
            job = runner.launch(workspace, root, leaf)
        except JobFailure as failure:
            return self._fail(leaf, failure.code, failure.message)
        except OSError as error:
            return self._fail(leaf, "SystemError", f"The files of {leaf.name} cannot be written: {error}.")
        if self._fresh(leaf).state is not JobState.STARTING:
            return True
        crash_points.reach("job.ordered")
        try:
            self._engine.submit(replace(job, timeout=left))
        except EngineError as error:
            if self._state(leaf).name == "not_started":
                return self._fail(leaf, "SystemError", f"{leaf.name} could not be started: {error}.")
        crash_points.reach("job.spawned")
        return self._running(leaf)

    def waits(self, record: JobRecord, root: JobRecord, reason: str) -> None:
        """Queued, and not for want of a slot of this host."""
        if self._fresh(record).state is JobState.QUEUED:
            self._note(record, root, f"waits: {reason}")

    def watch(self, record: JobRecord, root: JobRecord) -> bool:
        """Starting or Running, and the engine has something to say."""
        leaf = self._fresh(record)
        if leaf.state not in (JobState.STARTING, JobState.RUNNING):
            return True
        try:
            state = self._state(leaf)
        except EngineError as error:
            return self._fail(leaf, "SystemError", f"{leaf.name} cannot be followed: {error}.")
        if state.name == "running":
            return self._running(leaf)
        if state.name == "not_started" and leaf.state is JobState.STARTING:
            return self.start(leaf, root)
        return self._ended(leaf, root, state)

    def finalized(self, record: JobRecord, root: JobRecord) -> bool:
        """Finalizing: metrics and tags go to MLflow before clients see the end."""
        self._tracking.flush(root.workspace_id, root.name, self._mlflow_patience)
        crash_points.reach("job.flushed")
        self._store.write(lambda c: tree.complete(c, root))
        crash_points.reach("job.completed")
        self._mark(root)
        return True

    def stop(self, record: JobRecord, root: JobRecord) -> bool:
        """CancelRequested: end the process, if there is one, then the job."""
        state = self._state(record) if record.attempt else EngineState("not_started")
        if state.name in ("running", "lost"):
            crash_points.reach("job.stopping")
            self._engine.cancel(self._folder.job(record.workspace_id, record.name), record.attempt)
            self._told.add((record.workspace_id, record.name, record.attempt))
            if state.name == "running":
                return True
        crash_points.reach("job.stopped")
        if record.attempt:
            self._note(record, root, "canceled on request")
        return self.canceled(record, root)

    def canceled(self, record: JobRecord, root: JobRecord) -> bool:
        """CancelRequested and nothing runs any more."""
        self._store.write(lambda c: tree.cancel(c, root, "nothing of the job is running"))
        crash_points.reach("job.canceled")
        self._mark(root)
        return True

    def broken(self, record: JobRecord, error: Exception) -> None:
        """A step failed again and again: the job must not hang for ever."""
        self._fail(record, "SystemError", f"amlocal cannot go on with {record.name}: {error!r}.")

    def _ended(self, leaf: JobRecord, root: JobRecord, state: EngineState) -> bool:
        runner, workspace = self._runners[root.kind], self._workspace(root)
        report = state.report
        if report is not None and report.timed_out:
            return self._timed_out(runner, workspace, leaf, root)
        if state.name == "lost":
            # Nobody watches it any more, so what is left of it would go on beside a job that has ended.
            self._engine.cancel(self._folder.job(leaf.workspace_id, leaf.name), leaf.attempt)
        how = "ended without a trace" if report is None else report.describe()
        if report is not None and report.succeeded:
            crash_points.reach("job.ended")
            family = self._store.read(lambda c: records.tree(c, root.workspace_id, root.name))
            try:
                outcome = runner.outcome(family, leaf)
            except JobFailure as failure:
                return self._fail(leaf, failure.code, failure.message)
            crash_points.reach("job.collected")
            self._store.write(lambda c: tree.finalize(c, leaf, outcome))
            crash_points.reach("job.finalizing")
            self._mark(root)
            return True
        # Stopped, but not by us: somebody ended the shim, or the machine was shut down.
        killed = report is None or report.signal is not None or report.stopped
        if killed and state.name != "not_started" and leaf.attempt < runner.attempts:
            why = f"attempt {leaf.attempt} {how}; attempt {leaf.attempt + 1} resumes from its checkpoint"
            self._note(leaf, root, why)
            self._store.write(lambda c: _requeue(c, leaf, why))
            self._mark(root)
            return True
        lines = runner.last_lines(workspace, leaf)
        hint = ""
        if report is not None and report.signal == 9:
            hint = " A process killed by signal 9 has often run out of memory: try a smaller batch size."
        text = f"{leaf.name} failed: attempt {leaf.attempt} {how}.{hint}"
        if lines:
            text += f" Last lines of its log:\n{lines}"
        # Whatever a user's own command answers is its own doing; the trainer says so by 1.
        answer = None if report is None else report.returncode
        own = answer == 1 or (answer is not None and leaf.kind == "command")
        code: ErrorCode = "UserError" if own else "SystemError"
        if shutil.disk_usage(self._folder.root).free < _FULL:
            text += f"\n{DISK_FULL}"
        self._clear(leaf)
        return self._fail(leaf, code, text)

    def _timed_out(self, runner: Runner, workspace: Workspace, leaf: JobRecord, root: JobRecord) -> bool:
        limit = runner.timeout(root) or 0.0
        told = f"{limit / 60:g} minutes" if limit >= 60 else f"{limit:g} seconds"
        text = (
            f"The job was stopped because its time limit of {told} was up. "
            "Give it more: limits.timeout of a command job, set_limits(timeout_minutes=...) of an AutoML job."
        )
        self._note(leaf, root, text)
        self._store.write(lambda c: tree.cancel(c, root, "time limit", message=text))
        self._mark(root)
        return True

    def _time_left(self, runner: Runner, root: JobRecord) -> float | None:
        limit = runner.timeout(root)
        if limit is None or root.started_at is None:
            return limit
        return limit - (time.time() - datetime.fromisoformat(root.started_at).timestamp())

    def _running(self, leaf: JobRecord) -> bool:
        def write(connection: Connection) -> None:
            current = records.get(connection, leaf.workspace_id, leaf.name)
            if current is not None and current.state is JobState.STARTING:
                records.transition(connection, current, JobState.RUNNING, why=f"attempt {leaf.attempt}")

        self._store.write(write)
        crash_points.reach("job.running")
        return True

    def _fail(self, record: JobRecord, code: ErrorCode, message: str) -> bool:
        _LOG.info("job %s failed: %s", record.name, message)
        crash_points.reach("job.failing")
        self._store.write(lambda c: tree.fail(c, record, code, message))
        crash_points.reach("job.failed")
        self._mark(self._store.read(lambda c: records.root_of(c, record)))
        return True

    def _clear(self, leaf: JobRecord) -> None:
        """What a command job needs no more; on a full disk also the room in which its end can be stored."""
        if leaf.kind != "command":
            return
        artifacts = self._folder.artifacts(self._workspace(leaf).account, leaf.name)
        try:
            command_files.collect(self._folder.job(leaf.workspace_id, leaf.name), artifacts)
        except OSError as error:
            _LOG.warning("job %s: %s", leaf.name, error)

    def _note(self, leaf: JobRecord, root: JobRecord, line: str) -> None:
        try:
            self._runners[root.kind].note(self._workspace(leaf), leaf, line)
        except OSError as error:  # a full disk must not keep a job from ending
            _LOG.warning("the log of %s lacks a line: %s: %s", leaf.name, error, line)

    def _mark(self, root: JobRecord) -> None:
        self._tracking.mark(root.workspace_id, root.name)

    def _abandoned(self, root: JobRecord) -> bool:
        return self._stopping() or self._fresh(root).state is not JobState.PREPARING

    def _fresh(self, record: JobRecord) -> JobRecord:
        current = self._store.read(lambda c: records.get(c, record.workspace_id, record.name))
        assert current is not None
        return current

    def _workspace(self, record: JobRecord) -> Workspace:
        return self._store.read(lambda c: by_id(c, record.workspace_id))

    def _state(self, leaf: JobRecord) -> EngineState:
        return self._engine.state(self._folder.job(leaf.workspace_id, leaf.name), leaf.attempt)


def _begin_preparing(connection: Connection, root: JobRecord) -> JobRecord:
    current = records.get(connection, root.workspace_id, root.name)
    assert current is not None
    if current.state is JobState.NOT_STARTED:
        return records.transition(connection, current, JobState.PREPARING, why="checks the data")
    return current


def _requeue(connection: Connection, leaf: JobRecord, why: str) -> None:
    current = records.get(connection, leaf.workspace_id, leaf.name)
    if current is not None and current.state in (JobState.STARTING, JobState.RUNNING):
        records.transition(connection, current, JobState.QUEUED, why=why)
