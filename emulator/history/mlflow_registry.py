"""MLflow's model registry, answered from the documents of models: in a workspace there is one registry.

The single truth is the server's own database (arm/models.py). A version is one document, whichever way it
came; what MLflow alone knows of a name (tags, aliases, a description) is a second one. Every call here is
at most one transaction of the server's one writer: after a crash at any moment it has happened or it has
not, numbers are given in the transaction that stores the version, so that they never collide with those of
azure-ai-ml, and nothing has to be carried from one store to another. MLflow's process is asked about runs
and logged models, and its own registry tables hold its prompts alone: calls that name what no document
names, and searches for prompts, are passed on to it.

Differences from plain MLflow: a source must be there when it is registered; stages are the asset's `stage`,
except that Archived is the asset's archive; renaming a model and deleting one that has versions are
refused, as in Azure Machine Learning, where registered models are immutable.
Source of the interface:
MLflow's REST documentation and the messages of the pinned version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Response, jsonify, request

from amlocal.emulator.history import mlflow_filters, mlflow_requests, mlflow_routes, model_files
from amlocal.emulator.history.mlflow_registry_desk import Calls, HandOn
from amlocal.emulator.history.mlflow_registry_models import ModelCalls
from amlocal.emulator.history.mlflow_registry_versions import VersionCalls
from amlocal.emulator.history.mlflow_requests import RegistryError
from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.store.workspace import Workspace

if TYPE_CHECKING:
    from amlocal.emulator.services import Services


class Registry:
    """Answers the registry's part of a workspace's tracking URI."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._models = ModelCalls(services)
        self._calls: Calls = {**self._models.calls, **VersionCalls(services).calls}

    def answer(self, workspace: Workspace, route: str, body: bytes) -> Response | None:
        """The answer to a call below the tracking URI; None where MLflow's own process answers it."""
        if route == "model-versions/get-artifact":
            named = [request.args.get(key, "") for key in ("name", "version", "path")]
            if not self._models.known(workspace, named[0]):
                return None
            return model_files.sent_of_version(self._services, workspace, *named)
        if mlflow_routes.is_artifact(route):
            return self._artifact(workspace, route)
        match = mlflow_routes.API.fullmatch(route)
        method = "GET" if request.method == "HEAD" else request.method
        work = self._calls.get((method, match["call"])) if match else None
        if work is None:
            return None
        try:
            mlflow_routes.check_body(workspace.account, route, body)
            return jsonify(work(workspace, mlflow_requests.fields(body)))
        except HandOn:
            return None
        except RegistryError as error:
            return mlflow_requests.refusal(
                error.status, error.code, AzureError(error.status, error.code, str(error))
            )
        except mlflow_filters.FilterError as error:
            refused = AzureError(400, "InvalidFilter", str(error))
            return mlflow_requests.refusal(400, "INVALID_PARAMETER_VALUE", refused)
        except AzureError as error:
            return mlflow_requests.refusal(error.status, None, error)

    def _artifact(self, workspace: Workspace, route: str) -> Response | None:
        if request.method not in ("GET", "HEAD"):
            return None
        path, _ = mlflow_routes.artifact_path(route, request.method, request.args.getlist("path"))
        if not model_files.is_ours(path):
            return None
        found = mlflow_routes.ARTIFACTS.fullmatch(route)
        assert found is not None
        send = model_files.sent if found["path"] else model_files.listed
        return send(self._services, workspace, path)
