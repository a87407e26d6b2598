"""AutoML jobs for images: a sweep of one trial, trained by our own trainers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs import computes, fields, user_log
from amlocal.emulator.jobs.engines.base import Engine, EngineJob
from amlocal.emulator.jobs.inputs import Resolver
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.runners import automl_data, automl_records, automl_weights, environment
from amlocal.emulator.jobs.runners.automl_checkpoint import PINNED, Start, start_of
from amlocal.emulator.jobs.runners.automl_draw import with_sample
from amlocal.emulator.jobs.runners.automl_parameters import told
from amlocal.emulator.jobs.runners.automl_records import sweep_of, trial_of
from amlocal.emulator.jobs.runners.automl_request import ImageJob, read
from amlocal.emulator.jobs.runners.base import JobFailure, NewRun, Patch, Submission
from amlocal.emulator.jobs.runners.logged import Logged
from amlocal.emulator.settings import Settings
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import DataFolder, write_atomic
from amlocal.emulator.store.workspace import Workspace

IssueJobToken = Callable[[Workspace, str], str]
SPEC = "spec.json"
RESULT = "result.json"
DATA_REPORT = Path("outputs") / "data_report.json"
_GRACE = 30.0


class AutoMLRunner(Logged):
    """See `base.Runner`. `trainer` is the command that gets the path of spec.json as its last argument."""

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
    ) -> None:
        self._store = store
        self._folder = folder
        self._settings = settings
        self._engine = engine
        self._resolver = resolver
        self._issue_job_token = issue_job_token
        self._trainer = tuple(trainer)
        self._slots = slots

    @property
    def _weights_dir(self) -> Path:
        return self._settings.weights_dir or self._folder.root / "weights"

    def check(self, workspace: Workspace, name: str, properties: Mapping[str, Any]) -> Submission:
        """Everything that can be checked in about a second. Raises AzureError."""
        tags, given = fields.texts(properties, "tags"), fields.texts(properties, "properties")
        experiment = fields.text(properties, "experimentName", "experimentName", limit=255) or "Default"
        display_name = fields.text(properties, "displayName", "displayName", limit=255) or name
        compute_id = fields.text(properties, "computeId", "computeId")
        compute = self._store.read(lambda c: computes.resolve(c, workspace, compute_id))
        job, start = start_of(self._store, self._resolver, workspace, with_sample(read(properties), name))
        self._store.read(lambda c: computes.check(c, workspace, compute, job.nodes, job.nodes_field))
        automl_data.look(self._resolver, workspace, job)
        start_tags = automl_weights.check_weights(
            job, self._weights_dir, self._settings.missing_weights, checkpoint=start is not None
        )
        return Submission(
            kind=self.kind,
            experiment=experiment,
            display_name=display_name,
            compute=compute,
            tags={
                **{key: value for key, value in tags.items() if key != automl_weights.TAG},
                **start_tags,
                "_aml_system_azureml.automlComponent": "AutoML",
                **automl_records.ignored(job),
                **automl_records.fallback(job),
            },
            properties={
                **given,
                **automl_records.root_properties(job),
                **({} if start is None else {PINNED: start.pinned}),
            },
        )

    def reserved(self, name: str) -> Sequence[str]:
        return sweep_of(name), trial_of(name)

    def prepare(
        self, workspace: Workspace, root: JobRecord, abandoned: Callable[[], bool]
    ) -> Sequence[NewRun]:
        """Manifests, data report, spec and the head of the log; then the sweep and its trial."""
        job, start = self._job(workspace, root)
        sweep, trial = sweep_of(root.name), trial_of(root.name)
        job_dir = self._folder.job(workspace.id, trial)
        artifacts = self._folder.artifacts(workspace.account, trial)
        data = automl_data.check(self._resolver, workspace, job, abandoned)
        try:
            data.raise_for_errors()
        except JobFailure:
            data.write_report(
                self._folder.artifacts(workspace.account, root.name) / DATA_REPORT, self._folder.tmp
            )
            raise
        for folder in (job_dir, artifacts / user_log.USER_LOG.parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        data.write_manifests(job_dir)
        data.write_report(artifacts / DATA_REPORT, self._folder.tmp)
        self._write_spec(workspace, job, start, trial, attempt=1)
        device = self._device(root)
        user_log.start(
            artifacts / user_log.USER_LOG,
            [
                f"trial {trial} of job {root.name} on {root.compute}",
                *([device] if device else []),
                *automl_weights.lines(root.tags),
                *job.notices,
                *data.lines(),
            ],
        )
        tags = {"amlocal.device": device} if device else {}
        tags |= {key: value for key, value in root.tags.items() if key == automl_weights.TAG}
        below = automl_records.sweep(root.name, job)
        leaf = automl_records.trial(root.name, job)
        body = {
            "model_name": job.model,
            "primary_metric": job.metric.logged,
            "resources": {"instanceCount": job.nodes},
            "distributed": job.distributed,
            **automl_records.search_space(job),
        }
        return [
            NewRun(sweep, root.name, "sweep", sweep, body, {**below.tags, **tags}, below.properties),
            NewRun(trial, sweep, "trial", trial, body, {**leaf.tags, **tags}, leaf.properties),
        ]

    def launch(self, workspace: Workspace, root: JobRecord, leaf: JobRecord) -> EngineJob:
        """Write the attempt's spec; the order to train by it."""
        job_dir = self._folder.job(workspace.id, leaf.name)
        if not (job_dir / automl_data.TRAIN_MANIFEST).is_file():
            raise JobFailure(f"The files of {leaf.name} in {job_dir} are gone.", "SystemError")
        job, start = self._job(workspace, root)
        spec = self._write_spec(workspace, job, start, leaf.name, attempt=leaf.attempt)
        log = self._log(workspace, leaf)
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return EngineJob(
            job_dir=job_dir,
            argv=[*self._trainer, str(spec)],
            env=environment.of_trial(
                self._settings,
                self._folder,
                workspace,
                root,
                leaf,
                self._issue_job_token(workspace, leaf.name),
                threads=max(1, self._engine.capacity().cpus // self._slots),
            ),
            cwd=job_dir,
            stdout=log,
            attempt=leaf.attempt,
            grace=_GRACE,
        )

    def timeout(self, root: JobRecord) -> float | None:
        return read(root.body).timeout

    def outcome(self, tree: Sequence[JobRecord], leaf: JobRecord) -> Mapping[str, Patch]:
        job_dir = self._folder.job(leaf.workspace_id, leaf.name)
        result = automl_records.read_result(job_dir / RESULT)
        return automl_weights.with_start(automl_records.results(tree[0], leaf, result), job_dir)

    def _job(self, workspace: Workspace, root: JobRecord) -> tuple[ImageJob, Start | None]:
        """What was submitted. Raises JobFailure when what it starts from is gone since then."""
        try:
            job, pinned = with_sample(read(root.body), root.name), root.properties.get(PINNED)
            return start_of(self._store, self._resolver, workspace, job, pinned)
        except AzureError as error:
            raise JobFailure(error.message) from error

    def _device(self, root: JobRecord) -> str:
        """What a user should know who asked for a GPU on a host without one; "" otherwise."""
        if root.compute != computes.GPU_CLUSTER or self._engine.capacity().gpus:
            return ""
        return f"CPU: this host has no GPU, so {computes.GPU_CLUSTER} runs on its processors"

    def _write_spec(
        self, workspace: Workspace, job: ImageJob, start: Start | None, trial: str, *, attempt: int
    ) -> Path:
        job_dir = self._folder.job(workspace.id, trial)
        artifacts = self._folder.artifacts(workspace.account, trial)
        validation = job_dir / automl_data.VALIDATION_MANIFEST
        spec = {
            "schema": 1,
            "run_id": trial,
            "task": job.task,
            "primary_metric": job.metric.logged,
            "parameters": {**job.parameters, "model_name": job.model},
            "advanced_settings": dict(job.advanced),
            "train_manifest": str(job_dir / automl_data.TRAIN_MANIFEST),
            "validation_manifest": str(validation) if job.validation_uri is not None else None,
            "validation_data_size": job.validation_data_size,
            "data_report": str(artifacts / DATA_REPORT),
            "artifacts_dir": str(artifacts),
            "state_dir": str(job_dir),
            "cache_dir": str(self._folder.cache),
            "weights_dir": str(self._weights_dir),
            "missing_weights": self._settings.missing_weights,
            "start": None if start is None else start.as_dict(),
            "node_count": job.nodes,
            "cache_max_gb": self._settings.cache_max_gb,
            "log_verbosity": job.log_verbosity,
            "ignored": told(job.task, job.ignored),
            "attempt": attempt,
        }
        path = job_dir / SPEC
        write_atomic(path, json.dumps(spec, indent=1).encode())
        return path
