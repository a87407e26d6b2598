"""What the server writes into MLflow directly: workspaces, and a run whose id is its job's name.

Runs inside the MLflow process, on the classes of the one pinned MLflow version: `create_run` of MLflow's own
interface makes its own id, hence the row is inserted here.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow.entities import LifecycleStage, Metric, RunStatus, RunTag, SourceType, Workspace
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    RESOURCE_CONFLICT,
)
from mlflow.server import handlers
from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlMetric, SqlRun, SqlTag
from mlflow.store.tracking.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore
from mlflow.store.workspace.abstract_store import WorkspaceNameValidator
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_USER
from mlflow.utils.validation import _validate_experiment_name, _validate_run_id, _validate_tag
from mlflow.utils.workspace_context import ServerWorkspaceContext
from sqlalchemy import text

from amlocal.emulator.history import mlflow_paths

DEFAULT_EXPERIMENT = "Default"
# The id that MLflow's client sends when the user has chosen no experiment.
UNCHOSEN = "0"
METRICS_PER_WRITE = 1000
TAGS_PER_WRITE = 100


class WorkspaceStore(WorkspaceAwareSqlAlchemyStore):  # type: ignore[misc]
    """MLflow's workspace-aware store, in which each workspace's unchosen experiment is its own `Default`."""

    def default_experiment(self, session: Any) -> str:
        """The id of the active workspace's `Default` experiment, made if absent."""
        workspace = self._get_active_workspace()
        self._create_default_experiment(session, workspace_override=workspace)
        row = session.query(SqlExperiment).filter_by(name=DEFAULT_EXPERIMENT, workspace=workspace).one()
        return str(row.experiment_id)

    def _chosen(self, experiment_id: str) -> str:
        if str(experiment_id) != UNCHOSEN:
            return experiment_id
        with self.ManagedSessionMaker(read_only=False) as session:
            return self.default_experiment(session)

    def get_experiment(self, experiment_id: str) -> Any:
        return super().get_experiment(self._chosen(experiment_id))

    def create_run(self, experiment_id: str, *args: Any, **kwargs: Any) -> Any:
        return super().create_run(self._chosen(experiment_id), *args, **kwargs)

    def create_logged_model(self, experiment_id: str, *args: Any, **kwargs: Any) -> Any:
        return super().create_logged_model(self._chosen(experiment_id), *args, **kwargs)

    def search_runs(self, experiment_ids: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        return super().search_runs([self._chosen(one) for one in experiment_ids], *args, **kwargs)


def install() -> None:
    """Make MLflow's handlers use WorkspaceStore for SQLite."""

    def build(store_uri: str, artifact_uri: str) -> WorkspaceStore:
        return WorkspaceStore(store_uri, artifact_uri)

    handlers._tracking_store_registry.register("sqlite", build)


def store() -> Any:
    """MLflow's tracking store of this process."""
    return handlers._get_tracking_store()


class Workspaces:
    """Which account belongs to which workspace; kept in MLflow's own `workspaces` table."""

    def __init__(self) -> None:
        self._accounts: dict[str, str] = {}
        self._lock = threading.Lock()

    def account(self, workspace: str) -> str:
        """The workspace's account; raises MLflow's not-found for a workspace never ensured."""
        found = self._accounts.get(workspace)
        if found is None:
            root = handlers._get_workspace_store().get_workspace(workspace).default_artifact_root
            found = self._accounts[workspace] = mlflow_paths.account_of(root)
        return found

    def ensure(self, workspace: str, account: str) -> None:
        """Make the workspace known with its account. Raises MLflow's conflict if it has another one."""
        if self._accounts.get(workspace) == account:
            return
        WorkspaceNameValidator.validate(workspace)
        root = f"{mlflow_paths.SCHEME}:/{account}/{mlflow_paths.CONTAINER}/MLflow"
        mlflow_paths.check_uri(account, root)
        with self._lock:
            try:
                handlers._get_workspace_store().create_workspace(
                    Workspace(name=workspace, default_artifact_root=root)
                )
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            known = self.account(workspace)
        if known != account:
            raise MlflowException(f"workspace {workspace} has the account {known}", RESOURCE_CONFLICT)
        with ServerWorkspaceContext(workspace), store().ManagedSessionMaker(read_only=False) as session:
            store().default_experiment(session)


def ensure_run(workspace: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Make sure of the experiment and of the run with the given id, in one transaction.

    Body: `experiment`, `run_id`, `run_name`, `user`, `start_ms`, `tags` (mapping), `parent` (run id or null),
    `artifact_uri`. A run that is there keeps its status, start and data; tags are merged, it is undeleted.
    Raises MLflow's RESOURCE_CONFLICT if the id belongs to another workspace's run.
    """
    run_id, name = str(body["run_id"]), str(body["experiment"])
    _validate_run_id(run_id)
    _validate_experiment_name(name)
    tags = {**body["tags"], MLFLOW_RUN_NAME: body["run_name"], MLFLOW_USER: body["user"]}
    if body["parent"] is not None:
        tags[MLFLOW_PARENT_RUN_ID] = body["parent"]
    with ServerWorkspaceContext(workspace), store().ManagedSessionMaker(read_only=False) as session:
        # Immediate: a deferred transaction may lose its place to another writer between reading and writing.
        session.execute(text("BEGIN IMMEDIATE"))
        experiment = _experiment(session, workspace, name)
        run = session.get(SqlRun, run_id)
        created = run is None
        if run is None:
            run = SqlRun(
                run_uuid=run_id,
                name=body["run_name"],
                experiment_id=experiment.experiment_id,
                artifact_uri=body["artifact_uri"],
                user_id=body["user"],
                status=RunStatus.to_string(RunStatus.RUNNING),
                start_time=body["start_ms"],
                lifecycle_stage=LifecycleStage.ACTIVE,
                source_type=SourceType.to_string(SourceType.JOB),
                source_name="",
                entry_point_name="",
                source_version="",
            )
            session.add(run)
        elif session.get(SqlExperiment, run.experiment_id).workspace != workspace:
            raise MlflowException(f"run id '{run_id}' is taken", RESOURCE_CONFLICT)
        run.lifecycle_stage, run.deleted_time = LifecycleStage.ACTIVE, None
        _merge_tags(session, run_id, tags)
        return {"created": created, "experiment_id": str(run.experiment_id)}


def _experiment(session: Any, workspace: str, name: str) -> Any:
    found = session.query(SqlExperiment).filter_by(name=name, workspace=workspace).one_or_none()
    if found is None:
        found = SqlExperiment(name=name, workspace=workspace, lifecycle_stage=LifecycleStage.ACTIVE)
        session.add(found)
        session.flush()
        found.artifact_location = store()._get_artifact_location(found.experiment_id, workspace)
    found.lifecycle_stage = LifecycleStage.ACTIVE
    return found


def _merge_tags(session: Any, run_id: str, tags: Mapping[str, str]) -> None:
    session.flush()
    for key, value in tags.items():
        tag = _validate_tag(key, str(value))
        session.merge(SqlTag(run_uuid=run_id, key=tag.key, value=tag.value))


def _own_run(session: Any, run_id: str) -> Any:
    """The run if it belongs to the active workspace; MLflow's not-found otherwise."""
    return store()._get_run(session=session, run_uuid=run_id)


def log_metrics(workspace: str, run_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write metric rows `{key, value, step, timestamp}`; rows that are there already stay single."""
    metrics = [
        Metric(row["key"], float(row["value"]), int(row["timestamp"]), int(row["step"])) for row in rows
    ]
    with ServerWorkspaceContext(workspace):
        for start in range(0, len(metrics), METRICS_PER_WRITE):
            store().log_batch(run_id, metrics[start : start + METRICS_PER_WRITE], [], [])


def set_tags(workspace: str, run_id: str, tags: Mapping[str, str]) -> None:
    """Merge tags into a run; a sweep has one for each of its trials, more than MLflow takes at once."""
    found = [RunTag(key, str(value)) for key, value in tags.items()]
    with ServerWorkspaceContext(workspace):
        for start in range(0, len(found), TAGS_PER_WRITE):
            store().log_batch(run_id, [], [], found[start : start + TAGS_PER_WRITE])


def finish_run(workspace: str, run_id: str, status: str, end_ms: int, tags: Mapping[str, str]) -> None:
    """Set a run's terminal status (MLflow's FINISHED, FAILED, KILLED), its end and tags; repeatable."""
    if status not in ("FINISHED", "FAILED", "KILLED"):
        raise MlflowException(f"'{status}' is no terminal status of MLflow", INVALID_PARAMETER_VALUE)
    with ServerWorkspaceContext(workspace), store().ManagedSessionMaker(read_only=False) as session:
        session.execute(text("BEGIN IMMEDIATE"))
        run = _own_run(session, run_id)
        run.status, run.end_time = status, end_ms
        _merge_tags(session, run_id, tags)


def metric_history(workspace: str, run_id: str) -> list[dict[str, Any]]:
    """Every metric row of a run in the order of step and time; NaN is None."""
    with ServerWorkspaceContext(workspace), store().ManagedSessionMaker() as session:
        _own_run(session, run_id)
        found = session.query(SqlMetric).filter_by(run_uuid=run_id)
        ordered = found.order_by(SqlMetric.key, SqlMetric.step, SqlMetric.timestamp).all()
        return [
            {
                "key": row.key,
                "value": None if row.is_nan else row.value,
                "step": row.step,
                "timestamp": row.timestamp,
            }
            for row in ordered
        ]
