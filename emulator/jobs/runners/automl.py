"""AutoML jobs for images: sweeps of one trial or of many, trained by our own trainers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs import caps, computes, fields, warm
from amlocal.emulator.jobs.engines.base import Engine, EngineJob
from amlocal.emulator.jobs.inputs import Resolver
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.runners import (
    automl_auto,
    automl_data,
    automl_draw,
    automl_limits,
    automl_records,
    automl_spec,
    automl_weights,
    environment,
)
from amlocal.emulator.jobs.runners.automl_checkpoint import PINNED
from amlocal.emulator.jobs.runners.automl_means import Means
from amlocal.emulator.jobs.runners.automl_records import sweep_of, trial_of
from amlocal.emulator.jobs.runners.automl_request import ImageJob
from amlocal.emulator.jobs.runners.automl_sweeper import AutoMLSweeper
from amlocal.emulator.jobs.runners.base import JobFailure, NewRun, Patch, Submission
from amlocal.emulator.jobs.runners.logged import Logged
from amlocal.emulator.jobs.warm import WarmParent
from amlocal.emulator.settings import Settings
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import DataFolder
from amlocal.emulator.store.workspace import Workspace

IssueJobToken = Callable[[Workspace, str], str]
_GRACE = 30.0


class AutoMLRunner(Logged):
    """See `base.Runner`. `trainer` is the command that gets the path of spec.json as its last argument.

    `parent` spares a trial its imports.
    """

    kind = "automl"
    attempts = 2

    def __init__(
        self,
        *,
        store: Store,
        folder: DataFolder,
        settings: Settings,
        engine: Engine,
        resolver: Resolver,
        issue_job_token: IssueJobToken,
        trainer: Sequence[str] = (sys.executable, "-m", "amlocal.trainers", "train"),
        slots: int = 1,
        parent: WarmParent | None = None,
    ) -> None:
        self._means = Means(store, folder, settings, engine, resolver, slots)
        self._folder = folder
        self._issue_job_token = issue_job_token
        self._trainer = tuple(trainer)
        self._parent = parent
        self._trials = AutoMLSweeper(self._means)
        self.sweeper = self._trials

    def check(self, workspace: Workspace, name: str, properties: Mapping[str, Any]) -> Submission:
        """Everything that can be checked in about a second. Raises AzureError."""
        means = self._means
        tags, given = fields.texts(properties, "tags"), fields.texts(properties, "properties")
        experiment = fields.text(properties, "experimentName", "experimentName", limit=255) or "Default"
        display_name = fields.text(properties, "displayName", "displayName", limit=255) or name
        compute_id = fields.text(properties, "computeId", "computeId")
        compute = means.store.read(lambda c: computes.resolve(c, workspace, compute_id))
        job = means.read(properties)
        first, start = means.began(workspace, name, job)
        means.store.read(lambda c: computes.check(c, workspace, compute, job.nodes, job.nodes_field))
        automl_data.look(means.resolver, workspace, job)
        weights_tags = self._check_weights(job, first, checkpoint=start is not None)
        return Submission(
            kind=self.kind,
            experiment=experiment,
            display_name=display_name,
            compute=compute,
            tags={
                **automl_records.given(tags),
                **weights_tags,
                **caps.tags(means.settings.caps),
                "_aml_system_azureml.automlComponent": "AutoML",
                **automl_records.ignored(job),
                **automl_records.fallback(first if job.max_trials == 1 else automl_draw.widest(job)),
            },
            properties={
                **given,
                **automl_records.root_properties(job),
                **({} if start is None else {PINNED: start.pinned}),
            },
        )

    def _check_weights(self, job: ImageJob, first: ImageJob, *, checkpoint: bool) -> dict[str, str]:
        """The tags of a job whose trials start from random weights. Raises AzureError."""
        means = self._means
        one = checkpoint or job.max_trials == 1
        models = [first.model] if one else automl_draw.models(job)
        try:
            return automl_weights.check_models(
                first, models, means.weights_dir, means.settings.missing_weights, checkpoint=checkpoint
            )
        except AzureError:
            # AutoMode leaves out what has no weights, the default model too, as long as others have some.
            fixed = dict(job.parameters)
            if job.automode and not job.model_given and automl_auto.starts_of(means, job, fixed):
                return {}
            raise

    def reserved(self, name: str) -> Sequence[str]:
        return [sweep_of(name), *(trial_of(name, index) for index in range(automl_limits.MAXIMUM_TRIALS))]

    def prepare(
        self, workspace: Workspace, root: JobRecord, abandoned: Callable[[], bool]
    ) -> Sequence[NewRun]:
        """Manifests, data report and AutoMode's plan, which the trials share; then the sweep above them."""
        means = self._means
        job = means.of(root)
        try:
            # Whether what the job starts from is still there.
            first, _ = means.began(workspace, root.name, job, root.properties.get(PINNED))
        except AzureError as error:
            raise JobFailure(error.message) from error
        job_dir = self._folder.job(workspace.id, root.name)
        report = self._folder.artifacts(workspace.account, root.name) / automl_spec.DATA_REPORT
        data = automl_data.check(means.resolver, workspace, job, abandoned)
        try:
            data.raise_for_errors()
        except JobFailure:
            data.write_report(report, self._folder.tmp)
            raise
        data = data.capped(means.settings.caps)
        job_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        data.write_manifests(job_dir)
        data.write_report(report, self._folder.tmp)
        data.write_lines(job_dir)
        if job.automode:
            automl_auto.prepare(means, workspace, root, job, data)
        sweep = sweep_of(root.name)
        details = root.body.get("taskDetails") or {}
        policy = (details.get("sweepSettings") or {}).get("earlyTermination") or {}
        shown = automl_records.shown(job, policy)
        if job.automode:
            shown |= automl_auto.shown(means, root)
        tags = self._trials.shared_tags(root)
        if job.search.space is None and not job.automode:
            # The plan does not know the model of a checkpoint.
            tags |= automl_records.generator_tag(replace(job, model=first.model))
        body = {"model_name": first.model, "primary_metric": job.metric.logged, **shown}
        return [NewRun(sweep, root.name, "sweep", sweep, body, tags)]

    def launch(self, workspace: Workspace, root: JobRecord, leaf: JobRecord) -> EngineJob:
        """Write the attempt's spec; the order to train by it."""
        means = self._means
        job_dir = self._folder.job(workspace.id, leaf.name)
        shared = self._folder.job(workspace.id, root.name)
        if not (shared / automl_data.TRAIN_MANIFEST).is_file():
            raise JobFailure(f"The files of {root.name} in {shared} are gone.", "SystemError")
        spec = self._trials.write_spec(workspace, root, leaf)
        log = self._log(workspace, leaf)
        for folder in (job_dir, log.parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        env = environment.of_trial(
            means.settings,
            self._folder,
            workspace,
            root,
            leaf,
            self._issue_job_token(workspace, leaf.name),
            threads=means.cores,
        )
        nodes = int((leaf.body.get("resources") or {}).get("instanceCount") or 1)
        distributed = leaf.body.get("distributed") is not False
        count = warm.processes(nodes, env, distributed=distributed)
        argv = warm.argv(
            self._parent,
            self._trainer,
            spec,
            env,
            attempt=leaf.attempt,
            processes=count,
            trials=means.of(root).max_trials,
        )
        return EngineJob(
            job_dir=job_dir,
            argv=argv,
            env=env,
            cwd=job_dir,
            stdout=log,
            attempt=leaf.attempt,
            grace=_GRACE,
        )

    def timeout(self, root: JobRecord) -> float | None:
        return self._means.read(root.body).timeout

    def outcome(self, tree: Sequence[JobRecord], leaf: JobRecord) -> Mapping[str, Patch]:
        """Not asked for: the sweeper says it."""
        return {}
