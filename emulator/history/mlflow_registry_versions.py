"""MLflow's calls about versions of models: each is one asset of the workspace."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from amlocal.emulator.arm import documents, model_layouts
from amlocal.emulator.arm.datastores import long_uri
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.models import MODELS
from amlocal.emulator.arm.resource import Call
from amlocal.emulator.history import (
    mlflow_filters,
    mlflow_requests,
    mlflow_sources,
    mlflow_views,
    registered_models,
)
from amlocal.emulator.history.mlflow_registry_desk import (
    Calls,
    Desk,
    HandOn,
    existing_model,
    existing_version,
    of_models,
    put,
)
from amlocal.emulator.history.mlflow_requests import Fields, RegistryError
from amlocal.emulator.history.registered_models import RegisteredModel
from amlocal.emulator.store.workspace import Workspace


class VersionCalls(Desk):
    """The calls below model-versions."""

    @property
    def calls(self) -> Calls:
        return {
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

    def _create_version(self, workspace: Workspace, fields: Fields) -> Any:
        tags = mlflow_requests.tags(fields)
        if str(tags.get(registered_models.PROMPT_TAG, "")).lower() == "true":
            raise HandOn
        name, given = self.model(workspace, fields).name, mlflow_requests.text(fields, "source")
        services = self.services
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
            existing_model(registered_models.find(c, workspace.id, name), name)
            number = documents.next_versions(c, workspace.id, MODELS.kind, [name])[name.lower()]
            body = {"properties": properties, "mlflow": said}
            document, _ = documents.put(c, workspace.id, MODELS.kind, name, number, body)
            return existing_model(registered_models.find(c, workspace.id, name), name), document

        model, document = services.store.write(write)
        return {"model_version": mlflow_views.version(workspace, model, document)}

    def _update_version(self, workspace: Workspace, fields: Fields) -> Any:
        description = mlflow_requests.optional(fields, "description")
        return self.change(workspace, fields, lambda properties: properties.update(description=description))

    def _transition(self, workspace: Workspace, fields: Fields) -> Any:
        name, stage = (
            self.model(workspace, fields).name,
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
            model = existing_model(registered_models.find(c, workspace.id, name), name)
            document = existing_version(model, number)
            archived = stage == "Archived"
            properties = document.properties if archived else {**document.properties, "stage": stage}
            for other in model.versions if others else ():
                if other.version != number and mlflow_views.stage(other) == stage:
                    put(c, other, other.properties, archived=True)
            document = put(c, document, properties, archived=archived)
            return existing_model(registered_models.find(c, workspace.id, name), name), document

        model, document = self.services.store.write(write)
        return {"model_version": mlflow_views.version(workspace, model, document)}

    def _delete_version(self, workspace: Workspace, fields: Fields) -> Any:
        name, number = self.model(workspace, fields).name, mlflow_requests.text(fields, "version")

        def write(c: Connection) -> None:
            model = existing_model(registered_models.find(c, workspace.id, name), name)
            existing_version(model, number)
            kept = {alias: version for alias, version in model.aliases.items() if version != number}
            # The name stays in MLflow's registry, also without a version.
            registered_models.say(c, workspace.id, model, lambda body: body.update(aliases=kept))
            documents.remove(c, workspace.id, MODELS.kind, name, number)

        self.services.store.write(write)
        return {}

    def _get_version(self, workspace: Workspace, fields: Fields) -> Any:
        model = self.model(workspace, fields)
        document = existing_version(model, mlflow_requests.text(fields, "version"))
        return {"model_version": mlflow_views.version(workspace, model, document)}

    def _search_versions(self, workspace: Workspace, fields: Fields) -> Any:
        wanted = mlflow_filters.parse(mlflow_requests.optional(fields, "filter"), mlflow_filters.VERSION_KEYS)
        wanted = of_models(wanted)
        for one in wanted:
            if (one.key, one.tag, one.how) == ("name", False, "=") and not self.known(
                workspace, one.values[0]
            ):
                raise HandOn
        models = self.services.store.read(lambda c: registered_models.every(c, workspace.id))
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
        document = existing_version(self.model(workspace, fields), mlflow_requests.text(fields, "version"))
        return {"artifact_uri": mlflow_views.address(workspace, document)}

    def _set_version_tag(self, workspace: Workspace, fields: Fields) -> Any:
        key, value = mlflow_requests.tag(fields)

        def change(properties: dict[str, Any]) -> None:
            properties["tags"] = {**(properties.get("tags") or {}), key: value}

        self.change(workspace, fields, change)
        return {}

    def _delete_version_tag(self, workspace: Workspace, fields: Fields) -> Any:
        key = mlflow_requests.text(fields, "key")

        def change(properties: dict[str, Any]) -> None:
            tags = properties.get("tags") or {}
            properties["tags"] = {name: value for name, value in tags.items() if name != key}

        self.change(workspace, fields, change)
        return {}
