"""Sweep jobs: a user's own command once for every sample of a search space."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.jobs import command_files, environments, outputs, records, tree
from amlocal.emulator.jobs.engines.base import EngineJob
from amlocal.emulator.jobs.environments import JobEnvironments
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.runners.base import Abandoned, JobFailure, NewRun, Patch, Submission
from amlocal.emulator.jobs.runners.command_leaf import CommandLeaf
from amlocal.emulator.jobs.runners.logged import Logged
from amlocal.emulator.jobs.runners.sweep_metric import TrialMetrics
from amlocal.emulator.jobs.runners.sweep_trials import NO_SCORE, CommandSweeper, trial_job, trial_of
from amlocal.emulator.jobs.states import JobState
from amlocal.emulator.jobs.sweeps import records as sweep_records
from amlocal.emulator.jobs.sweeps import request as sweep_request
from amlocal.emulator.jobs.sweeps.sweeping import CLOSED
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.folder import DataFolder, write_atomic
from amlocal.emulator.store.workspace import Workspace

# In the job folder of the sweep: what all trials share.
SHARED = "sweep.json"
# What making the environment says, where clients look for the log of an image's building.
BUILD_LOG = Path("azureml-logs") / "20_image_build_log.txt"
# What the server alone says of a sweep.
_TAGS = (tree.TERMINATED, tree.TIME_LIMIT, CLOSED, NO_SCORE, "mlflow.loggedArtifacts")
_PROPERTIES = (sweep_records.BEST, sweep_records.SCORE, "best_metric_status", "best_data_container_id")


class SweepRunner(Logged):
    """See `base.Runner`. The trials are commands right below the job, each started once and never again."""

    kind = "sweep"
    attempts = 1

    def __init__(
        self,
        *,
        store: Store,
        folder: DataFolder,
        environments: JobEnvironments,
        leaf: CommandLeaf,
        metrics: TrialMetrics,
    ) -> None:
        self._store = store
        self._folder = folder
        self._environments = environments
        self._leaf = leaf
        self.sweeper = CommandSweeper(store=store, folder=folder, leaf=leaf, metrics=metrics)

    def check(self, workspace: Workspace, name: str, properties: Mapping[str, Any]) -> Submission:
        """Everything that can be checked in about a second. Raises AzureError."""
        job = sweep_request.read(properties)
        try:
            checked = self._leaf.check(workspace, name, self.kind, properties, job.trial)
        except AzureError as error:
            error.target = sweep_request.at_trial(error.target)
            raise
        return replace(
            checked,
            tags=_without(checked.tags, _TAGS, "_aml_system_"),
            properties=_without(checked.properties, _PROPERTIES, outputs.VERSIONS),
        )

    def reserved(self, name: str) -> Sequence[str]:
        return [trial_of(name, index) for index in range(sweep_request.MOST_TRIALS)]

    def prepare(
        self, workspace: Workspace, root: JobRecord, abandoned: Callable[[], bool]
    ) -> Sequence[NewRun]:
        """What all trials share: the environment, and the inputs that come from the web."""
        job = sweep_request.read(root.body).trial
        job_dir = self._folder.job(workspace.id, root.name)
        log = self._folder.artifacts(workspace.account, root.name) / BUILD_LOG
        for folder in (job_dir, log.parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fetched = self._leaf.fetch(workspace, job, job_dir / command_files.INPUTS, abandoned)
        met = self._environments.plan(workspace, job.environment, root.properties.get(environments.RESOLVED))
        python = self._environments.prepare(met, log, abandoned)
        shared = {"python": str(python), "fetched": {name: str(path) for name, path in fetched.items()}}
        write_atomic(job_dir / SHARED, json.dumps(shared).encode())
        return []

    def launch(self, workspace: Workspace, root: JobRecord, leaf: JobRecord) -> EngineJob:
        """The trial's own copies of code and inputs, and the order to run its command."""
        job_dir = self._folder.job(workspace.id, root.name)
        try:
            shared = json.loads((job_dir / SHARED).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise JobFailure(
                f"The files of {root.name} in {job_dir} are gone: {error}.", "SystemError"
            ) from error
        fetched = {name: Path(path) for name, path in shared["fetched"].items()}
        try:
            job = trial_job(leaf)
            places = self._leaf.furnish(workspace, leaf, job, lambda: self._gone(leaf), fetched)
        except AzureError as error:
            raise JobFailure(error.message) from error
        except Abandoned as error:
            raise JobFailure(f"{leaf.name} was stopped while its inputs were copied.") from error
        self._leaf.keep(workspace, leaf, places, shared["python"])
        return self._leaf.order(workspace, root, leaf, job)

    def timeout(self, root: JobRecord) -> float | None:
        return sweep_request.read(root.body).timeout

    def outcome(self, tree: Sequence[JobRecord], leaf: JobRecord) -> Mapping[str, Patch]:
        raise AssertionError("a sweep's trials are judged by its sweeper")

    def _gone(self, leaf: JobRecord) -> bool:
        current = self._store.read(lambda c: records.get(c, leaf.workspace_id, leaf.name))
        return current is None or current.state is not JobState.STARTING


def _without(values: Mapping[str, str], names: Sequence[str], prefix: str) -> dict[str, str]:
    """A job that was read back and is submitted again brings what became of the first one."""
    return {name: text for name, text in values.items() if name not in names and not name.startswith(prefix)}
