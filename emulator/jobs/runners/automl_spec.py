"""spec.json: what a trial's process is asked to do. The data and its report are shared by a job's trials."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amlocal.emulator.jobs.runners import automl_data
from amlocal.emulator.jobs.runners.automl_checkpoint import Start
from amlocal.emulator.jobs.runners.automl_means import Means
from amlocal.emulator.jobs.runners.automl_parameters import told
from amlocal.emulator.jobs.runners.automl_request import ImageJob
from amlocal.emulator.store.folder import write_atomic
from amlocal.emulator.store.workspace import Workspace

SPEC = "spec.json"
RESULT = "result.json"
DATA_REPORT = Path("outputs") / "data_report.json"


def write(
    means: Means,
    workspace: Workspace,
    job: ImageJob,
    start: Start | None,
    *,
    root: str,
    trial: str,
    model: str,
    parameters: Mapping[str, Any],
    sizes: Mapping[str, int],
    attempt: int,
) -> Path:
    """The spec of an attempt of a trial of the job `root`; its path. `parameters` are those given, `sizes`
    those of the images that the job's trials share."""
    shared, own = means.folder.job(workspace.id, root), means.folder.job(workspace.id, trial)
    validation = shared / automl_data.VALIDATION_MANIFEST
    spec = {
        "schema": 1,
        "run_id": trial,
        "task": job.task,
        "primary_metric": job.metric.logged,
        "parameters": {**parameters, "model_name": model},
        "advanced_settings": dict(job.advanced),
        "train_manifest": str(shared / automl_data.TRAIN_MANIFEST),
        "validation_manifest": str(validation) if job.validation_uri is not None else None,
        "validation_data_size": job.validation_data_size,
        "data_report": str(means.folder.artifacts(workspace.account, root) / DATA_REPORT),
        "artifacts_dir": str(means.folder.artifacts(workspace.account, trial)),
        "state_dir": str(own),
        "cache_dir": str(means.folder.cache),
        "weights_dir": str(means.weights_dir),
        "missing_weights": means.settings.missing_weights,
        "start": None if start is None else start.as_dict(),
        "node_count": job.nodes,
        "cache_max_gb": means.settings.cache_max_gb,
        "cache_sizes": dict(sizes),
        "log_verbosity": job.log_verbosity,
        "ignored": told(job.task, job.ignored),
        "attempt": attempt,
    }
    path = own / SPEC
    write_atomic(path, json.dumps(spec, indent=1).encode())
    return path
