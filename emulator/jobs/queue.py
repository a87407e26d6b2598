"""The scheduler: one thread that looks at the records and hands out what has to be done next.

It keeps nothing in memory that matters. Each pass reads what has not ended and does, per run, the one thing
its state asks for; so a pass after a crash goes on where the last one stopped. What takes time runs in
threads, at most one per job tree at a time, so that no two steps of one sweep meet.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from sqlalchemy import Connection

from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs import computes, records, slots, tree
from amlocal.emulator.jobs.engines.base import Engine
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.runners.base import NotYet, Runner
from amlocal.emulator.jobs.slots import Slots, Turns
from amlocal.emulator.jobs.states import JobState
from amlocal.emulator.jobs.steps import Steps
from amlocal.emulator.jobs.sweeps.sweeping import Sweeps
from amlocal.emulator.jobs.tracking import Tracking
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import DataFolder

_LOG = logging.getLogger(__name__)
POLL = 0.5
_IDLE = 30.0
_RETRY = 2.0
_TRIES = 5

Key = tuple[str, str]


class Scheduler:
    """`wake` after every change; `stop` leaves the jobs' processes running."""

    def __init__(
        self,
        *,
        store: Store,
        folder: DataFolder,
        engine: Engine,
        runners: Mapping[str, Runner],
        tracking: Tracking,
        training_slots: int,
        command_slots: int,
        mlflow_patience: float,
        stall_limit: float = 0.0,
    ) -> None:
        self._store = store
        self._engine = engine
        self._training, self._commands = training_slots, command_slots
        self._slots: Slots | None = None
        # Jobs whose log says why they wait, with the reason.
        self._reasons: dict[Key, str] = {}
        self._changed = threading.Condition()
        self._woken = False
        self._stopped = threading.Event()
        # Leaves that were given a slot and are not yet stored as Starting, with their GPUs.
        self._granted: dict[Key, tuple[str, ...]] = {}
        # Trees (workspace id, root job) with a step under way, and runs that rest after one of theirs failed.
        self._busy: set[Key] = set()
        self._rest: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        stopping = self._stopped.is_set
        self._sweeps = Sweeps(store, folder, runners, tracking, stopping)
        self._steps = Steps(
            store, folder, engine, runners, tracking, self._sweeps, stopping, mlflow_patience, stall_limit
        )
        # Checking a large data set, or pip, must not keep another job from being started or ended; neither
        # must the drawing of trials and leaderboards.
        self._preparing = ThreadPoolExecutor(6, thread_name_prefix="prepare")
        self._acting = ThreadPoolExecutor(4, thread_name_prefix="act")
        self._sweeping = ThreadPoolExecutor(4, thread_name_prefix="sweep")
        self._threads = [
            threading.Thread(target=self._work, name="scheduler", daemon=True),
            threading.Thread(target=self._listen, name="engine-events", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish the steps under way (Preparing is given up) and end the threads."""
        self._stopped.set()
        self.wake()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        for pool in (self._preparing, self._acting, self._sweeping):
            pool.shutdown(wait=True, cancel_futures=True)

    def wake(self) -> None:
        """Something changed: look now."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    @property
    def idle(self) -> bool:
        """Whether no step is under way."""
        with self._changed:
            return not self._busy and not self._woken

    def _work(self) -> None:
        while not self._stopped.is_set():
            with self._changed:
                self._woken = False
            try:
                pending = self._pass()
            except Exception:  # a full disk, for instance: the next pass may do better
                _LOG.exception("a pass of the scheduler failed")
                pending = True
            with self._changed:
                if not self._woken and not self._stopped.is_set():
                    self._changed.wait(POLL if pending else _IDLE)

    def _listen(self) -> None:
        while not self._stopped.is_set():
            if self._engine.events(timeout=POLL) is not None:
                self.wake()

    def _pass(self) -> bool:
        """One look at everything that has not ended; whether there is any such thing."""

        def read(
            connection: Connection,
        ) -> tuple[list[tuple[JobRecord, JobRecord]], dict[Key, computes.Limits]]:
            unfinished = records.unfinished(connection)
            known = {(record.workspace_id, record.name): record for record in unfinished}
            found = [(record, _root(connection, record, known)) for record in unfinished]
            waiting = any(tree.is_leaf(record) and record.state is JobState.QUEUED for record in unfinished)
            places = {(record.workspace_id, record.compute) for record in unfinished if tree.is_leaf(record)}
            return found, computes.limits(connection, places) if waiting else {}

        # Copied before the read: whoever is in neither has no slot, whatever ends meanwhile.
        granted = self._granted.copy()
        found, limits = self._store.read(read)
        leaves = [_as_granted(record, granted) for record, _ in found if tree.is_leaf(record)]
        roots = {(record.workspace_id, record.name): root for record, root in found}
        turns = self._turns(leaves, roots, limits)
        may_start = {(leaf.workspace_id, leaf.name) for leaf in turns.next}
        for gone in [key for key in list(self._reasons) if key not in roots]:
            self._reasons.pop(gone, None)
        below: dict[Key, list[JobRecord]] = {}
        for record, root in found:
            if tree.is_trial(record):
                below.setdefault((root.workspace_id, root.name), []).append(record)
        # What has a step now is looked at again when that ends, its sweep too: a trial that has ended
        # meanwhile must not be judged by what was read above.
        with self._changed:
            stepping = self._busy.copy()
        # Leaves first: a sweep that always has something to decide must not keep its trials from their steps.
        for record, root in found:
            begun = False
            key = (root.workspace_id, root.name)
            if not tree.is_leaf(record) or record.state in tree.UNPREPARED:
                continue
            if record.state is JobState.QUEUED:
                own = (record.workspace_id, record.name)
                if own in granted:
                    continue
                if own in may_start:
                    begun = self._grant(key, record, root, turns.devices.get(own, ()))
                elif self._reasons.get(own) != (reason := turns.reasons.get(own)):
                    begun = self._do(key, self._acting, partial(self._waits, reason), record, root)
            else:
                begun = self._leaf(key, record, root)
            if begun:
                stepping.add(key)
        for record, _ in found:
            own = (record.workspace_id, record.name)
            if record.parent is None and own not in stepping:
                self._root(own, record, below)
        self._sweeps.forget({(root.workspace_id, root.name) for _, root in found})
        return bool(found)

    def _turns(
        self, leaves: list[JobRecord], roots: Mapping[Key, JobRecord], limits: Mapping[Key, computes.Limits]
    ) -> Turns:
        if self._slots is None:
            devices = visible_devices(len(self._engine.capacity().gpus))
            self._slots = Slots(self._training, self._commands, devices)
        order = {key: root.sequence for key, root in roots.items()}
        priorities = {key: _priority(root) for key, root in roots.items()}
        return self._slots.turns(leaves, priorities, order, limits)

    def _grant(self, key: Key, record: JobRecord, root: JobRecord, devices: tuple[str, ...]) -> bool:
        """The leaf starts, unless its tree has another step; until that is stored, the passes that follow
        count its slot as taken."""
        own = (record.workspace_id, record.name)

        def start(leaf: JobRecord, root: JobRecord) -> bool:
            try:
                return self._steps.start(leaf, root, devices)
            finally:
                del self._granted[own]

        self._granted[own] = devices
        begun = self._do(key, self._acting, start, record, root)
        if not begun:
            del self._granted[own]
        return begun

    def _waits(self, reason: str | None, record: JobRecord, root: JobRecord) -> bool:
        """The job's log says once why the job waits for its own compute."""
        key = (record.workspace_id, record.name)
        if reason is None:
            self._reasons.pop(key, None)
        else:
            self._reasons[key] = reason
            self._steps.waits(record, root, reason)
        return True

    def _root(self, key: Key, root: JobRecord, below: Mapping[Key, list[JobRecord]]) -> None:
        """A job itself; `below` are the trials that have not ended, by job."""
        if root.state in tree.UNPREPARED:
            self._do(key, self._preparing, self._steps.prepare, root, root)
        elif tree.is_leaf(root):
            return
        elif root.state is JobState.FINALIZING:
            self._do(key, self._acting, self._steps.finalized, root, root)
        elif root.state is JobState.CANCEL_REQUESTED:
            if key not in below:
                self._do(key, self._acting, self._steps.canceled, root, root)
        elif not self._resting(key, root) and self._sweeps.due(root, below.get(key, ())):
            self._do(key, self._sweeping, self._sweeps.advance, root, root)

    def _leaf(self, key: Key, leaf: JobRecord, root: JobRecord) -> bool:
        if leaf.state is JobState.FINALIZING:
            return self._do(key, self._acting, self._steps.finalized, leaf, root)
        if self._resting(key, leaf) or not self._steps.has_news(leaf):
            return False
        canceling = leaf.state is JobState.CANCEL_REQUESTED
        step = self._steps.stop if canceling else self._steps.watch
        return self._do(key, self._acting, step, leaf, root)

    def _resting(self, key: Key, record: JobRecord) -> bool:
        """Whether the record can have no step now."""
        own = (record.workspace_id, record.name)
        with self._changed:
            return key in self._busy or self._rest.get(own, 0.0) > time.monotonic()

    def _failed(self, record: JobRecord, error: Exception) -> None:
        """A step raised: it is tried again, but not for ever."""
        own = (record.workspace_id, record.name)
        self._failures[own] = self._failures.get(own, 0) + 1
        if self._failures[own] >= _TRIES:
            try:
                self._steps.broken(record, error)
            except Exception:
                _LOG.exception("job %s could not be marked as Failed", record.name)

    def _do(
        self,
        key: Key,
        pool: ThreadPoolExecutor,
        step: Callable[[JobRecord, JobRecord], bool],
        record: JobRecord,
        root: JobRecord,
    ) -> bool:
        """Run a step in a thread, unless one of the same tree is under way, or one of the same run has just
        failed; whether so."""
        own = (record.workspace_id, record.name)
        if self._resting(key, record) or self._stopped.is_set():
            return False
        with self._changed:
            self._busy.add(key)

        def run() -> None:
            rest = _RETRY
            try:
                if step(record, root):
                    rest = 0.0
                    self._failures.pop(own, None)
            except NotYet as reason:
                _LOG.warning("job %s (%s) has to wait: %s", record.name, record.state, reason)
            except Exception as error:
                _LOG.exception("a step of job %s (%s) failed", record.name, record.state)
                self._failed(record, error)
            finally:
                with self._changed:
                    self._busy.discard(key)
                    self._rest.pop(own, None)
                    if rest:
                        self._rest[own] = time.monotonic() + rest
                    self._woken = True
                    self._changed.notify_all()

        pool.submit(run)
        return True


def _as_granted(leaf: JobRecord, granted: Mapping[Key, tuple[str, ...]]) -> JobRecord:
    """The leaf as it will be once its start is stored, if it was given a slot."""
    devices = granted.get((leaf.workspace_id, leaf.name))
    if devices is None or leaf.state is not JobState.QUEUED:
        return leaf
    properties = {**leaf.properties, slots.DEVICES: ",".join(devices)} if devices else leaf.properties
    return replace(leaf, state=JobState.STARTING, properties=properties)


def _root(connection: Connection, record: JobRecord, known: Mapping[Key, JobRecord]) -> JobRecord:
    """The job above a record; a tree ends as one, so `known` has it nearly always."""
    while record.parent is not None:
        above = known.get((record.workspace_id, record.parent))
        if above is None:
            return records.root_of(connection, record)
        record = above
    return record


def _priority(root: JobRecord) -> int:
    try:
        return slots.priority(root.body)
    except AzureError:
        # It was stored before priorities were checked.
        return slots.MEDIUM


def visible_devices(gpus: int) -> tuple[str, ...]:
    """The GPUs that jobs may have: all of the host, or those that the server itself may see."""
    if not gpus:
        return ()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return tuple(str(number) for number in range(gpus))
    return tuple(one.strip() for one in given.split(",") if one.strip() and one.strip() != "-1")
