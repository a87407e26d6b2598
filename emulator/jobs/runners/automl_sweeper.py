"""The trials of an AutoML image job, from their draw to what they leave; see `sweeps.plan.Sweeper`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amlocal.compat import names
from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs import cache_sizes, caps, records, user_log
from amlocal.emulator.jobs.computes import DEVICE
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.runners import (
    automl_auto,
    automl_data,
    automl_draw,
    automl_records,
    automl_spec,
    automl_weights,
)
from amlocal.emulator.jobs.runners.automl_draw import Drawn
from amlocal.emulator.jobs.runners.automl_means import Means
from amlocal.emulator.jobs.runners.automl_records import sweep_of, trial_of
from amlocal.emulator.jobs.runners.automl_request import ImageJob
from amlocal.emulator.jobs.runners.base import JobFailure, NewRun, Patch
from amlocal.emulator.jobs.sampling.space import Trial
from amlocal.emulator.jobs.sweeps.plan import NewTrial, Objective, Plan, Played
from amlocal.emulator.jobs.tracking import METRICS
from amlocal.emulator.store.workspace import Workspace

AUTOMODE = "amlocal.automode"
"""The tag of a trial that AutoMode planned, with its reason."""


@dataclass(frozen=True)
class _Trial:
    """A trial as it is to be made. `raw` is the sampler's own sample, `why` AutoMode's reason for it, `fault`
    what keeps it from being trained."""

    job: ImageJob
    raw: Mapping[str, Any] | None
    why: str = ""
    fault: str | None = None


class AutoMLSweeper:
    """One for all jobs of a server."""

    def __init__(self, means: Means) -> None:
        self._means = means

    def plan(self, root: JobRecord) -> Plan:
        job = self._means.of(root)
        policy, generator = job.search.policy, automl_records.generator(job)
        if job.automode:
            policy, generator = automl_auto.search(self._means, root)
        return Plan(
            sweep=sweep_of(root.name),
            objective=Objective(job.metric.logged, maximize=True),
            policy=policy,
            max_trials=job.max_trials,
            max_concurrent=job.max_concurrent,
            timeout=job.timeout,
            trial_timeout=None,
            generator=generator,
        )

    def next_trial(self, workspace: Workspace, root: JobRecord, trials: Sequence[Played]) -> NewTrial | None:
        index = len(trials)
        found = self._next(workspace, root, trials, index)
        if found is None:
            return None
        found = self._started(workspace, root, found)
        job = found.job
        name = trial_of(root.name, index)
        body = {
            "model_name": job.model,
            "primary_metric": job.metric.logged,
            "resources": {"instanceCount": job.nodes},
            "distributed": job.distributed,
            "parameters": dict(job.parameters),
            "drawn": found.raw,
            "fault": found.fault,
        }
        weights = self._weights(root, job)
        tags = {**self.shared_tags(root), **weights, **({AUTOMODE: found.why} if found.why else {})}
        if automl_weights.TAG not in weights:
            tags.pop(automl_weights.TAG, None)
        own = automl_records.trial(root.name, index, job.model, job.sample)
        run = NewRun(name, sweep_of(root.name), "trial", name, body, {**own.tags, **tags}, own.properties)
        self._write(workspace, root, name, job, tags)
        lines = [f"{name}: {found.why}"] if found.why else []
        return NewTrial(run, {**job.parameters, "model_name": job.model}, lines)

    def values(self, workspace: Workspace, trial: JobRecord) -> tuple[float, ...]:
        metric = str(trial.body.get("primary_metric"))
        path = self._means.folder.job(workspace.id, trial.name) / METRICS
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ()
        found: dict[int, float] = {}
        for line in text.splitlines():
            # Most lines are of other metrics; reading all of them would be most of the work.
            if metric not in line:
                continue
            try:
                row = json.loads(line)
                if row["key"] == metric:
                    found[int(row["step"])] = float(row["value"])
            except (ValueError, KeyError, TypeError):
                continue  # the half line of a process that is writing, or was killed
        return tuple(value for _, value in sorted(found.items()))

    def trial_ended(self, workspace: Workspace, root: JobRecord, trial: JobRecord) -> Patch:
        job_dir = self._means.folder.job(workspace.id, trial.name)
        result = automl_records.read_result(job_dir / automl_spec.RESULT)
        return Patch(automl_weights.started(job_dir), automl_records.ended(trial, result))

    def trial_terminated(self, workspace: Workspace, root: JobRecord, trial: JobRecord) -> Patch:
        job_dir = self._means.folder.job(workspace.id, trial.name)
        if not (job_dir / automl_spec.RESULT).is_file():
            return Patch()
        return self.trial_ended(workspace, root, trial)

    def ended(
        self, workspace: Workspace, tree: Sequence[JobRecord], best: Played | None
    ) -> Mapping[str, Patch]:
        root = tree[0]
        trials = [record for record in tree if record.kind == "trial"]
        tags = automl_records.results(trials, None if best is None else best.name)
        weights = automl_weights.together([trial.tags for trial in trials])
        return {root.name: Patch({**tags, **weights}), sweep_of(root.name): Patch(weights)}

    def shared_tags(self, root: JobRecord) -> dict[str, str]:
        """The tags that stand on every run of a job."""
        device = self._means.device(root)
        shared = {key: value for key, value in root.tags.items() if key in (automl_weights.TAG, caps.TAG)}
        return ({DEVICE: device} if device else {}) | shared

    def write_spec(self, workspace: Workspace, root: JobRecord, trial: JobRecord) -> Path:
        """The spec of a trial's attempt. Raises JobFailure for a trial that cannot be trained."""
        if trial.body.get("fault"):
            raise JobFailure(str(trial.body["fault"]))
        means = self._means
        job = means.of(root)
        model, parameters = str(trial.body.get("model_name")), trial.body.get("parameters") or {}
        try:
            one = replace(job, model=model, model_given=True, parameters=parameters)
            _, start = means.start(workspace, root, one)
        except AzureError as error:
            raise JobFailure(error.message) from error
        return automl_spec.write(
            means,
            workspace,
            job,
            start,
            root=root.name,
            trial=trial.name,
            model=model,
            parameters=parameters,
            sizes=self._sizes(root, job),
            attempt=trial.attempt,
        )

    def _sizes(self, root: JobRecord, job: ImageJob) -> dict[str, int]:
        if job.automode:
            return automl_auto.largest(self._means, root, job)
        return cache_sizes.largest(job, self._means.settings.caps, self._means.weights_dir)

    def _next(
        self, workspace: Workspace, root: JobRecord, trials: Sequence[Played], index: int
    ) -> _Trial | None:
        """The trial that comes now, under its job's fixed parameters."""
        job = self._means.of(root)
        if job.automode:
            choice = automl_auto.choose(self._means, workspace, root, trials, index)
            if choice is None:
                return None
            planned = automl_draw.applied(job, choice.sample)
            sample = json.dumps(dict(choice.sample))
            fault = None
            try:
                automl_draw.check(planned)
            except names.BadParameter as error:
                fault = f"AutoMode chose {sample}, and then {error}."
            notices = (*planned.notices, f"chosen by AutoMode: {sample} ({choice.reason})")
            return _Trial(replace(planned, notices=notices), choice.sample, choice.reason, fault)
        try:
            drawn = automl_draw.draw(job, root.name, index, self._history(root, trials))
        except AzureError as error:
            raise JobFailure(error.message) from error
        return None if drawn is None else _of(drawn)

    def _started(self, workspace: Workspace, root: JobRecord, found: _Trial) -> _Trial:
        """With the model of the checkpoint, and under the server's caps."""
        job, fault = found.job, found.fault
        if fault is None:
            try:
                job, _ = self._means.start(workspace, root, job)
            except AzureError as error:
                fault = error.message
        capped = caps.parameters(self._means.settings.caps, job.task, job.model, job.parameters)
        job = replace(job, parameters=capped.parameters, notices=(*job.notices, *capped.notices))
        return replace(found, job=job, fault=fault)

    def _history(self, root: JobRecord, trials: Sequence[Played]) -> list[Trial]:
        sweep = sweep_of(root.name)
        made = self._means.store.read(lambda c: records.children(c, root.workspace_id, sweep))
        drawn = {trial.name: trial.body.get("drawn") or {} for trial in made}
        return [Trial(drawn.get(trial.name, {}), trial.score) for trial in trials]

    def _weights(self, root: JobRecord, job: ImageJob) -> dict[str, str]:
        told = automl_weights.of_model(root.tags, job.model)
        if not told and job.automode and automl_auto.starts(self._means, root).get(job.model) == "random":
            return automl_weights.random_start(job)
        return told

    def _write(
        self, workspace: Workspace, root: JobRecord, trial: str, job: ImageJob, tags: Mapping[str, str]
    ) -> None:
        """The trial's folders and the head of its log."""
        folder = self._means.folder
        shared, artifacts = folder.job(workspace.id, root.name), folder.artifacts(workspace.account, trial)
        for place in (folder.job(workspace.id, trial), artifacts / user_log.USER_LOG.parent):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        user_log.start(
            artifacts / user_log.USER_LOG,
            [
                f"trial {trial} of job {root.name} on {root.compute}",
                *([tags[DEVICE]] if DEVICE in tags else []),
                *automl_weights.lines(tags),
                *caps.lines(self._means.settings.caps),
                *job.notices,
                *automl_data.lines_of(shared),
            ],
        )


def _of(drawn: Drawn) -> _Trial:
    return _Trial(drawn.job, drawn.raw, fault=None if drawn.fault is None else drawn.fault.message)
