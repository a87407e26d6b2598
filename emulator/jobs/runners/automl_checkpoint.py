"""What an AutoML job starts from: an earlier trial (checkpoint_run_id) or an MLflow model (checkpoint_model).

Source: "Incremental training" in "Set up AutoML to train computer vision models". The new job may have other
labels; its model must be the one of the checkpoint.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from amlocal.compat import names
from amlocal.compat.azureml_uri import AssetUri, UriError, WorkspaceName, is_azureml, parse
from amlocal.emulator.http.errors import AzureError, user_error
from amlocal.emulator.jobs import records, tree
from amlocal.emulator.jobs.fields import shown
from amlocal.emulator.jobs.inputs import InputError, Resolver
from amlocal.emulator.jobs.records import JobRecord
from amlocal.emulator.jobs.runners import automl_parameters
from amlocal.emulator.jobs.runners.automl_records import BEST_TRIAL
from amlocal.emulator.jobs.runners.automl_request import ImageJob
from amlocal.emulator.jobs.states import JobState
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.workspace import Workspace

PINNED = "amlocal.checkpoint"
"""The property of a job that says what it starts from: a trial, or the address of a model's folder."""
_RUN = f"{automl_parameters.PLACE}.checkpointRunId"
_MODEL = f"{automl_parameters.PLACE}.checkpointModel"
_LARGEST_DESCRIPTION = 1 << 20


@dataclass(frozen=True)
class Start:
    """Weights to go on from. `run_id` names where they come from; `labels` None: there is no such file.

    `pinned` is the trial, or the address of the model's folder, that was meant when the job was submitted.
    """

    run_id: str
    model_name: str
    weights: Path
    labels: Path | None
    pinned: str

    def as_dict(self) -> dict[str, Any]:
        """The field `start` of spec.json."""
        return {
            "run_id": self.run_id,
            "model_name": self.model_name,
            "weights": str(self.weights),
            "labels": None if self.labels is None else str(self.labels),
        }


def start_of(
    store: Store, resolver: Resolver, workspace: Workspace, job: ImageJob, pinned: str | None = None
) -> tuple[ImageJob, Start | None]:
    """The job with the model that it trains, and what it starts from; None for the published weights.

    A job that names no model goes on with that of the checkpoint. With `pinned`, that of an earlier call, a
    label or a job's best trial means the same as then. Raises AzureError 400 for a checkpoint that is not
    there, not complete, or of another model.
    """
    if job.checkpoint_run_id is not None:
        run_id = pinned or job.checkpoint_run_id
        trial = store.read(lambda c: _trial(c, workspace, run_id))
        start, target = _of_trial(resolver, workspace, trial), _RUN
    elif job.checkpoint_model is not None:
        start = _of_model(resolver, workspace, job.checkpoint_model, pinned)
        target = _MODEL
    else:
        return job, None
    if job.model == start.model_name:
        return job, start
    if job.model_given:
        raise user_error(
            f"model_name is {job.model}, but the checkpoint {shown(start.run_id)} holds a "
            f"{start.model_name}. Set model_name to {start.model_name}, or start from a checkpoint of a "
            f"{job.model}.",
            target=target,
        )
    try:
        row = names.model(job.task, start.model_name)
        names.apply_size_rules(row, names.effective(job.task, row.name, job.parameters), job.parameters)
    except names.BadParameter as error:
        raise user_error(
            f"The checkpoint {shown(start.run_id)} cannot be used: {error}.", target=target
        ) from error
    notice = f"the model is {start.model_name}, that of the checkpoint, since model_name is not given"
    return replace(job, model=start.model_name, notices=(*job.notices, notice)), start


def _trial(connection: Connection, workspace: Workspace, run_id: str) -> JobRecord:
    """The trial that a run id means: its own, or the best one of a job or sweep. It has left a model."""
    family = records.tree(connection, workspace.id, run_id)
    if not family:
        raise user_error(
            f"checkpoint_run_id is {shown(run_id)}, and workspace {workspace.name} has no such run. Give the "
            f"name of an AutoML job or of one of its trials (the job's tag {BEST_TRIAL}).",
            target=_RUN,
        )
    record = family[0]
    if record.kind not in ("automl", "sweep", "trial"):
        raise user_error(
            f"checkpoint_run_id: {run_id} is a {record.kind} job, which leaves no checkpoint of AutoML's. "
            "Give the name of an AutoML job or of one of its trials.",
            target=_RUN,
        )
    if not _has_model(record):
        raise user_error(
            f"checkpoint_run_id: {run_id} is {record.state.value}; only a run that is Completed can be "
            "started from.",
            target=_RUN,
        )
    return record if record.kind == "trial" else _best(family)


def _best(family: Sequence[JobRecord]) -> JobRecord:
    """The best trial below a completed job or sweep, by what was written down when it ended."""
    root = family[0]
    name = root.tags.get(BEST_TRIAL) or root.properties.get("best_child_run_id")
    for record in family:
        if record.kind == "trial" and record.name == name and _has_model(record):
            return record
    raise user_error(
        f"checkpoint_run_id: {root.name} names {shown(name)} as its best trial, and has no such trial that "
        "is Completed. Give the name of the trial itself.",
        target=_RUN,
    )


def _has_model(record: JobRecord) -> bool:
    """Whether the run ended well, or the early termination policy ended it with its model kept."""
    if record.kind == "trial" and record.state is JobState.CANCELED:
        return tree.TERMINATED in record.tags and "score" in record.properties
    return record.state is JobState.COMPLETED


def _of_trial(resolver: Resolver, workspace: Workspace, trial: JobRecord) -> Start:
    def file(path: str) -> Path:
        uri = f"azureml://jobs/{trial.name}/outputs/artifacts/paths/{path}"
        try:
            return resolver.resolve(workspace, uri)
        except InputError as error:
            message = f"checkpoint_run_id: {error.message}"
            raise AzureError(error.status, error.code, message, target=_RUN) from error

    weights, labels = file("outputs/model.pt"), file("train_artifacts/labels.json")
    if not weights.is_file():
        raise user_error(
            f"checkpoint_run_id: the trial {trial.name} has no file outputs/model.pt any more.", target=_RUN
        )
    return Start(
        run_id=trial.name,
        model_name=str(trial.body.get("model_name")),
        weights=weights,
        labels=labels if labels.is_file() else None,
        pinned=trial.name,
    )


def _of_model(resolver: Resolver, workspace: Workspace, uri: str, pinned: str | None) -> Start:
    try:
        address = pinned or resolver.address(workspace, _as_model(workspace, uri))
        folder = resolver.resolve(workspace, address)
    except InputError as error:
        raise AzureError(
            error.status, error.code, f"checkpoint_model: {error.message}", target=f"{_MODEL}.uri"
        ) from error
    if not folder.is_dir():
        raise _not_ours(uri, "is no folder")
    real = os.path.realpath(folder)
    files = [folder / "artifacts" / name for name in ("model.safetensors", "labels.json", "model.json")]
    for file in files:
        if not os.path.realpath(file).startswith(f"{real}{os.sep}"):
            raise _not_ours(uri, f"has a link artifacts/{file.name} that leaves the folder")
        if not file.is_file():
            raise _not_ours(uri, f"has no file artifacts/{file.name}")
    weights, labels, description = files
    return Start(
        run_id=uri,
        model_name=_model_name(uri, description),
        weights=weights,
        labels=labels,
        pinned=address,
    )


def _as_model(workspace: Workspace, uri: str) -> str:
    """azureml:NAME:VERSION means a model here; every other form says itself what it names."""
    if not is_azureml(uri) or uri[8:9] == "/":
        return uri
    try:
        parsed = parse(uri)
    except UriError as error:
        raise InputError(str(error)) from error
    if not isinstance(parsed, AssetUri):
        return uri
    own = WorkspaceName(workspace.subscription, workspace.resource_group, workspace.name)
    return replace(parsed, kind="models").arm_id(own)


def _model_name(uri: str, description: Path) -> str:
    if description.stat().st_size > _LARGEST_DESCRIPTION:
        raise _not_ours(uri, f"has a file artifacts/{description.name} that is too large")
    try:
        found = json.loads(description.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _not_ours(uri, f"has a file artifacts/{description.name} that cannot be read") from error
    name = found.get("model_name") if isinstance(found, dict) else None
    if not isinstance(name, str) or not name or len(name) > 256 or not name.isprintable():
        raise _not_ours(uri, f"names no model in artifacts/{description.name}")
    return name


def _not_ours(uri: str, what: str) -> AzureError:
    return user_error(
        f"checkpoint_model: {shown(uri)} {what}. It must be the folder mlflow-model of a trial that amlocal "
        "trained, or a model registered from one: "
        "azureml://jobs/TRIAL/outputs/artifacts/paths/outputs/mlflow-model",
        target=f"{_MODEL}.uri",
    )
