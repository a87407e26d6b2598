"""Models: named, versioned files or folders. The path must exist when a version is registered.

Their documents are the only registry: what MLflow's clients register is written here and read from here
too, see history/mlflow_registry.py. `mlflow` in a document's body is what MLflow's clients said beyond
Azure's fields.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from amlocal.emulator.arm import documents, model_layouts, model_paths, model_search
from amlocal.emulator.arm.datastores import long_uri
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.model_layouts import flavors as flavors
from amlocal.emulator.arm.resource import Call, Resource, properties_of, text_of
from amlocal.emulator.history.mlflow_client import MlflowError
from amlocal.emulator.http.errors import bad_request, conflict

_KEPT = ("modelType", "flavors", "stage", "provisioningState", "jobName")
_LONGEST_STAGE = 100


def _prepare(call: Call, body: dict[str, Any], present: Document | None) -> dict[str, Any]:
    properties = {key: value for key, value in properties_of(body).items() if value is not None}
    model_type = properties.get("modelType") or "custom_model"
    if model_type not in model_layouts.TYPES:
        raise bad_request(
            "InvalidModelType",
            f"modelType {str(model_type)[:60]!r}: use {', '.join(model_layouts.TYPES)}.",
            target="modelType",
        )
    for name in ("stage", "jobName"):
        value = properties.get(name)
        if value is not None and (not isinstance(value, str) or len(value) > _LONGEST_STAGE * 3):
            raise bad_request(
                "InvalidRequestContent", f"`properties.{name}` must be a short text.", target=name
            )
    uri = text_of(properties, "modelUri")
    kept = (
        {}
        if present is None
        else {key: present.properties[key] for key in _KEPT if key in present.properties}
    )
    # Only the server itself writes what MLflow's clients said.
    rest = {key: value for key, value in body.items() if key != "mlflow"}
    if present is not None and (uri, model_type) == (present.properties["modelUri"], kept["modelType"]):
        # Nothing but texts change; the files themselves may be gone by now.
        return {**rest, "properties": {**kept, **properties, "flavors": kept["flavors"]}}
    if present is None:
        _check_prompt(call)
    found = model_paths.locate(call.services, call.workspace, uri)
    properties["flavors"] = model_layouts.check(found.path, uri, model_type)
    properties["modelType"] = model_type
    properties["modelUri"] = long_uri(call, found.path)
    if found.job is not None:
        properties.setdefault("jobName", found.job)
    properties.setdefault("stage", kept.get("stage") or "Development")
    properties["provisioningState"] = "Succeeded"
    return {**rest, "properties": properties}


def _check_prompt(call: Call) -> None:
    """MLflow keeps prompts under the names of registered models; a model must not hide one. Raises 409.

    While MLflow is not there nobody can use a prompt, and models can still be registered.
    """
    from amlocal.emulator.history.registered_models import is_prompt

    if (
        call.services.store.read(lambda c: documents.latest(c, call.workspace.id, "models", call.name))
        is not None
    ):
        return
    try:
        taken = is_prompt(call.services.mlflow, call.workspace, call.name)
    except MlflowError:
        return
    if taken:
        raise conflict(f"{call.name!r} is a prompt in MLflow's registry. Choose another name.", target="name")


def _settle(c: Connection, call: Call, prepared: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    """What MLflow's clients said stays with the version."""
    present = documents.get(c, call.workspace.id, call.resource.kind, call.name, call.version)
    said = present.body.get("mlflow") if present is not None else None
    return kept if said is None else {**kept, "mlflow": said}


MODELS = Resource(
    path="models",
    title="Model",
    versioned=True,
    immutable=("modelUri", "modelType"),
    top_level=("mlflow",),
    hidden=("mlflow",),
    prepare=_prepare,
    settle=_settle,
    search=model_search.search,
)
