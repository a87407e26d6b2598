"""The life of the MLflow process, and what of MLflow's inside it relies on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
import uuid
from pathlib import Path

import pytest
from living import gone

from amlocal.emulator.history import mlflow_process, mlflow_routes
from amlocal.emulator.history.mlflow_client import MlflowClient, MlflowUnavailable

MODULE = "amlocal.emulator.history.mlflow_process"
ACCOUNT = "aml0123456789ab"

PARENT = """
import os, sys, time
from pathlib import Path
from amlocal.emulator.history.mlflow_client import MlflowClient
from amlocal.emulator.processes import spawn_leashed
data = Path(sys.argv[1])
child = spawn_leashed(
    [sys.executable, "-m", "amlocal.emulator.history.mlflow_process", "--database", str(data / "mlflow.db"),
     "--artifacts", str(data / "blobs"), "--socket", str(data / "mlflow.sock")],
    env=dict(os.environ), log=data / "mlflow.log")
MlflowClient(data / "mlflow.sock").wait_ready(90, alive=lambda: child.poll() is None)
print(child.pid, flush=True)
time.sleep(600)
"""


def start(data: Path) -> tuple[subprocess.Popen[str], int]:
    """A parent that holds the leash, and the pid of its MLflow process."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(data)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    line = parent.stdout.readline()
    assert line, (data / "mlflow.log").read_text()
    return parent, int(line)


def wait_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while not gone(pid):
        assert time.monotonic() < deadline, "the MLflow process outlived its parent"
        time.sleep(0.05)


def test_it_dies_with_its_parent_and_comes_back_with_its_runs(tmp_path):
    workspace, server = str(uuid.uuid4()), MlflowClient(tmp_path / "mlflow.sock")
    parent, child = start(tmp_path)
    try:
        uri = f"mlflow-artifacts:/{ACCOUNT}/azureml/ExperimentRun/dcid.job"
        tags = {"run_name": "job", "parent": None, "start_ms": 1, "tags": {}, "artifact_uri": uri}
        server.ensure_run(workspace, "digits", "job", **tags)
        row = {"key": "loss", "value": 0.5, "step": 1, "timestamp": 2}
        server.log_metrics(workspace, "job", [row])
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait(timeout=20)
    wait_gone(child)
    with pytest.raises(MlflowUnavailable):
        server.metric_history(workspace, "job")
    # The dead process left its socket's file behind; the next one replaces it and knows the workspace still.
    assert (tmp_path / "mlflow.sock").exists()
    parent, child = start(tmp_path)
    try:
        assert server.metric_history(workspace, "job") == [row]
    finally:
        parent.kill()
        parent.wait(timeout=20)
    wait_gone(child)


def test_another_version_of_mlflow_is_refused_by_name(tmp_path):
    fake = tmp_path / "mlflow-9.9.9.dist-info"
    fake.mkdir()
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: mlflow\nVersion: 9.9.9\n")
    options = [
        "--database",
        str(tmp_path / "x.db"),
        "--artifacts",
        str(tmp_path),
        "--socket",
        str(tmp_path / "s"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", MODULE, *options],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == mlflow_process.WRONG_VERSION
    assert "9.9.9" in done.stderr
    assert f"pip install mlflow=={mlflow_process.MLFLOW_VERSION}" in done.stderr
    assert not (tmp_path / "x.db").exists()


def test_the_pin_is_the_distributions_pin():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    assert f"mlflow=={mlflow_process.MLFLOW_VERSION}" in project["project"]["dependencies"]


def test_a_socket_path_too_long_says_so(tmp_path):
    with pytest.raises(SystemExit, match="shorter data folder"):
        mlflow_process.listen(tmp_path / ("x" * 120))


# Of MLflow's families of calls, those that are shut on purpose: other workspaces, connections to the outside,
# code that a request names, and demonstrations.
SHUT = {
    "demo",
    "gateway",
    "gateway-proxy",
    "genai",
    "issues",
    "jobs",
    "prompt-optimization",
    "scorer",
    "upload-artifact",
    "webhooks",
    "workspaces",
}

CONTRACT = """
import json, inspect, os
from mlflow.server import app, constants, handlers
from mlflow.store.artifact import artifact_repository_registry as registry
from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlRun
from mlflow.store.tracking.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore as Store
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository as Local
from mlflow.utils.workspace_utils import WORKSPACE_HEADER_NAME
print(json.dumps({
    "environment": [constants.BACKEND_STORE_URI_ENV_VAR, constants.ARTIFACT_ROOT_ENV_VAR,
                    constants.ARTIFACTS_DESTINATION_ENV_VAR, constants.SERVE_ARTIFACTS_ENV_VAR],
    "header": WORKSPACE_HEADER_NAME,
    "runs": sorted(SqlRun.__table__.columns.keys()),
    "experiments": sorted(SqlExperiment.__table__.columns.keys()),
    "store": [hasattr(Store, name) for name in
              ("_create_default_experiment", "_get_artifact_location", "_get_active_workspace", "_get_run")],
    "repository": [hasattr(Local, name) for name in
                   ("_get_or_create_artifact_dir", "_create_staging_artifact", "_publish_staged_artifact",
                    "_get_destination_artifact_path", "_is_directory", "_download_file")],
    "schemes": sorted(registry._artifact_repository_registry._registry),
    "rules": sorted({rule.rule for rule in app.url_map.iter_rules()}),
}))
"""


def test_what_is_used_of_mlflows_inside_is_there(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CONTRACT],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["environment"] == [
        "_MLFLOW_SERVER_FILE_STORE",
        "_MLFLOW_SERVER_ARTIFACT_ROOT",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION",
        "_MLFLOW_SERVER_SERVE_ARTIFACTS",
    ]
    assert found["header"] == "X-MLFLOW-WORKSPACE"
    assert found["runs"] == [
        "artifact_uri",
        "deleted_time",
        "end_time",
        "entry_point_name",
        "experiment_id",
        "lifecycle_stage",
        "name",
        "run_uuid",
        "source_name",
        "source_type",
        "source_version",
        "start_time",
        "status",
        "user_id",
    ]
    assert {"experiment_id", "name", "workspace", "artifact_location"} <= set(found["experiments"])
    assert all(found["store"])
    assert all(found["repository"])
    assert {"file", "http", "s3", "mlflow-artifacts"} <= set(found["schemes"])
    families = {
        matched["call"].partition("/")[0]
        for rule in found["rules"]
        if (matched := mlflow_routes.API.fullmatch(rule.removeprefix("/")))
    }
    # A family that is new in MLflow must be looked at before it is let through or shut.
    assert families - mlflow_routes.FAMILIES == SHUT
    assert mlflow_routes.FAMILIES - families == set()
