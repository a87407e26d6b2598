"""MLflow's calls about registered models: names with tags, a description and aliases."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from amlocal.emulator.arm.models import MODELS
from amlocal.emulator.arm.resource import check_name
from amlocal.emulator.history import mlflow_filters, mlflow_requests, mlflow_views, registered_models
from amlocal.emulator.history.mlflow_client import MlflowError, MlflowUnavailable
from amlocal.emulator.history.mlflow_registry_desk import (
    Calls,
    Desk,
    HandOn,
    existing_model,
    existing_version,
    of_models,
)
from amlocal.emulator.history.mlflow_requests import Fields, RegistryError
from amlocal.emulator.history.registered_models import RegisteredModel
from amlocal.emulator.store.workspace import Workspace

_ALIAS = re.compile(r"[\w-]{1,255}\Z", re.ASCII)


class ModelCalls(Desk):
    """The calls below registered-models."""

    @property
    def calls(self) -> Calls:
        return {
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
        }

    def _create_model(self, workspace: Workspace, fields: Fields) -> Any:
        name, tags = mlflow_requests.text(fields, "name"), mlflow_requests.tags(fields)
        description = mlflow_requests.optional(fields, "description")
        check_name(MODELS, name)
        if str(tags.get(registered_models.PROMPT_TAG, "")).lower() == "true":
            if self.known(workspace, name):
                raise RegistryError("RESOURCE_ALREADY_EXISTS", f"{name!r} is the name of a registered model.")
            raise HandOn
        try:
            taken = registered_models.is_prompt(self.services.mlflow, workspace, name)
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

        return {"registered_model": mlflow_views.model(workspace, self.services.store.write(write))}

    def _rename_model(self, workspace: Workspace, fields: Fields) -> Any:
        name = self.model(workspace, fields).name
        raise RegistryError(
            "INVALID_PARAMETER_VALUE",
            f"Registered model {name!r} cannot be renamed: registered models are immutable in Azure Machine "
            "Learning. Register the version under the new name (copy_model_version).",
        )

    def _update_model(self, workspace: Workspace, fields: Fields) -> Any:
        description = mlflow_requests.optional(fields, "description")

        def change(body: dict[str, Any]) -> None:
            body["description"] = description

        found = self.say(workspace, fields, lambda model: change)
        return {"registered_model": mlflow_views.model(workspace, found)}

    def _delete_model(self, workspace: Workspace, fields: Fields) -> Any:
        name = self.model(workspace, fields).name

        def write(c: Connection) -> None:
            model = existing_model(registered_models.find(c, workspace.id, name), name)
            if model.versions:
                raise RegistryError(
                    "INVALID_PARAMETER_VALUE",
                    f"Registered model {name!r} has {len(model.versions)} version(s); as in Azure Machine "
                    "Learning it is not deleted with them. Delete its versions one by one, or archive it.",
                )
            registered_models.forget(c, workspace.id, name)

        self.services.store.write(write)
        return {}

    def _get_model(self, workspace: Workspace, fields: Fields) -> Any:
        return {"registered_model": mlflow_views.model(workspace, self.model(workspace, fields))}

    def _search_models(self, workspace: Workspace, fields: Fields) -> Any:
        wanted = mlflow_filters.parse(mlflow_requests.optional(fields, "filter"), mlflow_filters.MODEL_KEYS)
        wanted = of_models(wanted)
        found = [
            model
            for model in self.services.store.read(lambda c: registered_models.every(c, workspace.id))
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
        model = self.model(workspace, fields)
        stages = [mlflow_requests.stage(stage) for stage in fields.get("stages") or mlflow_views.STAGES]
        newest = mlflow_views.latest(model, stages)
        return {"model_versions": [mlflow_views.version(workspace, model, one) for one in newest]}

    def _set_model_tag(self, workspace: Workspace, fields: Fields) -> Any:
        key, value = mlflow_requests.tag(fields)

        def change(body: dict[str, Any]) -> None:
            body["tags"] = {**body["tags"], key: value}

        self.say(workspace, fields, lambda model: change)
        return {}

    def _delete_model_tag(self, workspace: Workspace, fields: Fields) -> Any:
        key = mlflow_requests.text(fields, "key")

        def change(body: dict[str, Any]) -> None:
            body["tags"] = {name: value for name, value in body["tags"].items() if name != key}

        self.say(workspace, fields, lambda model: change)
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
            existing_version(model, version)
            return lambda body: body.update(aliases={**body["aliases"], alias: version})

        self.say(workspace, fields, change)
        return {}

    def _delete_alias(self, workspace: Workspace, fields: Fields) -> Any:
        alias = mlflow_requests.text(fields, "alias")

        def change(body: dict[str, Any]) -> None:
            body["aliases"] = {name: version for name, version in body["aliases"].items() if name != alias}

        self.say(workspace, fields, lambda model: change)
        return {}

    def _get_by_alias(self, workspace: Workspace, fields: Fields) -> Any:
        model, alias = self.model(workspace, fields), mlflow_requests.text(fields, "alias")
        document = model.version(model.aliases.get(alias, ""))
        if document is None:
            raise RegistryError("INVALID_PARAMETER_VALUE", f"Registered model alias {alias[:100]} not found.")
        return {"model_version": mlflow_views.version(workspace, model, document)}
