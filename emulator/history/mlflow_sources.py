"""Where the files of a model version lie that MLflow's client registers, and of which run they are.

MLflow would store any `source` and open it when somebody reads the model (the class of CVE-2023-1177). Here a
source is resolved to a folder of the workspace's own when the version is made, and only that is stored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amlocal.emulator.arm import model_paths
from amlocal.emulator.history import mlflow_paths, mlflow_views, registered_models
from amlocal.emulator.history.mlflow_client import MlflowError, MlflowUnavailable
from amlocal.emulator.http.errors import AzureError, bad_request, mlflow_restarting
from amlocal.emulator.store.workspace import Workspace

if TYPE_CHECKING:
    from amlocal.emulator.services import Services

_MODEL_ID = re.compile(r"m-[0-9a-zA-Z_-]{1,64}\Z")


@dataclass(frozen=True)
class Source:
    """The checked place of a version's files; `run_id` and `model_id` are empty where none is known."""

    path: Path
    run_id: str
    model_id: str


def resolve(services: Services, workspace: Workspace, source: str, run_id: str, model_id: str) -> Source:
    """What a client's `source`, `run_id` and `model_id` stand for. Raises AzureError 400, 404, 503."""
    text = mlflow_paths.decode(source)
    if text.startswith("runs:/"):
        run = text[6:].partition("/")[0]
        if run_id not in ("", run):
            raise _refused(source, "it is not of the run that run_id names")
        return Source(model_paths.locate(services, workspace, text).path, run, model_id)
    if text.startswith("models:/"):
        return _of_model(services, workspace, source, text[len("models:/") :], run_id, model_id)
    prefix = f"{mlflow_paths.SCHEME}:/{mlflow_views.FILES}/"
    if text.startswith(prefix):
        return _of_version(services, workspace, source, text[len(prefix) :].rstrip("/"), run_id, model_id)
    path = model_paths.artifact_folder(services, workspace, text)
    if model_id:
        logged = _logged_model(services, workspace, source, model_id)
        if not _within(path, logged.path):
            raise _refused(source, "it is not of the logged model that model_id names")
        return Source(path, run_id or logged.run_id, model_id)
    if run_id and not _within(path, model_paths.run_folder(services, workspace, run_id)):
        raise _refused(source, "it is not of the run that run_id names")
    return Source(path, run_id, "")


def _of_model(
    services: Services, workspace: Workspace, source: str, rest: str, run_id: str, model_id: str
) -> Source:
    if "/" in rest or "@" in rest:
        return _of_version(services, workspace, source, rest, run_id, model_id)
    if model_id not in ("", rest):
        raise _refused(source, "it is not the logged model that model_id names")
    logged = _logged_model(services, workspace, source, rest)
    return Source(logged.path, run_id or logged.run_id, rest)


def _of_version(
    services: Services, workspace: Workspace, source: str, rest: str, run_id: str, model_id: str
) -> Source:
    """The files of a version that there is: NAME/VERSION, NAME/STAGE, NAME/latest or NAME@ALIAS."""
    name, _, which = rest.partition("/")
    name, at, alias = name.partition("@")
    found = services.store.read(lambda c: registered_models.find(c, workspace.id, name))
    document = None
    if found is not None and at:
        document = found.version(found.aliases.get(alias, ""))
    elif found is not None and which.lower() == "latest":
        document = max(found.versions, key=mlflow_views.order, default=None)
    elif found is not None:
        newest = mlflow_views.latest(found, mlflow_views.STAGES)
        staged = [one for one in newest if mlflow_views.stage(one).lower() == which.lower()]
        document = found.version(which) or (staged[0] if staged else None)
    if document is None:
        raise _refused(source, f"workspace {workspace.name} has no such model version")
    path = services.resolver.resolve(workspace, str(document.properties["modelUri"]))
    known = mlflow_views.said(document)
    # As MLflow: a copy keeps the lineage of what it is a copy of.
    return Source(path, run_id or mlflow_views.run_of(document), model_id or str(known.get("model_id") or ""))


def _logged_model(services: Services, workspace: Workspace, source: str, model_id: str) -> Source:
    if not _MODEL_ID.match(model_id):
        raise _refused(source, "a logged model's id has the form m-...")
    try:
        found = services.mlflow.ask(workspace.id, workspace.account, f"logged-models/{model_id}", {})
    except MlflowUnavailable as error:
        raise mlflow_restarting() from error
    except MlflowError as error:
        raise _refused(source, f"workspace {workspace.name} has no logged model {model_id!r}") from error
    info: dict[str, Any] = found["model"]["info"]
    path = model_paths.artifact_folder(services, workspace, str(info["artifact_uri"]))
    return Source(path, str(info.get("source_run_id") or ""), model_id)


def _within(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root.resolve())


def _refused(source: str, reason: str) -> AzureError:
    return bad_request("InvalidArtifactLocation", f"source {source[:200]!r}: {reason}.", target="source")
