"""What the controller of a sweep knows of it: the plan, the trials played so far, and the runner's part.

The controller (sweeping.py) decides when trials are made, ended by the policy, and counted; a kind of job
that sweeps brings a `Sweeper` that draws and prepares them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.runners.base import NewRun, Patch
from amlocal.emulator.jobs.sampling.space import Sample
from amlocal.emulator.jobs.states import JobState
from amlocal.emulator.jobs.termination.policies import Policy
from amlocal.emulator.store.workspace import Workspace


@dataclass(frozen=True)
class Objective:
    """The primary metric under the name by which trials log it."""

    metric: str
    maximize: bool


@dataclass(frozen=True)
class Plan:
    """A sweep as its job asks for it. `sweep` is the run that the trials are below: the job itself for a
    sweep job. Times are seconds. `generator` is the value of the tag _aml_system_generator_config."""

    sweep: str
    objective: Objective
    policy: Policy | None
    max_trials: int
    max_concurrent: int
    timeout: float | None
    trial_timeout: float | None
    generator: Mapping[str, Any]


@dataclass(frozen=True)
class Played:
    """One trial as far as it has come. `values` are those of the primary metric, one for each interval.

    `score` is what counts for it: set for one that ended well, or that a policy ended with a checkpoint kept.
    `seconds` from its first start to its end, or to now.
    """

    index: int
    name: str
    sample: Sample
    state: JobState
    values: tuple[float, ...]
    score: float | None
    seconds: float | None


@dataclass(frozen=True)
class NewTrial:
    """A trial to be made. `sample` is what the sweep's tag tells of it, `lines` what the sweep's log does."""

    run: NewRun
    sample: Mapping[str, Any]
    lines: Sequence[str] = ()


class Sweeper(Protocol):
    """The part of a runner whose jobs are sweeps. Every call may come again after a crash."""

    def plan(self, root: JobRecord) -> Plan:
        """What was asked for."""

    def next_trial(self, workspace: Workspace, root: JobRecord, trials: Sequence[Played]) -> NewTrial | None:
        """Draw the trial number `len(trials)` and write its files; None: there are no more.

        The same arguments give the same trial. Raises JobFailure.
        """

    def values(self, workspace: Workspace, trial: JobRecord) -> tuple[float, ...]:
        """What a trial has logged of the primary metric, oldest first; never raises for half a line."""

    def trial_ended(self, workspace: Workspace, root: JobRecord, trial: JobRecord) -> Patch:
        """What a trial that ended well adds to its run, with the property `score`. Raises JobFailure."""

    def trial_terminated(self, workspace: Workspace, root: JobRecord, trial: JobRecord) -> Patch:
        """The same for one that a policy ended; without `score` where no checkpoint was kept."""

    def ended(
        self, workspace: Workspace, tree: Sequence[JobRecord], best: Played | None
    ) -> Mapping[str, Patch]:
        """What the end of the sweep adds to the job and to its sweep, by name; `best` None: no trial."""
