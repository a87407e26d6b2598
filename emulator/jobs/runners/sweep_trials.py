"""The trials of a sweep job: how each is drawn, judged, and what the best of them leaves to the job."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs import command_files, environments, outputs, records
from amlocal.emulator.jobs.command_request import CommandJob
from amlocal.emulator.jobs.command_request import read as read_command
from amlocal.emulator.jobs.computes import DEVICE
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.runners.base import JobFailure, NewRun, Patch
from amlocal.emulator.jobs.runners.command_leaf import CommandLeaf
from amlocal.emulator.jobs.runners.logged import Logged
from amlocal.emulator.jobs.runners.sweep_metric import TrialMetrics
from amlocal.emulator.jobs.sampling.space import SpaceError, Trial
from amlocal.emulator.jobs.states import JobState
from amlocal.emulator.jobs.sweeps import log as sweep_log
from amlocal.emulator.jobs.sweeps import request as sweep_request
from amlocal.emulator.jobs.sweeps.plan import NewTrial, Plan, Played
from amlocal.emulator.jobs.sweeps.records import SCORE
from amlocal.emulator.jobs.sweeps.request import SweepJob
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.workspace import Workspace

# The tag of a sweep of which no trial has logged the primary metric.
NO_SCORE = "amlocal.score"
_ENVIRONMENT = (environments.RESOLVED, environments.PYTHON, environments.DIFFERENCES)
_SHOWN = 10


class CommandSweeper(Logged):
    """See `sweeps.plan.Sweeper`.

    A trial counts with the best value of the primary metric that it has logged, at whatever step. One that
    ends well without having logged it is Completed and has no score. A sweep of which no trial has one is
    Completed without best_child_run_id, and a tag says why: so it is on Azure, where a name that the script
    does not log breaks nothing and the metric reads N/A (MicrosoftLearning/mslearn-azure-ml, pull request 51;
    MicrosoftLearning/DP100, issue 11: such a sweep has no best run).
    """

    def __init__(self, *, store: Store, folder: DataFolder, leaf: CommandLeaf, metrics: TrialMetrics) -> None:
        self._store = store
        self._folder = folder
        self._leaf = leaf
        self._metrics = metrics
        # The primary metric of each (workspace id, sweep).
        self._primary: dict[tuple[str, str], str] = {}

    def plan(self, root: JobRecord) -> Plan:
        """What was asked for."""
        job = sweep_request.read(root.body)
        return Plan(
            sweep=root.name,
            objective=job.objective,
            policy=job.policy,
            max_trials=job.max_trials,
            max_concurrent=job.max_concurrent,
            timeout=job.timeout,
            trial_timeout=job.trial_timeout,
            generator=sweep_request.generator(job),
        )

    def next_trial(self, workspace: Workspace, root: JobRecord, trials: Sequence[Played]) -> NewTrial | None:
        """Draw the next trial; None when the space has no more. Its log begins, its files come at its start.

        Raises JobFailure.
        """
        job = sweep_request.read(root.body)
        try:
            sample = sweep_request.draw(job, root.name, _history(job, trials), len(trials))
            if sample is None:
                return None
            body = sweep_request.trial_body(root.body, sample)
            tags = {"hyperparameters": json.dumps(sample), **_kept(root.tags, DEVICE)}
            told = _kept(root.properties, *_ENVIRONMENT)
            run = NewRun(trial_of(root.name, len(trials)), root.name, "command", "", body, tags, told)
            run = replace(run, display_name=run.name)
            record = replace(
                root, name=run.name, parent=root.name, kind=run.kind, body=body, tags=tags, properties=told
            )
            log = self._log(workspace, record)
            log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            drawn = f"drawn by {job.sampling.algorithm} sampling: {json.dumps(sample)}"
            self._leaf.begin_log(
                workspace,
                record,
                trial_job(record),
                [f"trial {len(trials)} of sweep {root.name}, {drawn}", *_one_place(job.trial)],
            )
        except SpaceError as error:
            raise JobFailure(f"search_space: {error}.") from error
        except AzureError as error:
            raise JobFailure(error.message) from error
        return NewTrial(run, sample)

    def values(self, workspace: Workspace, trial: JobRecord) -> tuple[float, ...]:
        """What a trial has logged of the primary metric, oldest first."""
        return self._metrics.so_far(trial, self._metric_of(trial)).values

    def trial_ended(self, workspace: Workspace, root: JobRecord, trial: JobRecord) -> Patch:
        """Its artifacts are kept and its outputs are whole; its score. Raises JobFailure."""
        self._leaf.collect(workspace, trial, trial_job(trial))
        return self._scored(workspace, root, trial)

    def trial_terminated(self, workspace: Workspace, root: JobRecord, trial: JobRecord) -> Patch:
        """What it has left so far is kept, be it whole or not; its score."""
        self._leaf.tidy(workspace, trial)
        return self._scored(workspace, root, trial)

    def ended(
        self, workspace: Workspace, tree: Sequence[JobRecord], best: Played | None
    ) -> Mapping[str, Patch]:
        """The best trial's outputs are registered, where they are to become assets; nobody else's are.

        One that the policy ended may lack them, which the log says. Raises JobFailure for a version that was
        taken meanwhile.
        """
        root = tree[0]
        log = self._folder.artifacts(workspace.account, root.name) / sweep_log.HYPERDRIVE_LOG
        # What was fetched for all trials.
        shutil.rmtree(self._folder.job(workspace.id, root.name) / command_files.INPUTS, ignore_errors=True)
        if best is None or best.score is None:
            if not any(run.state is JobState.COMPLETED for run in tree[1:]):
                return {}
            text = self._why_no_score(root, tree[1:])
            sweep_log.write(log, "CONTROLLER", text, "WARNING")
            return {root.name: Patch(tags={NO_SCORE: text})}
        trial = next(run for run in tree if run.name == best.name)
        job = trial_job(trial)
        try:
            found = self._leaf.registrable(workspace, trial, job)
        except JobFailure as failure:
            if trial.state is JobState.COMPLETED:
                raise
            sweep_log.write(log, "CONTROLLER", f"Nothing is registered: {failure.message}", "WARNING")
            return {}
        if found:
            self._store.write(lambda c: _register(c, workspace, root, trial, job, found))
        return {}

    def _scored(self, workspace: Workspace, root: JobRecord, trial: JobRecord) -> Patch:
        objective = sweep_request.read(root.body).objective
        series = self._metrics.final(trial, objective.metric)
        score = series.best(objective.maximize)
        if score is not None:
            return Patch(properties={SCORE: str(score)})
        if objective.metric in series.names:
            why = f"no value of the primary metric {objective.metric!r} that it has logged is a number"
        else:
            why = f"it has not logged the primary metric {objective.metric!r} ({_logged(series.names)})"
        self.note(workspace, trial, f"the trial has no score: {why}")
        return Patch()

    def _why_no_score(self, root: JobRecord, trials: Sequence[JobRecord]) -> str:
        metric = self._metric_of(root)
        names = sorted({name for run in trials for name in self._metrics.final(run, metric).names})
        return (
            f"there is no best trial: none has logged a value of the primary metric {metric!r} "
            f"({_logged(names)}). Log it with mlflow.log_metric, or name one that is logged in "
            "objective.primary_metric."
        )

    def _metric_of(self, record: JobRecord) -> str:
        """The primary metric of a sweep, or of the sweep that a trial is below."""
        key = (record.workspace_id, record.parent or record.name)
        if key not in self._primary:
            root = self._store.read(lambda c: records.get(c, *key))
            assert root is not None
            self._primary[key] = sweep_request.read(root.body).objective.metric
        return self._primary[key]


def trial_of(job: str, index: int) -> str:
    """The name of a sweep's trial by its number from 0."""
    return f"{job}_{index}"


def trial_job(trial: JobRecord) -> CommandJob:
    """The command job that a trial is."""
    return read_command(trial.body, sweep_request.texts(trial.body.get("parameters") or {}))


def _history(job: SweepJob, trials: Sequence[Played]) -> list[Trial]:
    """The trials as samplers learn from them: of scores the larger one is the better one."""
    sign = 1.0 if job.objective.maximize else -1.0
    return [Trial(trial.sample, None if trial.score is None else sign * trial.score) for trial in trials]


def _one_place(job: CommandJob) -> list[str]:
    """What to know of outputs that all trials write to one place, where the last one wins."""
    return [
        f"WARNING: every trial writes the output {name!r} to {output.body['uri']}; with ${{{{name}}}} in its "
        "path each has a place of its own"
        for name, output in job.outputs.items()
        if output.body.get("uri") and "${{name}}" not in output.body["uri"]
    ]


def _kept(values: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: values[name] for name in names if name in values}


def _logged(names: Sequence[str]) -> str:
    more = "" if len(names) <= _SHOWN else f" and {len(names) - _SHOWN} more"
    return f"logged: {', '.join(names[:_SHOWN])}{more}" if names else "no metric was logged at all"


def _register(
    connection: Connection,
    workspace: Workspace,
    root: JobRecord,
    trial: JobRecord,
    job: CommandJob,
    found: Mapping[str, Mapping[str, Any]],
) -> None:
    """The assets, and on both runs their versions, in one write: a second call finds them and makes none."""
    current = records.get(connection, root.workspace_id, root.name)
    if current is None or current.state is not JobState.RUNNING or outputs.is_registered(current, found):
        return
    versions = outputs.register(connection, workspace, trial, job.outputs, found)
    for record in (root, trial):
        records.patch(connection, record, properties=versions)
