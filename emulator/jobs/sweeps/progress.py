"""What the trials of a sweep have logged of the primary metric, and how far the policy has judged it.

Nothing is read twice that cannot have changed: the values of a trial that has ended are kept in memory, those
of a running one are read again when its metrics file has changed, or after a while where it has none. All of
it is read anew after a restart.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Sequence

from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.states import JobState
from amlocal.emulator.jobs.sweeps.plan import Objective, Sweeper
from amlocal.emulator.jobs.termination.policies import Policy
from amlocal.emulator.jobs.termination.progress import Progress
from amlocal.emulator.jobs.tracking import METRICS
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.workspace import Workspace

_LOG = logging.getLogger(__name__)
# Seconds between two looks at what MLflow has of a trial that leaves no metrics file.
_LOOK = 2.0
JUDGED = "policy.json"
"""In a trial's job folder: the last interval to which the policy was applied."""

Signature = tuple[int, int]


class Progresses:
    """Of one sweep. Called by one thread at a time, but for `news`."""

    def __init__(
        self, folder: DataFolder, workspace_id: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._workspace_id = workspace_id
        self._clock = clock
        self._values: dict[str, tuple[float, ...]] = {}
        # What the values were read from: a file as it was, or nothing that shows whether it has changed.
        self._seen: dict[str, Signature | None] = {}
        self._looked: dict[str, float] = {}
        self._final: set[str] = set()
        self._judged: dict[str, int] = {}

    def news(self, trials: Sequence[JobRecord]) -> bool:
        """Whether a running trial may have logged something that was not read yet; costs next to nothing."""
        return any(trial.state is JobState.RUNNING and self._stale(trial) for trial in trials)

    def values(self, sweeper: Sweeper, workspace: Workspace, trial: JobRecord) -> tuple[float, ...]:
        """All values of a trial, oldest first; what is known of them while they cannot be read."""
        name = trial.name
        if name in self._final or not trial.attempt:
            return self._values.get(name, ())
        ended = trial.state.terminal
        if not ended and not self._stale(trial):
            return self._values.get(name, ())
        signature = self._signature(trial)
        self._looked[name] = self._clock()
        try:
            found = sweeper.values(workspace, trial)
        except Exception as error:  # MLflow may be restarting: the next look is soon
            _LOG.warning("the metrics of trial %s cannot be read: %s", name, error)
            return self._values.get(name, ())
        self._values[name] = found
        self._seen[name] = signature
        if ended:
            self._final.add(name)
        return found

    def judge(
        self, policy: Policy, objective: Objective, trials: Sequence[JobRecord], trial: JobRecord
    ) -> str | None:
        """Why the policy ends a running trial; None: it goes on. Every interval is judged once, in turn."""
        values = self._values.get(trial.name, ())
        done = self._done(trial)
        if len(values) <= done:
            return None
        others = [
            Progress(one.name, self._comparable(one, objective), _is_over(one))
            for one in trials
            if one.name in self._values
        ]
        applied = done
        for interval in range(done + 1, len(values) + 1):
            if not policy.schedule.applies(interval):
                continue
            applied = interval
            own = Progress(trial.name, self._comparable(trial, objective)[:interval])
            compared = [own if one.name == trial.name else one for one in others]
            reason = policy.ends(own, compared, objective.maximize)
            if reason is not None:
                return reason
        if applied > done:
            path = self._folder.job(self._workspace_id, trial.name) / JUDGED
            # Not durable: a machine that loses power judges the intervals again.
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps({"interval": applied}), encoding="utf-8")
            temporary.replace(path)
        self._judged[trial.name] = len(values)
        return None

    def _comparable(self, trial: JobRecord, objective: Objective) -> tuple[float, ...]:
        """Values without those that no order has: they are the worst."""
        worst = -math.inf if objective.maximize else math.inf
        return tuple(value if math.isfinite(value) else worst for value in self._values[trial.name])

    def _done(self, trial: JobRecord) -> int:
        known = self._judged.get(trial.name)
        if known is None:
            try:
                path = self._folder.job(self._workspace_id, trial.name) / JUDGED
                known = int(json.loads(path.read_text(encoding="utf-8"))["interval"])
            except (OSError, ValueError, KeyError, TypeError):
                known = 0
            self._judged[trial.name] = known
        return known

    def _stale(self, trial: JobRecord) -> bool:
        signature = self._signature(trial)
        if signature is not None:
            return self._seen.get(trial.name) != signature
        return self._clock() - self._looked.get(trial.name, -math.inf) >= _LOOK

    def _signature(self, trial: JobRecord) -> Signature | None:
        try:
            found = (self._folder.job(self._workspace_id, trial.name) / METRICS).stat()
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns


def _is_over(trial: JobRecord) -> bool:
    return trial.state.terminal or trial.state in (JobState.CANCEL_REQUESTED, JobState.FINALIZING)
