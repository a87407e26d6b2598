"""A sweep as the records have it at one moment."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from amlocal.emulator.jobs import records
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.runners.base import Patch
from amlocal.emulator.jobs.sweeps import leaderboard
from amlocal.emulator.jobs.sweeps import records as sweep_records
from amlocal.emulator.jobs.sweeps.plan import Objective, Plan, Played
from amlocal.emulator.store.workspace import Workspace, by_id


@dataclass(frozen=True)
class View:
    """`root` and `sweep` are the same run for a sweep job; `trials` in the order of their making."""

    workspace: Workspace
    root: JobRecord
    sweep: JobRecord
    trials: Sequence[JobRecord]

    @property
    def family(self) -> list[JobRecord]:
        """The whole tree, parents before children."""
        above = [self.root] if self.root.name == self.sweep.name else [self.root, self.sweep]
        return [*above, *self.trials]

    @property
    def open(self) -> list[JobRecord]:
        """The trials that have not ended."""
        return [trial for trial in self.trials if not trial.state.terminal]

    def played(self, values: Callable[[JobRecord], tuple[float, ...]]) -> list[Played]:
        """The trials as samplers and policies see them; `values` reads those of the primary metric."""
        return [
            Played(
                index=index,
                name=trial.name,
                sample=_sample(self.sweep, trial.name),
                state=trial.state,
                values=values(trial),
                score=leaderboard.score_of(trial),
                seconds=leaderboard.seconds_of(trial),
            )
            for index, trial in enumerate(self.trials)
        ]


def look(connection: Connection, plan: Plan, root: JobRecord) -> View:
    """Raises LookupError when the runs above the trials are not there."""
    job = records.get(connection, root.workspace_id, root.name)
    sweep = records.get(connection, root.workspace_id, plan.sweep)
    if job is None or sweep is None:
        raise LookupError(f"Sweep {plan.sweep} is not in the database.")
    trials = records.children(connection, root.workspace_id, plan.sweep)
    return View(by_id(connection, root.workspace_id), job, sweep, trials)


def best_of(played: Sequence[Played], objective: Objective) -> Played | None:
    """The trial with the best score, of equal ones the earlier; None: no trial has one."""
    scored = [(one.score, one) for one in played if one.score is not None]
    sign = 1.0 if objective.maximize else -1.0
    best = max(scored, key=lambda pair: (sign * pair[0], -pair[1].index), default=None)
    return None if best is None else best[1]


def left(plan: Plan, root: JobRecord) -> float | None:
    """Seconds until the time of the whole sweep is up, which counts from its first start; None: no limit."""
    if plan.timeout is None or root.started_at is None:
        return plan.timeout
    return plan.timeout - (time.time() - datetime.fromisoformat(root.started_at).timestamp())


def is_over(plan: Plan, root: JobRecord) -> bool:
    """Whether the time of the whole sweep is up."""
    seconds = left(plan, root)
    return seconds is not None and seconds <= 0


def spoken(seconds: float) -> str:
    """A time limit in words."""
    return f"{seconds / 60:g} minutes" if seconds >= 60 else f"{seconds:g} seconds"


def merged(first: Patch | None, second: Patch | None) -> Patch:
    """Both; the second wins."""
    one, other = first or Patch(), second or Patch()
    return Patch({**one.tags, **other.tags}, {**one.properties, **other.properties})


def _sample(sweep: JobRecord, trial: str) -> dict[str, Any]:
    """What was drawn for a trial; a client can write over the tag, so it is not trusted."""
    try:
        value = json.loads(sweep.tags.get(sweep_records.SAMPLE.format(trial), "{}"))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
