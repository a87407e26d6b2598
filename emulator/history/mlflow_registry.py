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

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flask import Response, jsonify, request
from sqlalchemy import Connection

from amlocal.emulator.arm import documents, model_layouts
from amlocal.emulator.arm.datastores import long_uri
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.models import MODELS
from amlocal.emulator.arm.resource import Call, check_name
from amlocal.emulator.history import (
    mlflow_filters,
    mlflow_requests,
    mlflow_routes,
    mlflow_sources,
    mlflow_views,
    model_files,
    registered_models,
)
from amlocal.emulator.history.mlflow_client import MlflowError, MlflowUnavailable
from amlocal.emulator.history.mlflow_requests import Fields, RegistryError
from amlocal.emulator.history.registered_models import RegisteredModel
from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.store.workspace import Workspace

if TYPE_CHECKING:
    from amlocal.emulator.services import Services

_ALIAS = re.compile(r"[\w-]{1,255}\Z", re.ASCII)


class HandOn(Exception):
    """The call is of something that MLflow keeps itself."""


class Registry:
    """Answers the registry's part of a workspace's tracking URI."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._calls: dict[tuple[str, str], Callable[[Workspace, Fields], Any]] = {
            ("POST", "registered-models/create"): self._create_model,
            ("POST", "registered-models/rename"): self._rename_model,
            ("PATCH", "registered-models/update"): self._update_model,
            ("DELETE", "registered-models/delete"): self._delete_model,
            ("GET", "registered-models/get"): self._get_model,
            ("GET", "registered-models/search"): self._search_models,
            ("GET", "registered-models/get-latest-versions"): self._latest_versions,
            ("POST", "registered-models/get-latest-versions"): self._latest_versions,
            ("POST", "registered-models/set-tag"): self._set_model_tag,
            ("DELETE", "registered-models/delete-tag"): self._delete_model_tag,
            ("POST", "registered-models/alias"): self._set_alias,
            ("DELETE", "registered-models/alias"): self._delete_alias,
            ("GET", "registered-models/alias"): self._get_by_alias,
            ("POST", "model-versions/create"): self._create_version,
            ("PATCH", "model-versions/update"): self._update_version,
            ("POST", "model-versions/transition-stage"): self._transition,
            ("DELETE", "model-versions/delete"): self._delete_version,
            ("GET", "model-versions/get"): self._get_version,
            ("GET", "model-versions/search"): self._search_versions,
            ("GET", "model-versions/get-download-uri"): self._download_uri,
            ("POST", "model-versions/set-tag"): self._set_version_tag,
            ("DELETE", "model-versions/delete-tag"): self._delete_version_tag,
        }

    def answer(self, workspace: Workspace, route: str, body: bytes) -> Response | None:
        """The answer to a call below the tracking URI; None where MLflow's own process answers it."""
        if route == "model-versions/get-artifact":
            named = [request.args.get(key, "") for key in ("name", "version", "path")]
            if not self._known(workspace, named[0]):
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

    # Registered models.

    def _create_model(self, workspace: Workspace, fields: Fields) -> Any:
        name, tags = mlflow_requests.text(fields, "name"), mlflow_requests.tags(fields)
        description = mlflow_requests.optional(fields, "description")
        check_name(MODELS, name)
        if str(tags.get(registered_models.PROMPT_TAG, "")).lower() == "true":
            if self._known(workspace, name):
                raise RegistryError("RESOURCE_ALREADY_EXISTS", f"{name!r} is the name of a registered model.")
            raise HandOn
        try:
            taken = registered_models.is_prompt(self._services.mlflow, workspace, name)
        except MlflowUnavailable as error:
            raise RegistryError("TEMPORARILY_UNAVAILABLE", "MLflow is being restarted.", 503) from error
        except MlflowError as error:
            raise RegistryError(
                "INTERNAL_ERROR", "MLflow's process refused to look for a prompt.", 502
            ) from error
        if taken:
            raise RegistryError("RESOURCE_ALREADY_EXISTS", f"{name!r} is the name of a prompt.")

        def write(c: Connection) -> RegisteredModel:
            if registered_models.find(c, workspace.id, name) is not None:
                raise RegistryError(
                    "RESOURCE_ALREADY_EXISTS", f"Registered Model (name={name}) already exists."
                )
            said = {"description": description, "tags": tags}
            return registered_models.say(c, workspace.id, name, lambda body: body.update(said))

        return {"registered_model": mlflow_views.model(workspace, self._services.store.write(write))}

    def _rename_model(self, workspace: Workspace, fields: Fields) -> Any:
        name = self._model(workspace, fields).name
        raise RegistryError(
            "INVALID_PARAMETER_VALUE",
            f"Registered model {name!r} cannot be renamed: registered models are immutable in Azure Machine "
            "Learning. Register the version under the new name (copy_model_version).",
        )

    def _update_model(self, workspace: Workspace, fields: Fields) -> Any:
        description = mlflow_requests.optional(fields, "description")

        def change(body: dict[str, Any]) -> None:
            body["description"] = description

        found = self._say(workspace, fields, lambda model: change)
        return {"registered_model": mlflow_views.model(workspace, found)}

    def _delete_model(self, workspace: Workspace, fields: Fields) -> Any:
        name = self._model(workspace, fields).name

        def write(c: Connection) -> None:
            model = _found(registered_models.find(c, workspace.id, name), name)
            if model.versions:
                raise RegistryError(
                    "INVALID_PARAMETER_VALUE",
                    f"Registered model {name!r} has {len(model.versions)} version(s); as in Azure Machine "
                    "Learning it is not deleted with them. Delete its versions one by one, or archive it.",
                )
            registered_models.forget(c, workspace.id, name)

        self._services.store.write(write)
        return {}

    def _get_model(self, workspace: Workspace, fields: Fields) -> Any:
        return {"registered_model": mlflow_views.model(workspace, self._model(workspace, fields))}

    def _search_models(self, workspace: Workspace, fields: Fields) -> Any:
        wanted = mlflow_filters.parse(mlflow_requests.optional(fields, "filter"), mlflow_filters.MODEL_KEYS)
        wanted = _of_models(wanted)
        found = [
            model
            for model in self._services.store.read(lambda c: registered_models.every(c, workspace.id))
            if all(one.fits({"name": model.name}, model.tags) for one in wanted)
        ]

        def keys(model: RegisteredModel) -> dict[str, Any]:
            created, modified = mlflow_views.times(model)
            return {
                "name": model.name,
                "creation_timestamp": created,
                "last_updated_timestamp": modified,
                "timestamp": modified,
            }

        orders = mlflow_requests.orders(fields, ["name ASC"])
        found = mlflow_filters.ordered(found, orders, mlflow_filters.MODEL_ORDERS, keys)
        page, token = mlflow_requests.page(found, fields, 100, 1000)
        return {"registered_models": [mlflow_views.model(workspace, model) for model in page], **token}

    def _latest_versions(self, workspace: Workspace, fields: Fields) -> Any:
        model = self._model(workspace, fields)
        stages = [mlflow_requests.stage(stage) for stage in fields.get("stages") or mlflow_views.STAGES]
        newest = mlflow_views.latest(model, stages)
        return {"model_versions": [mlflow_views.version(workspace, model, one) for one in newest]}

    def _set_model_tag(self, workspace: Workspace, fields: Fields) -> Any:
        key, value = mlflow_requests.tag(fields)

        def change(body: dict[str, Any]) -> None:
            body["tags"] = {**body["tags"], key: value}

        self._say(workspace, fields, lambda model: change)
        return {}

    def _delete_model_tag(self, workspace: Workspace, fields: Fields) -> Any:
        key = mlflow_requests.text(fields, "key")

        def change(body: dict[str, Any]) -> None:
            body["tags"] = {name: value for name, value in body["tags"].items() if name != key}

        self._say(workspace, fields, lambda model: change)
        return {}

    def _set_alias(self, workspace: Workspace, fields: Fields) -> Any:
        alias, version = mlflow_requests.text(fields, "alias"), mlflow_requests.text(fields, "version")
        if not _ALIAS.match(alias) or alias.lower() == "latest" or re.fullmatch(r"[vV]\d+", alias):
            raise RegistryError(
                "INVALID_PARAMETER_VALUE",
                f"Invalid alias name {alias[:100]!r}: letters, digits, '_' and '-', not 'latest' and not 'v' "
                "with a number.",
            )

        def change(model: RegisteredModel) -> Callable[[dict[str, Any]], None]:
            _version(model, version)
            return lambda body: body.update(aliases={**body["aliases"], alias: version})

        self._say(workspace, fields, change)
        return {}

    def _delete_alias(self, workspace: Workspace, fields: Fields) -> Any:
        alias = mlflow_requests.text(fields, "alias")

        def change(body: dict[str, Any]) -> None:
            body["aliases"] = {name: version for name, version in body["aliases"].items() if name != alias}

        self._say(workspace, fields, lambda model: change)
        return {}

    def _get_by_alias(self, workspace: Workspace, fields: Fields) -> Any:
        model, alias = self._model(workspace, fields), mlflow_requests.text(fields, "alias")
        document = model.version(model.aliases.get(alias, ""))
        if document is None:
            raise RegistryError("INVALID_PARAMETER_VALUE", f"Registered model alias {alias[:100]} not found.")
        return {"model_version": mlflow_views.version(workspace, model, document)}

    # Versions of models.

    def _create_version(self, workspace: Workspace, fields: Fields) -> Any:
        tags = mlflow_requests.tags(fields)
        if str(tags.get(registered_models.PROMPT_TAG, "")).lower() == "true":
            raise HandOn
        name, given = self._model(workspace, fields).name, mlflow_requests.text(fields, "source")
        services = self._services
        source = mlflow_sources.resolve(
            services,
            workspace,
            given,
            mlflow_requests.optional(fields, "run_id") or "",
            mlflow_requests.optional(fields, "model_id") or "",
        )
        model_type = "mlflow_model" if (source.path / "MLmodel").is_file() else "custom_model"
        properties = {
            "description": mlflow_requests.optional(fields, "description") or None,
            "tags": tags,
            "properties": {},
            "isAnonymous": False,
            "modelType": model_type,
            "flavors": model_layouts.check(source.path, given[:500], model_type),
            "modelUri": long_uri(Call(services, workspace, MODELS, name), source.path),
            "stage": "Development",
            "provisioningState": "Succeeded",
            **({"jobName": source.run_id} if source.run_id else {}),
        }
        said = {
            "source": given,
            "run_id": source.run_id,
            "run_link": mlflow_requests.optional(fields, "run_link") or "",
            "model_id": source.model_id,
        }

        def write(c: Connection) -> tuple[RegisteredModel, Document]:
            _found(registered_models.find(c, workspace.id, name), name)
            number = documents.next_versions(c, workspace.id, MODELS.kind, [name])[name.lower()]
            body = {"properties": properties, "mlflow": said}
            document, _ = documents.put(c, workspace.id, MODELS.kind, name, number, body)
            return _found(registered_models.find(c, workspace.id, name), name), document

        model, document = services.store.write(write)
        return {"model_version": mlflow_views.version(workspace, model, document)}

    def _update_version(self, workspace: Workspace, fields: Fields) -> Any:
        description = mlflow_requests.optional(fields, "description")
        return self._change(workspace, fields, lambda properties: properties.update(description=description))

    def _transition(self, workspace: Workspace, fields: Fields) -> Any:
        name, stage = (
            self._model(workspace, fields).name,
            mlflow_requests.stage(mlflow_requests.text(fields, "stage")),
        )
        number, others = (
            mlflow_requests.text(fields, "version"),
            bool(fields.get("archive_existing_versions")),
        )
        if others and stage not in ("Staging", "Production"):
            raise RegistryError(
                "INVALID_PARAMETER_VALUE",
                f"archive_existing_versions goes with Staging and Production, not {stage}.",
            )

        def write(c: Connection) -> tuple[RegisteredModel, Document]:
            model = _found(registered_models.find(c, workspace.id, name), name)
            document = _version(model, number)
            archived = stage == "Archived"
            properties = document.properties if archived else {**document.properties, "stage": stage}
            for other in model.versions if others else ():
                if other.version != number and mlflow_views.stage(other) == stage:
                    _put(c, other, other.properties, archived=True)
            document = _put(c, document, properties, archived=archived)
            return _found(registered_models.find(c, workspace.id, name), name), document

        model, document = self._services.store.write(write)
        return {"model_version": mlflow_views.version(workspace, model, document)}

    def _delete_version(self, workspace: Workspace, fields: Fields) -> Any:
        name, number = self._model(workspace, fields).name, mlflow_requests.text(fields, "version")

        def write(c: Connection) -> None:
            model = _found(registered_models.find(c, workspace.id, name), name)
            _version(model, number)
            kept = {alias: version for alias, version in model.aliases.items() if version != number}
            # The name stays in MLflow's registry, also without a version.
            registered_models.say(c, workspace.id, model, lambda body: body.update(aliases=kept))
            documents.remove(c, workspace.id, MODELS.kind, name, number)

        self._services.store.write(write)
        return {}

    def _get_version(self, workspace: Workspace, fields: Fields) -> Any:
        model = self._model(workspace, fields)
        document = _version(model, mlflow_requests.text(fields, "version"))
        return {"model_version": mlflow_views.version(workspace, model, document)}

    def _search_versions(self, workspace: Workspace, fields: Fields) -> Any:
        wanted = mlflow_filters.parse(mlflow_requests.optional(fields, "filter"), mlflow_filters.VERSION_KEYS)
        wanted = _of_models(wanted)
        for one in wanted:
            if (one.key, one.tag, one.how) == ("name", False, "=") and not self._known(
                workspace, one.values[0]
            ):
                raise HandOn
        models = self._services.store.read(lambda c: registered_models.every(c, workspace.id))
        views = [mlflow_views.version(workspace, model, one) for model in models for one in model.versions]

        def keys(view: dict[str, Any]) -> dict[str, Any]:
            return {**view, "version_number": view["version"], "source_path": view["source"]}

        def tags(view: dict[str, Any]) -> dict[str, str]:
            return {tag["key"]: tag["value"] for tag in view["tags"]}

        found = [view for view in views if all(one.fits(keys(view), tags(view)) for one in wanted)]
        orders = mlflow_requests.orders(
            fields, ["last_updated_timestamp DESC", "name ASC", "version_number DESC"]
        )
        found = mlflow_filters.ordered(found, orders, mlflow_filters.VERSION_ORDERS, keys)
        page, token = mlflow_requests.page(found, fields, 10_000, 200_000)
        return {"model_versions": page, **token}

    def _download_uri(self, workspace: Workspace, fields: Fields) -> Any:
        document = _version(self._model(workspace, fields), mlflow_requests.text(fields, "version"))
        return {"artifact_uri": mlflow_views.address(workspace, document)}

    def _set_version_tag(self, workspace: Workspace, fields: Fields) -> Any:
        key, value = mlflow_requests.tag(fields)

        def change(properties: dict[str, Any]) -> None:
            properties["tags"] = {**(properties.get("tags") or {}), key: value}

        self._change(workspace, fields, change)
        return {}

    def _delete_version_tag(self, workspace: Workspace, fields: Fields) -> Any:
        key = mlflow_requests.text(fields, "key")

        def change(properties: dict[str, Any]) -> None:
            tags = properties.get("tags") or {}
            properties["tags"] = {name: value for name, value in tags.items() if name != key}

        self._change(workspace, fields, change)
        return {}

    def _known(self, workspace: Workspace, name: str) -> bool:
        return self._services.store.read(lambda c: registered_models.find(c, workspace.id, name)) is not None

    def _model(self, workspace: Workspace, fields: Fields) -> RegisteredModel:
        """The model that a call names; what no document names may be a prompt of MLflow's own."""
        name = mlflow_requests.text(fields, "name")
        found = self._services.store.read(lambda c: registered_models.find(c, workspace.id, name))
        if found is None:
            raise HandOn
        return found

    def _say(
        self,
        workspace: Workspace,
        fields: Fields,
        change: Callable[[RegisteredModel], Callable[[dict[str, Any]], None]],
    ) -> RegisteredModel:
        name = self._model(workspace, fields).name

        def write(c: Connection) -> RegisteredModel:
            model = _found(registered_models.find(c, workspace.id, name), name)
            return registered_models.say(c, workspace.id, model, change(model))

        return self._services.store.write(write)

    def _change(
        self, workspace: Workspace, fields: Fields, change: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        name, number = self._model(workspace, fields).name, mlflow_requests.text(fields, "version")

        def write(c: Connection) -> tuple[RegisteredModel, Document]:
            model = _found(registered_models.find(c, workspace.id, name), name)
            document = _version(model, number)
            properties = dict(document.properties)
            change(properties)
            return model, _put(c, document, properties, archived=document.archived)

        model, document = self._services.store.write(write)
        return {"model_version": mlflow_views.version(workspace, model, document)}


def _put(c: Connection, document: Document, properties: Mapping[str, Any], *, archived: bool) -> Document:
    body = {**document.body, "properties": dict(properties)}
    named = (document.workspace_id, document.kind, document.name, document.version)
    return documents.put(c, *named, body, archived=archived)[0]


def _found(model: RegisteredModel | None, name: str) -> RegisteredModel:
    if model is None:
        raise RegistryError("RESOURCE_DOES_NOT_EXIST", f"Registered Model with name={name} not found", 404)
    return model


def _version(model: RegisteredModel, version: str) -> Document:
    document = model.version(version)
    if document is None:
        raise RegistryError(
            "RESOURCE_DOES_NOT_EXIST",
            f"Model Version (name={model.name}, version={version[:100]}) not found",
            404,
        )
    return document


def _of_models(wanted: list[mlflow_filters.Comparison]) -> list[mlflow_filters.Comparison]:
    """The comparisons without those that only say that no prompts are wanted. Raises HandOn for prompts."""
    prompts = [one for one in wanted if one.tag and one.key == registered_models.PROMPT_TAG]
    if any(one.fits({}, {one.key: "true"}) for one in prompts):
        raise HandOn
    return [one for one in wanted if one not in prompts]
