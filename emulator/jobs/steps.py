"""The steps of a job: each takes a run from one stored state to the next, and may be repeated after a crash.

A step returns whether it did its part; otherwise, or when it raises, the scheduler calls it again after a
while.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection

from amlocal.emulator import crash_points
from amlocal.emulator.http.disk import MESSAGE as DISK_FULL
from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs import command_files, records, stall, tree
from amlocal.emulator.jobs.engines.base import Engine, EngineError, EngineState
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.runners.base import Abandoned, ErrorCode, JobFailure, Patch, Runner
from amlocal.emulator.jobs.states import JobState
from amlocal.emulator.jobs.sweeps import records as sweep_records
from amlocal.emulator.jobs.sweeps.sweeping import Sweeps
from amlocal.emulator.jobs.sweeps.view import spoken
from amlocal.emulator.jobs.tracking import Tracking
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import DataFolder, write_atomic
from amlocal.emulator.store.workspace import Workspace, by_id

_LOG = logging.getLogger(__name__)
# Bytes; with less left a command has probably failed for that.
_FULL = 1 << 20
TERMINATE = "terminate.json"
"""What tells a trial that is asked to stop that the policy, or the time limit, ends it: so that it keeps its
best checkpoint."""
_KEEPING = 60.0
"""Seconds that a trial has beyond the time limit to do so, before its shim ends it."""


class Steps:
    """Called by the scheduler only, one step per job tree at a time."""

    def __init__(
        self,
        store: Store,
        folder: DataFolder,
        engine: Engine,
        runners: Mapping[str, Runner],
        tracking: Tracking,
        sweeps: Sweeps,
        stopping: Callable[[], bool],
        mlflow_patience: float,
        stall_limit: float = 0.0,
    ) -> None:
        self._store = store
        self._folder = folder
        self._engine = engine
        self._runners = runners
        self._tracking = tracking
        self._sweeps = sweeps
        self._stopping = stopping
        self._mlflow_patience = mlflow_patience
        # Attempts that were told to stop by this process: telling them once is enough.
        self._told: set[tuple[str, str, int]] = set()
        self._stalls = stall.Stalls(stall_limit)

    def has_news(self, leaf: JobRecord) -> bool:
        """Whether there is something to do for a leaf that is Starting, Running or CancelRequested."""
        asked = (leaf.workspace_id, leaf.name, leaf.attempt) in self._told
        if leaf.state is JobState.STARTING or (leaf.state is JobState.CANCEL_REQUESTED and not asked):
            return True
        try:
            return self._state(leaf).name != "running" or (not asked and self._hangs(leaf) is not None)
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
            heads = _heads(runner, current)
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
        self._store.write(lambda c: tree.grow(c, root, runs, heads))
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
        # The limit of a command job counts from Running, and it is started once: its shim measures.
        left = self._sweeps.seconds(root) if tree.is_trial(leaf) else runner.timeout(root)
        if left is not None and left <= 0:
            return self._timed_out(runner, leaf, root)
        try:
            job = runner.launch(workspace, root, leaf)
        except JobFailure as failure:
            return self._fail(leaf, failure.code, failure.message)
        except OSError as error:
            return self._fail(leaf, "SystemError", f"The files of {leaf.name} cannot be written: {error}.")
        if self._fresh(leaf).state is not JobState.STARTING:
            return True
        crash_points.reach("job.ordered")
        if left is not None and leaf.kind == "trial":
            left += _KEEPING
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
            return self._running(leaf) and self._end_if_it_hangs(leaf, root)
        if state.name == "not_started" and leaf.state is JobState.STARTING:
            return self.start(leaf, root)
        return self._ended(leaf, root, state)

    def finalized(self, record: JobRecord, root: JobRecord) -> bool:
        """Finalizing: metrics and tags go to MLflow before clients see the end."""
        if not tree.is_leaf(record):
            self._sweeps.ending(root, JobState.COMPLETED)
        self._tracking.flush(root.workspace_id, root.name, self._mlflow_patience)
        crash_points.reach("job.flushed")
        self._store.write(lambda c: tree.complete(c, record))
        crash_points.reach("job.completed")
        self._mark(root)
        return True

    def stop(self, record: JobRecord, root: JobRecord) -> bool:
        """CancelRequested: end the leaf's process, if there is one, then the leaf."""
        record = self._fresh(record)
        if record.state is not JobState.CANCEL_REQUESTED:
            return True
        state = self._state(record) if record.attempt else EngineState("not_started")
        reason = _keeps(record)
        if state.name in ("running", "lost"):
            job_dir = self._folder.job(record.workspace_id, record.name)
            if reason is not None:
                write_atomic(job_dir / TERMINATE, json.dumps({"reason": reason}).encode())
            crash_points.reach("job.stopping")
            self._engine.cancel(job_dir, record.attempt)
            self._told.add((record.workspace_id, record.name, record.attempt))
            if state.name == "running":
                return True
        crash_points.reach("job.stopped")
        if record.attempt:
            why = record.tags.get(tree.TERMINATED)
            told = None if why is None else f"the early termination policy ended it: {why}"
            self._note(record, root, told or record.tags.get(tree.TIME_LIMIT) or "canceled on request")
        return self.canceled(record, root)

    def canceled(self, record: JobRecord, root: JobRecord) -> bool:
        """CancelRequested and nothing of it runs any more."""
        if not tree.is_leaf(record):
            self._sweeps.ending(root, JobState.CANCELED)
        why = record.tags.get(tree.TERMINATED)
        outcome = {} if _keeps(record) is None else self._kept(record, root)
        message = record.tags.get(tree.TIME_LIMIT) if tree.is_leaf(record) else None
        nothing = "nothing of the job is running"
        if record.attempt:
            self._clear(record)
        self._store.write(lambda c: tree.cancel(c, record, why or nothing, message, outcome))
        crash_points.reach("job.canceled")
        self._mark(root)
        return True

    def broken(self, record: JobRecord, error: Exception) -> None:
        """A step failed again and again: the job must not hang for ever."""
        self._fail(record, "SystemError", f"amlocal cannot go on with {record.name}: {error!r}.")

    def _ended(self, leaf: JobRecord, root: JobRecord, state: EngineState) -> bool:
        runner, workspace = self._runners[root.kind], self._workspace(root)
        self._stalls.forget(self._job_dir(leaf))
        report = state.report
        if report is not None and report.timed_out:
            return self._timed_out(runner, leaf, root)
        if state.name == "lost":
            # Nobody watches it any more, so what is left of it would go on beside a job that has ended.
            self._engine.cancel(self._folder.job(leaf.workspace_id, leaf.name), leaf.attempt)
        how = "ended without a trace" if report is None else report.describe()
        if report is not None and report.succeeded:
            crash_points.reach("job.ended")
            try:
                outcome = self._outcome(runner, workspace, leaf, root)
            except JobFailure as failure:
                return self._fail(leaf, failure.code, failure.message)
            crash_points.reach("job.collected")
            self._store.write(lambda c: tree.finalize(c, leaf, outcome))
            crash_points.reach("job.finalizing")
            self._mark(root)
            return True
        if (stalled := stall.noted(self._job_dir(leaf), leaf.attempt)) is not None:
            return self._fail(leaf, "SystemError", stalled)
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

    def _outcome(
        self, runner: Runner, workspace: Workspace, leaf: JobRecord, root: JobRecord
    ) -> Mapping[str, Patch]:
        """What a leaf that ended well adds to its run. Raises JobFailure."""
        if runner.sweeper is not None and tree.is_trial(leaf):
            return {leaf.name: runner.sweeper.trial_ended(workspace, root, leaf)}
        family = self._store.read(lambda c: records.tree(c, root.workspace_id, root.name))
        return runner.outcome(family, leaf)

    def _kept(self, trial: JobRecord, root: JobRecord) -> Mapping[str, Patch]:
        """What a trial that the policy or the time limit ended adds to its run."""
        sweeper = self._runners[root.kind].sweeper
        if sweeper is None:
            return {}
        try:
            return {trial.name: sweeper.trial_terminated(self._workspace(root), root, trial)}
        except JobFailure as failure:
            self._note(trial, root, failure.message)
            return {}

    def _hangs(self, leaf: JobRecord) -> str | None:
        """Why a trial of ours that runs is to be ended: it makes no progress any more."""
        if leaf.kind != "trial" or leaf.state is not JobState.RUNNING:
            return None
        return self._stalls.look(self._job_dir(leaf), leaf.attempt)

    def _end_if_it_hangs(self, leaf: JobRecord, root: JobRecord) -> bool:
        told = (leaf.workspace_id, leaf.name, leaf.attempt)
        why = None if told in self._told else self._hangs(leaf)
        if why is not None:
            self._note(leaf, root, why)
            stall.write(self._job_dir(leaf), leaf.attempt, why)
            self._engine.cancel(self._job_dir(leaf), leaf.attempt)
            self._told.add(told)
        return True

    def _job_dir(self, leaf: JobRecord) -> Path:
        return self._folder.job(leaf.workspace_id, leaf.name)

    def _timed_out(self, runner: Runner, leaf: JobRecord, root: JobRecord) -> bool:
        if tree.is_trial(leaf):
            self._sweeps.trial_timed_out(leaf, root)
            return True
        limit = runner.timeout(root) or 0.0
        text = (
            f"The job was stopped because its time limit of {spoken(limit)} was up. "
            "Give it more: limits.timeout."
        )
        self._note(leaf, root, text)
        self._store.write(lambda c: tree.cancel(c, leaf, "time limit", message=text))
        self._mark(root)
        return True

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


def _heads(runner: Runner, root: JobRecord) -> dict[str, Patch]:
    """What stands on a job's sweep before its first trial."""
    if runner.sweeper is None:
        return {}
    plan = runner.sweeper.plan(root)
    return {plan.sweep: sweep_records.head(plan)}


def _keeps(record: JobRecord) -> str | None:
    """Why a trial that is asked to stop keeps its best checkpoint; None where it is simply canceled."""
    limit = record.tags.get(tree.TIME_LIMIT) if record.kind == "trial" else None
    return record.tags.get(tree.TERMINATED) or limit


def _requeue(connection: Connection, leaf: JobRecord, why: str) -> None:
    current = records.get(connection, leaf.workspace_id, leaf.name)
    if current is not None and current.state in (JobState.STARTING, JobState.RUNNING):
        records.transition(connection, current, JobState.QUEUED, why=why)
