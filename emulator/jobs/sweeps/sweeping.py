"""The controller of sweeps: makes trials, ends them by the policy, and brings the sweep to its end.

A step of the scheduler like the others: it keeps nothing in memory that matters, and after a crash it goes on
with what the records say. A trial and its parameters are stored in one write, so none is drawn twice. The
trials themselves are started, watched and stopped by steps.py, each for itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from amlocal.emulator import crash_points
from amlocal.emulator.jobs import records, tree
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.runners.base import JobFailure, Patch, Runner
from amlocal.emulator.jobs.states import JobState
from amlocal.emulator.jobs.sweeps import end as sweep_end
from amlocal.emulator.jobs.sweeps import leaderboard
from amlocal.emulator.jobs.sweeps import log as sweep_log
from amlocal.emulator.jobs.sweeps import records as sweep_records
from amlocal.emulator.jobs.sweeps import view as sweep_view
from amlocal.emulator.jobs.sweeps.plan import NewTrial, Plan, Played, Sweeper
from amlocal.emulator.jobs.sweeps.progress import Progresses
from amlocal.emulator.jobs.sweeps.view import View, best_of, is_over, left, merged, spoken
from amlocal.emulator.jobs.tracking import Tracking
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import DataFolder

_LOG = logging.getLogger(__name__)
CLOSED = "amlocal.generation_ended"
"""The tag of a sweep that gets no more trials although its limit is not reached, with the reason."""
_SYSTEM = "SystemError: "
# Trials made in one step: those that are there want to be started meanwhile.
_BATCH = 20

Key = tuple[str, str]


@dataclass
class _Memory:
    """What this process knows of one sweep, and could find out again."""

    plan: Plan
    progress: Progresses
    made: int = -1
    open: int = -1
    closed: bool = False
    logged: set[tuple[str, str]] = field(default_factory=set)


class Sweeps:
    """`due` is asked in every pass of the scheduler; `advance` is a step, one per sweep at a time."""

    def __init__(
        self,
        store: Store,
        folder: DataFolder,
        runners: Mapping[str, Runner],
        tracking: Tracking,
        stopping: Callable[[], bool],
    ) -> None:
        self._store = store
        self._folder = folder
        self._runners = runners
        self._tracking = tracking
        self._stopping = stopping
        self._memories: dict[Key, _Memory] = {}

    def due(self, root: JobRecord, trials: Sequence[JobRecord]) -> bool:
        """Whether there is something to do for a sweep that is Queued or Running; `trials`: its open ones."""
        memory = self._memories.get((root.workspace_id, root.name))
        if memory is None or memory.open != len(trials) or not trials:
            return True
        late = tree.TIME_LIMIT in root.tags
        if not late and is_over(memory.plan, root):
            return True
        room = memory.made < memory.plan.max_trials and len(trials) < memory.plan.max_concurrent
        if room and not memory.closed and not late:
            return True
        return memory.plan.policy is not None and memory.progress.news(trials)

    def forget(self, unfinished: set[Key]) -> None:
        """Drop what is known of sweeps that have ended; `unfinished` are the jobs that have not."""
        for key in list(self._memories):
            if key not in unfinished:
                del self._memories[key]

    def advance(self, record: JobRecord, root: JobRecord) -> bool:
        """The step of a sweep that is Queued or Running."""
        memory = self._memory(root)
        found = self._look(memory.plan, root)
        self._tell(memory, found)
        if found.root.state not in tree.GROWING:
            return True
        if is_over(memory.plan, found.root) and tree.TIME_LIMIT not in found.root.tags:
            self._time_up(found.root, memory.plan.timeout or 0.0)
            found = self._look(memory.plan, root)
        self._judge(memory, found)
        done = self._make(memory, found)
        found = self._look(memory.plan, root)
        self._tell(memory, found)
        memory.made, memory.open = len(found.trials), len(found.open)
        memory.closed = CLOSED in found.sweep.tags
        if found.root.state not in tree.GROWING or found.open:
            return done
        late = tree.TIME_LIMIT in found.root.tags
        if late or memory.closed or memory.made >= memory.plan.max_trials:
            self._end(memory, found)
        return done

    def seconds(self, root: JobRecord) -> float | None:
        """How long a trial that starts now may run; at most 0: it must not start any more."""
        plan = self._memory(root).plan
        limits = [limit for limit in (left(plan, root), plan.trial_timeout) if limit is not None]
        return min(limits, default=None)

    def trial_timed_out(self, trial: JobRecord, root: JobRecord) -> None:
        """A trial was stopped, or not started, for want of time: its own, or that of the whole sweep."""
        plan = self._memory(root).plan
        if plan.trial_timeout is None or is_over(plan, root):
            self._time_up(root, plan.timeout or 0.0)
            return
        text = (
            f"The trial was stopped because its time limit of {spoken(plan.trial_timeout)} was up. "
            "Give it more: limits.trial_timeout of the sweep."
        )
        self._store.write(lambda c: tree.time_up(c, trial, text))

    def ending(self, root: JobRecord, state: JobState) -> None:
        """The job of a sweep, all of whose trials have ended, is about to be shown in its final state."""
        if root.started_at is None:  # it was canceled before there was anything to tell
            return
        memory = self._memory(root)
        found = self._look(memory.plan, root)
        self._tell(memory, found)
        self._status(found, state)

    def _memory(self, root: JobRecord) -> _Memory:
        key = (root.workspace_id, root.name)
        if key not in self._memories:
            plan = self._sweeper(root).plan(root)
            self._memories[key] = _Memory(plan, Progresses(self._folder, root.workspace_id))
        return self._memories[key]

    def _sweeper(self, root: JobRecord) -> Sweeper:
        sweeper = self._runners[root.kind].sweeper
        assert sweeper is not None
        return sweeper

    def _look(self, plan: Plan, root: JobRecord) -> View:
        return self._store.read(lambda c: sweep_view.look(c, plan, root))

    def _played(self, memory: _Memory, found: View) -> list[Played]:
        sweeper = self._sweeper(found.root)
        return found.played(lambda trial: memory.progress.values(sweeper, found.workspace, trial))

    def _judge(self, memory: _Memory, found: View) -> None:
        """The policy looks at every interval that a running trial has reached since the last time."""
        policy = memory.plan.policy
        if policy is None:
            return
        sweeper = self._sweeper(found.root)
        for trial in found.trials:
            memory.progress.values(sweeper, found.workspace, trial)
        trials = list(found.trials)
        for index, trial in enumerate(trials):
            if trial.state is not JobState.RUNNING:
                continue
            reason = memory.progress.judge(policy, memory.plan.objective, trials, trial)
            if reason is not None and self._store.write(partial(tree.terminate, trial=trial, reason=reason)):
                crash_points.reach("sweep.terminated")
                trials[index] = replace(trial, state=JobState.CANCEL_REQUESTED)
                self._mark(found.root)

    def _make(self, memory: _Memory, found: View) -> bool:
        """Trials, as many as there is room for, or some of them; False if the server stops meanwhile."""
        plan, root = memory.plan, found.root
        room = min(plan.max_concurrent - len(found.open), plan.max_trials - len(found.trials), _BATCH)
        if room <= 0 or tree.TIME_LIMIT in root.tags or CLOSED in found.sweep.tags:
            return True
        self._log(found, sweep_log.created)
        self._log(found, partial(sweep_log.sampling, count=room))
        played = self._played(memory, found)
        first = len(played)
        for count in range(first + 1, first + room + 1):
            if self._stopping():
                return False
            new = self._next(memory, found, played)
            if new is None:
                break
            crash_points.reach("sweep.drawn")
            above = sweep_records.made(plan, count, new, count == plan.max_trials)
            if not self._store.write(partial(tree.add_trial, root=root, run=new.run, above=above)):
                return True
            crash_points.reach("sweep.made")
            for line in new.lines:
                self._log(found, partial(sweep_log.write, source="GENERATOR", text=line))
            played.append(
                Played(len(played), new.run.name, dict(new.sample), JobState.QUEUED, (), None, None)
            )
        self._log(found, partial(sweep_log.sampled, count=len(played) - first))
        self._mark(root)
        return True

    def _next(self, memory: _Memory, found: View, played: Sequence[Played]) -> NewTrial | None:
        """The next trial; where there is none, or it cannot be made, the sweep goes on with those it has."""
        try:
            new = self._sweeper(found.root).next_trial(found.workspace, found.root, played)
        except JobFailure as failure:
            why = f"{_SYSTEM if failure.code == 'SystemError' else ''}{failure.message}"
        except OSError as error:
            why = f"{_SYSTEM}The files of the next trial cannot be written: {error}."
        else:
            if new is not None:
                return new
            why = "There are no more trials to be drawn."
        tags = {**sweep_records.ended(memory.plan, played, None).tags, CLOSED: why}
        self._store.write(lambda c: records.patch(c, found.sweep, tags=tags))
        return None

    def _end(self, memory: _Memory, found: View) -> None:
        """No trial is open and there will be no more."""
        plan, root = memory.plan, found.root
        played = self._played(memory, found)
        best = best_of(played, plan.objective)
        outcome = {found.sweep.name: sweep_records.ended(plan, played, best)}
        try:
            more = self._sweeper(root).ended(found.workspace, found.family, best)
        except JobFailure as failure:
            self._fail(found, failure.code, failure.message, outcome)
            return
        outcome = {name: merged(outcome.get(name), more.get(name)) for name in {*outcome, *more}}
        self._leave(plan, found, played, best)
        failed = [trial for trial in found.trials if trial.state is JobState.FAILED]
        # A command that logs no primary metric ends well all the same.
        if best is not None or any(trial.state is JobState.COMPLETED for trial in found.trials):
            if failed:
                text = f"{len(failed)} of {len(found.trials)} jobs failed; the others count."
                self._log(found, partial(sweep_log.write, source="CONTROLLER", text=text))
            self._store.write(lambda c: tree.settle(c, root, outcome))
            self._settled(root)
        elif tree.TIME_LIMIT in root.tags:
            self._cancel(found, "time limit", root.tags[tree.TIME_LIMIT], outcome)
        elif failed:
            first = min(failed, key=lambda trial: trial.ended_at or "")
            error = first.error or {}
            code = str(error.get("code", "SystemError"))
            kind = "User" if code == "UserError" else "System"
            cause = f"{first.name}: {error.get('message', '')}"
            text = f"{kind} errors were found in at least one of the child runs. {cause}"
            self._fail(found, code, text, outcome)
        elif not found.trials:
            why = found.sweep.tags.get(CLOSED, "The sweep has no trials.")
            code = "SystemError" if why.startswith(_SYSTEM) else "UserError"
            self._fail(found, code, why.removeprefix(_SYSTEM), outcome)
        else:
            self._cancel(found, "no trial of the sweep has a score", None, outcome)

    def _leave(self, plan: Plan, found: View, played: Sequence[Played], best: Played | None) -> None:
        """The leaderboard and what else the end leaves; no fault of it is worth the job."""
        try:
            missing = sweep_end.write(self._folder, found.workspace, plan, found.family, played, best)
        except Exception as error:
            _LOG.exception("the leaderboard of %s", found.root.name)
            missing = [f"the leaderboard could not be made: {error!r}"]
        for text in missing:
            self._log(found, partial(sweep_log.write, source="CONTROLLER", text=text, level="WARNING"))

    def _fail(self, found: View, code: str, text: str, outcome: Mapping[str, Patch]) -> None:
        _LOG.info("sweep %s failed: %s", found.sweep.name, text)
        self._status(found, JobState.FAILED)
        self._store.write(lambda c: tree.fail(c, found.root, code, text, outcome))
        self._settled(found.root)

    def _cancel(self, found: View, why: str, message: str | None, outcome: Mapping[str, Patch]) -> None:
        self._status(found, JobState.CANCELED)
        self._store.write(lambda c: tree.cancel(c, found.root, why, message, outcome))
        self._settled(found.root)

    def _settled(self, root: JobRecord) -> None:
        crash_points.reach("sweep.settled")
        self._mark(root)

    def _time_up(self, root: JobRecord, limit: float) -> None:
        text = (
            f"The job was stopped because its time limit of {spoken(limit)} was up. Give it more: "
            "limits.timeout of a sweep job, set_limits(timeout_minutes=...) of an AutoML job."
        )
        self._store.write(lambda c: tree.time_up(c, root, text))
        self._mark(root)

    def _tell(self, memory: _Memory, found: View) -> None:
        """The sweep's log says what the records say; what stands there already is not written again."""
        for trial in found.trials:
            reason = trial.tags.get(tree.TERMINATED)
            lines: dict[str, Callable[[Path], None]] = {
                "made": partial(sweep_log.scheduled, trial=trial.name)
            }
            if reason is not None:
                lines["terminated"] = partial(sweep_log.terminated, trial=trial.name, reason=reason)
            if trial.state.terminal:
                why = reason or str((trial.error or {}).get("message", ""))
                lines["ended"] = partial(
                    sweep_log.trial_ended,
                    trial=trial.name,
                    status=trial.state.value,
                    score=leaderboard.score_of(trial),
                    why=why.partition("\n")[0],
                )
            for line, write in lines.items():
                if (trial.name, line) not in memory.logged and self._log(found, write):
                    memory.logged.add((trial.name, line))
        limit, closed = memory.plan.max_trials, CLOSED in found.sweep.tags
        all_made = "", "all made"
        if (closed or len(found.trials) >= limit) and all_made not in memory.logged:
            write = partial(sweep_log.all_made, count=len(found.trials), limit=limit)
            if self._log(found, write):
                memory.logged.add(all_made)

    def _status(self, found: View, state: JobState) -> None:
        """What the service's own log says of the end, which knows of no Finalizing."""
        old = JobState.RUNNING if found.sweep.started_at else JobState.QUEUED
        self._log(found, partial(sweep_log.status, old=old.value, new=state.value))

    def _log(self, found: View, write: Callable[[Path], None]) -> bool:
        """A line of the sweep's log; whether it stands there. Without one the sweep goes on."""
        folder = self._folder.artifacts(found.workspace.account, found.sweep.name)
        try:
            write(folder / sweep_log.HYPERDRIVE_LOG)
        except OSError as error:  # a full disk must not keep a sweep from ending
            _LOG.warning("the log of %s lacks a line: %s", found.sweep.name, error)
            return False
        return True

    def _mark(self, root: JobRecord) -> None:
        self._tracking.mark(root.workspace_id, root.name)
