"""What every call to the model registry needs: what it names, and one write that changes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from amlocal.emulator.arm import documents
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.history import mlflow_filters, mlflow_requests, mlflow_views, registered_models
from amlocal.emulator.history.mlflow_requests import Fields, RegistryError
from amlocal.emulator.history.registered_models import RegisteredModel
from amlocal.emulator.store.workspace import Workspace

if TYPE_CHECKING:
    from amlocal.emulator.services import Services

Work = Callable[[Workspace, Fields], Any]
Calls = Mapping[tuple[str, str], Work]
"""What answers a call, by its method and its path below the registry's address."""


class HandOn(Exception):
    """The call is of something that MLflow keeps itself."""


class Desk:
    """Finds and changes what a call names, in the documents of models."""

    def __init__(self, services: Services) -> None:
        self.services = services

    def known(self, workspace: Workspace, name: str) -> bool:
        """Whether a document names the model."""
        return self.services.store.read(lambda c: registered_models.find(c, workspace.id, name)) is not None

    def model(self, workspace: Workspace, fields: Fields) -> RegisteredModel:
        """The model that a call names; what no document names may be a prompt of MLflow's own."""
        name = mlflow_requests.text(fields, "name")
        found = self.services.store.read(lambda c: registered_models.find(c, workspace.id, name))
        if found is None:
            raise HandOn
        return found

    def say(
        self,
        workspace: Workspace,
        fields: Fields,
        change: Callable[[RegisteredModel], Callable[[dict[str, Any]], None]],
    ) -> RegisteredModel:
        """Change what MLflow alone knows of the model that a call names; `change` looks at it first.

        Raises RegistryError and HandOn.
        """
        name = self.model(workspace, fields).name

        def write(c: Connection) -> RegisteredModel:
            model = existing_model(registered_models.find(c, workspace.id, name), name)
            return registered_models.say(c, workspace.id, model, change(model))

        return self.services.store.write(write)

    def change(
        self, workspace: Workspace, fields: Fields, change: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        """Change the properties of the version that a call names, and answer it.

        Raises RegistryError and HandOn.
        """
        name, number = self.model(workspace, fields).name, mlflow_requests.text(fields, "version")

        def write(c: Connection) -> tuple[RegisteredModel, Document]:
            model = existing_model(registered_models.find(c, workspace.id, name), name)
            document = existing_version(model, number)
            properties = dict(document.properties)
            change(properties)
            return model, put(c, document, properties, archived=document.archived)

        model, document = self.services.store.write(write)
        return {"model_version": mlflow_views.version(workspace, model, document)}


def put(c: Connection, document: Document, properties: Mapping[str, Any], *, archived: bool) -> Document:
    """Store a version anew."""
    body = {**document.body, "properties": dict(properties)}
    named = (document.workspace_id, document.kind, document.name, document.version)
    return documents.put(c, *named, body, archived=archived)[0]


def existing_model(model: RegisteredModel | None, name: str) -> RegisteredModel:
    """The model. Raises RegistryError 404 when there is none."""
    if model is None:
        raise RegistryError("RESOURCE_DOES_NOT_EXIST", f"Registered Model with name={name} not found", 404)
    return model


def existing_version(model: RegisteredModel, version: str) -> Document:
    """The version. Raises RegistryError 404 when there is none."""
    document = model.version(version)
    if document is None:
        raise RegistryError(
            "RESOURCE_DOES_NOT_EXIST",
            f"Model Version (name={model.name}, version={version[:100]}) not found",
            404,
        )
    return document


def of_models(wanted: list[mlflow_filters.Comparison]) -> list[mlflow_filters.Comparison]:
    """The comparisons without those that only say that no prompts are wanted. Raises HandOn for prompts."""
    prompts = [one for one in wanted if one.tag and one.key == registered_models.PROMPT_TAG]
    if any(one.fits({}, {one.key: "true"}) for one in prompts):
        raise HandOn
    return [one for one in wanted if one not in prompts]
