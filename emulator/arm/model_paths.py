"""Where the files of a model lie that is to be registered: every form of path that SDK, CLI and REST accept.

Source of the forms: "Work with registered models in Azure Machine Learning" (datastore paths, outputs of
jobs, runs:/RUN/PATH, azureml:NAME:VERSION), and the two forms in which azureml-mlflow writes the address of
a run's artifacts. Local files and folders reach the server as paths in a datastore: the client uploads
them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sqlalchemy import Connection, select

from amlocal.compat.azureml_uri import AssetUri, JobOutputUri, UriError, WorkspaceName, clean_path, parse
from amlocal.emulator.arm import documents, registry_assets
from amlocal.emulator.history import mlflow_paths
from amlocal.emulator.history.mlflow_client import MlflowError, MlflowUnavailable
from amlocal.emulator.http.errors import bad_request, mlflow_restarting
from amlocal.emulator.jobs.fields import shown
from amlocal.emulator.store.tables import jobs
from amlocal.emulator.store.workspace import Workspace

if TYPE_CHECKING:
    from amlocal.emulator.services import Services

FORMS = (
    "azureml://datastores/DATASTORE/paths/PATH, azureml://jobs/JOB/outputs/artifacts/paths/PATH, "
    "azureml://jobs/JOB/outputs/OUTPUT/paths/PATH, runs:/RUN/PATH or azureml:NAME:VERSION"
)
_ARTIFACTS = ("artifacts", "default")
_RUN = re.compile(r"\w[\w.()\-]{0,259}\Z")
# azureml://HOST/mlflow/v2.0/subscriptions/.../experiments/E/runs/R/artifacts/P, or from experiments on.
_MLFLOW = re.compile(
    r"azureml://(?:[^/]+/mlflow/v[12]\.0/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)"
    r"/providers/Microsoft\.MachineLearningServices/workspaces/(?P<workspace>[^/]+)/)?"
    r"experiments/[^/]+/runs/(?P<run>[^/]+)/artifacts(?:/(?P<path>.*))?\Z",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Found:
    """The place of a model's files (which need not exist), and the job or run that wrote them."""

    path: Path
    job: str | None = None


def locate(services: Services, workspace: Workspace, uri: str) -> Found:
    """What `uri` names. Raises AzureError: 400 for what is no model's path, 404 for files of a registry."""
    text = uri.strip()
    run = _run_reference(workspace, text)
    if run is not None:
        return Found(_below(run_folder(services, workspace, run[0]), run[1], text), run[0])
    if not text[:8].lower() == "azureml:" and not text[:15].lower().startswith("/subscriptions/"):
        raise bad_request(
            "InvalidModelUri",
            f"{shown(text)} cannot be registered as a model. Use {FORMS}.",
            target="modelUri",
        )
    try:
        parsed = parse(text.replace("/azureml:", "/", 1) if text.startswith("/") else text)
    except UriError as error:
        raise bad_request("InvalidModelUri", str(error), target="modelUri") from error
    if isinstance(parsed, JobOutputUri):
        return Found(_output(services, workspace, parsed, text), parsed.job)
    if isinstance(parsed, AssetUri):
        return _asset(services, workspace, parsed, text)
    path = services.resolver.resolve(workspace, text)
    return Found(path, job_of(services, workspace, path))


def run_folder(services: Services, workspace: Workspace, run: str) -> Path:
    """The artifact folder of a job or of a run that MLflow made by itself. Raises AzureError 400, 503."""
    if not _RUN.match(run):
        raise bad_request("InvalidModelUri", f"{shown(run)} cannot be the name of a run.", target="modelUri")
    if _is_job(services, workspace, run):
        return services.folder.artifacts(workspace.account, run)
    try:
        found = services.mlflow.ask(workspace.id, workspace.account, "runs/get", {"run_id": run})
    except MlflowUnavailable as error:
        raise mlflow_restarting() from error
    except MlflowError as error:
        raise bad_request(
            "InvalidModelUri",
            f"Workspace {workspace.name} has neither a job nor a run {run[:200]!r}.",
            target="modelUri",
        ) from error
    return artifact_folder(services, workspace, str(found["run"]["info"]["artifact_uri"]))


def artifact_folder(services: Services, workspace: Workspace, address: str) -> Path:
    """The folder behind an `mlflow-artifacts:` address of the workspace's own. Raises AzureError 400."""
    try:
        mlflow_paths.check_uri(workspace.account, address)
        path = urlsplit(address).path.removeprefix("/")
        return mlflow_paths.resolve(services.folder.blobs, workspace.account, path, depth=3)
    except mlflow_paths.ArtifactPathError as error:
        raise bad_request("InvalidModelUri", f"{shown(address)}: {error}.", target="modelUri") from error


def job_of(services: Services, workspace: Workspace, path: Path) -> str | None:
    """The job in whose artifacts `path` lies."""
    root = services.folder.artifacts(workspace.account, "").parent.resolve()
    real = path.resolve()
    if not real.is_relative_to(root) or real == root:
        return None
    name = real.relative_to(root).parts[0].removeprefix("dcid.")
    return name if _is_job(services, workspace, name) else None


def _is_job(services: Services, workspace: Workspace, name: str) -> bool:
    query = select(jobs.c.name).where(jobs.c.workspace_id == workspace.id, jobs.c.name == name)
    return services.store.read(lambda c: c.execute(query).first()) is not None


def _run_reference(workspace: Workspace, text: str) -> tuple[str, str] | None:
    """(run, path) of the forms that name a run of MLflow; None for all others."""
    if text[:5].lower() == "runs:":
        if not text[5:].startswith("/") or text[5:].startswith("//"):
            raise bad_request("InvalidModelUri", f"{shown(text)}: use runs:/RUN/PATH.", target="modelUri")
        run, _, path = text[6:].partition("/")
        return run, path
    match = _MLFLOW.match(text)
    if match is None:
        return None
    named = "/".join(match[key] or "" for key in ("subscription", "group", "workspace"))
    if match["workspace"] is not None and named.lower() != workspace.key:
        raise bad_request(
            "InvalidModelUri",
            f"{shown(text)} is in another workspace than {workspace.name}.",
            target="modelUri",
        )
    return match["run"], match["path"] or ""


def _output(services: Services, workspace: Workspace, parsed: JobOutputUri, text: str) -> Path:
    if (
        parsed.workspace is None
        and parsed.output in _ARTIFACTS
        and not _is_job(services, workspace, parsed.job)
    ):
        # In Azure every run of MLflow is a job.
        return _below(run_folder(services, workspace, parsed.job), parsed.path, text)
    return services.resolver.resolve(workspace, text)


def _below(folder: Path, path: str, text: str) -> Path:
    """`folder`/`path`; AzureError 400 where a link on the way leads out of `folder`."""
    trimmed = path.rstrip("/")
    try:
        found = folder / clean_path(trimmed) if trimmed else folder
    except UriError as error:
        raise bad_request("InvalidModelUri", f"{shown(text)}: {error.reason}", target="modelUri") from error
    real, root = found.resolve(), folder.resolve()
    if real != root and root not in real.parents:
        raise bad_request(
            "InvalidModelUri", f"{shown(text)} goes through a link that leaves the run.", target="modelUri"
        )
    return found


def _asset(services: Services, workspace: Workspace, parsed: AssetUri, text: str) -> Found:
    """A model's or data asset's files; the short form says no kind, and models come first."""
    if parsed.registry is not None:
        if parsed.registry.lower() == "azureml" and parsed.kind == "models":
            raise registry_assets.no_files(parsed.name)
        raise bad_request(
            "InvalidModelUri",
            f"{shown(text)}: only the models of registry azureml are known here, and their files are not.",
            target="modelUri",
        )
    own = WorkspaceName(workspace.subscription, workspace.resource_group, workspace.name)
    if parsed.kind is None:
        known = services.store.read(lambda c: _model(c, workspace, parsed)) is not None
        parsed = replace(parsed, kind="models" if known else "data", workspace=own)
    path = services.resolver.resolve(workspace, parsed.arm_id(parsed.workspace or own))
    if parsed.kind != "models":
        return Found(path, job_of(services, workspace, path))
    model = services.store.read(lambda c: _model(c, workspace, parsed))
    return Found(path, model.properties.get("jobName") if model is not None else None)


def _model(c: Connection, workspace: Workspace, asset: AssetUri) -> documents.Document | None:
    if asset.version is not None:
        return documents.get(c, workspace.id, "models", asset.name, asset.version)
    return documents.latest(c, workspace.id, "models", asset.name)
