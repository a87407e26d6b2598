"""Registered models and their versions in the form of MLflow's REST interface."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from amlocal.emulator.arm.documents import Document
from amlocal.emulator.history import mlflow_paths
from amlocal.emulator.history.registered_models import RegisteredModel
from amlocal.emulator.jobs.inputs import ARTIFACT_STORE
from amlocal.emulator.store.workspace import Workspace

STAGES = ("None", "Staging", "Production", "Archived")
# Addresses of registered models' files, see model_files.py.
FILES = "models"
_PLAIN = re.compile(r"[\w./()+,=@ -]+\Z", re.ASCII)
_STORE = f"/datastores/{ARTIFACT_STORE}/paths/"


def stage(document: Document) -> str:
    """MLflow's stage: an archived version is Archived, a stage that MLflow does not have is None."""
    if document.archived:
        return "Archived"
    found = str(document.properties.get("stage") or "")
    return next((known for known in STAGES if known.lower() == found.lower()), "None")


def address(workspace: Workspace, document: Document) -> str:
    """Where MLflow's clients read a version's files: in the run's artifacts, or under its name."""
    _, inside, path = str(document.properties["modelUri"]).partition(_STORE)
    path = path.rstrip("/")
    if inside and document.properties.get("modelType") == "mlflow_model" and _PLAIN.match(path):
        return f"{mlflow_paths.SCHEME}:/{workspace.account}/{mlflow_paths.CONTAINER}/{path}"
    return f"{mlflow_paths.SCHEME}:/{FILES}/{document.name}/{document.version}"


def said(document: Document) -> dict[str, Any]:
    """What MLflow's client gave when it made the version: source, run_id, run_link, model_id."""
    found: dict[str, Any] = document.body.get("mlflow") or {}
    return found


def run_of(document: Document) -> str:
    """The run that a version came from; empty where none is known."""
    return str(said(document).get("run_id") or document.properties.get("jobName") or "")


def version(workspace: Workspace, model: RegisteredModel, document: Document) -> dict[str, Any]:
    """A model version. Times in ms since 1970."""
    given = said(document)
    view = {
        "name": document.name,
        "version": document.version,
        "creation_timestamp": _milliseconds(document.created_at),
        "last_updated_timestamp": _milliseconds(document.modified_at),
        "current_stage": stage(document),
        "description": document.properties.get("description") or "",
        "source": given.get("source") or address(workspace, document),
        "run_id": run_of(document),
        "status": "READY",
        "tags": _pairs(document.properties.get("tags") or {}),
        "run_link": given.get("run_link") or "",
        "aliases": model.aliases_of(document.version),
    }
    return {**view, "model_id": given["model_id"]} if given.get("model_id") else view


def model(workspace: Workspace, found: RegisteredModel) -> dict[str, Any]:
    """A registered model with the latest version of each stage."""
    created, modified = times(found)
    view = {
        "name": found.name,
        "creation_timestamp": created,
        "last_updated_timestamp": modified,
        "description": found.description or "",
        "tags": _pairs(found.tags),
        "aliases": [{"alias": alias, "version": number} for alias, number in sorted(found.aliases.items())],
    }
    newest = latest(found, STAGES)
    return {**view, "latest_versions": [version(workspace, found, one) for one in newest]}


def times(found: RegisteredModel) -> tuple[int, int]:
    """When a registered model was made and last changed, in ms since 1970."""
    every = [*found.versions, *([found.record] if found.record is not None else [])]
    created = min(_milliseconds(document.created_at) for document in every)
    return created, max(_milliseconds(document.modified_at) for document in every)


def latest(found: RegisteredModel, stages: Sequence[str]) -> list[Document]:
    """The version with the largest number of each stage; versions that are no numbers are below all."""
    newest: dict[str, Document] = {}
    for document in sorted(found.versions, key=order):
        newest[stage(document)] = document
    return [newest[name] for name in STAGES if name in newest and name in stages]


def order(document: Document) -> tuple[int, int]:
    """How versions follow one another: by number, those without one first by creation."""
    number = int(document.version) if document.version.isdecimal() else -1
    return number, document.sequence


def _pairs(tags: dict[str, Any]) -> list[dict[str, str]]:
    return [{"key": key, "value": str(value or "")} for key, value in tags.items()]


def _milliseconds(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)
