"""Registered models as MLflow sees them: what the documents of models hold, and what MLflow adds to a name.

A version is the document of the model's version itself. What MLflow says of a name (description, tags,
aliases, or that it exists without a version) is one more document of the kind `registeredModels`, in the
same database.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from amlocal.emulator.arm import documents
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.history.mlflow_client import MlflowClient, MlflowError
from amlocal.emulator.store.workspace import Workspace

KIND = "registeredModels"
VERSIONS = "models"
PROMPT_TAG = "mlflow.prompt.is_prompt"


@dataclass(frozen=True)
class RegisteredModel:
    """One name: its versions in the order of creation, and what MLflow's clients said of the name."""

    name: str
    versions: tuple[Document, ...]
    record: Document | None = None
    said: Mapping[str, Any] = field(default_factory=dict)

    @property
    def description(self) -> str | None:
        found: str | None = self.said.get("description")
        return found

    @property
    def tags(self) -> dict[str, str]:
        return dict(self.said.get("tags") or {})

    @property
    def aliases(self) -> dict[str, str]:
        """By alias the version, of those versions that there still are."""
        known = {document.version for document in self.versions}
        named = self.said.get("aliases") or {}
        return {alias: version for alias, version in named.items() if version in known}

    def aliases_of(self, version: str) -> list[str]:
        return sorted(alias for alias, named in self.aliases.items() if named == version)

    def version(self, version: str) -> Document | None:
        return next((document for document in self.versions if document.version == version), None)


def find(c: Connection, workspace_id: str, name: str) -> RegisteredModel | None:
    """A registered model; None where neither a version nor MLflow's record has the name."""
    versions = documents.listing(c, workspace_id, VERSIONS, name=name, view="All")
    record = documents.get(c, workspace_id, KIND, name)
    if not versions and record is None:
        return None
    return _model(versions, record)


def every(c: Connection, workspace_id: str) -> list[RegisteredModel]:
    """All registered models of the workspace, by name; anonymous ones, of deployments, are left out."""
    records = {record.name.lower(): record for record in documents.listing(c, workspace_id, KIND)}
    versions: dict[str, list[Document]] = {name: [] for name in records}
    for document in documents.listing(c, workspace_id, VERSIONS, view="All"):
        if not document.properties.get("isAnonymous"):
            versions.setdefault(document.name.lower(), []).append(document)
    return [_model(versions[name], records.get(name)) for name in sorted(versions)]


def say(
    c: Connection, workspace_id: str, model: RegisteredModel | str, change: Callable[[dict[str, Any]], None]
) -> RegisteredModel:
    """Change what MLflow says of a name, which is made where it is a text; the model as it is then."""
    name = model if isinstance(model, str) else model.name
    record = documents.get(c, workspace_id, KIND, name)
    body: dict[str, Any] = {"description": None, "tags": {}, "aliases": {}, **(record.body if record else {})}
    change(body)
    documents.put(c, workspace_id, KIND, name, "", body)
    found = find(c, workspace_id, name)
    assert found is not None
    return found


def forget(c: Connection, workspace_id: str, name: str) -> None:
    """Remove what MLflow says of a name."""
    documents.remove(c, workspace_id, KIND, name)


def is_prompt(mlflow: MlflowClient, workspace: Workspace, name: str) -> bool:
    """Whether MLflow's own store has a prompt of the name. Raises MlflowError when MLflow does not answer."""
    try:
        found = mlflow.ask(workspace.id, workspace.account, "registered-models/get", {"name": name})
    except MlflowError as error:
        if error.status in (400, 404):
            return False
        raise
    tags = {tag.get("key"): tag.get("value") for tag in found["registered_model"].get("tags", [])}
    return str(tags.get(PROMPT_TAG, "")).lower() == "true"


def _model(versions: list[Document], record: Document | None) -> RegisteredModel:
    name = versions[0].name if versions else record.name if record is not None else ""
    return RegisteredModel(name, tuple(versions), record, record.body if record is not None else {})
