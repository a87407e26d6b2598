"""Models: named, versioned files or folders. The path must exist when a version is registered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from amlocal.emulator.arm.datastores import long_uri
from amlocal.emulator.arm.documents import Document
from amlocal.emulator.arm.resource import Call, Resource, properties_of, text_of
from amlocal.emulator.http.errors import bad_request

_TYPES = ("mlflow_model", "custom_model", "triton_model")
_MLMODEL_LIMIT = 4 * 1024**2


def _prepare(call: Call, body: dict[str, Any], present: Document | None) -> dict[str, Any]:
    properties = dict(properties_of(body))
    model_type = properties.get("modelType") or "custom_model"
    if model_type not in _TYPES:
        raise bad_request(
            "InvalidModelType",
            f"modelType {str(model_type)[:60]!r}: use {', '.join(_TYPES)}.",
            target="modelType",
        )
    uri = text_of(properties, "modelUri")
    if present is not None and (uri, model_type) == (
        present.properties["modelUri"],
        present.properties["modelType"],
    ):
        kept = {
            key: present.properties[key] for key in ("modelType", "flavors", "stage", "provisioningState")
        }
        return {**body, "properties": {**kept, **properties, "flavors": kept["flavors"]}}
    path = call.services.resolver.resolve(call.workspace, uri)
    if not path.exists():
        raise bad_request("InvalidModelUri", f"There is nothing at {uri}.", target="modelUri")
    if path.is_dir() and not any(path.iterdir()):
        raise bad_request("InvalidModelUri", f"The folder {uri} is empty.", target="modelUri")
    if model_type == "triton_model" and not path.is_dir():
        raise bad_request(
            "InvalidModelUri",
            f"{uri} is a file; a triton_model is a model repository: a folder with one folder per model.",
            target="modelUri",
        )
    properties["modelType"] = model_type
    properties["modelUri"] = long_uri(call, path)
    properties["flavors"] = flavors(path, uri) if model_type == "mlflow_model" else {}
    properties.setdefault("stage", "Development")
    properties["provisioningState"] = "Succeeded"
    return {**body, "properties": properties}


def flavors(path: Path, uri: str) -> dict[str, Any]:
    """The flavors that the model's MLmodel file names, in REST form (values are texts). Raises 400."""
    file = path / "MLmodel"
    if not file.is_file():
        raise bad_request(
            "InvalidMLflowModel",
            f"{uri} holds no file named MLmodel. Point at the folder that MLflow wrote, "
            "or register it as custom_model.",
            target="modelUri",
        )
    if file.stat().st_size > _MLMODEL_LIMIT:
        raise bad_request("InvalidMLflowModel", f"{uri}/MLmodel is larger than {_MLMODEL_LIMIT} bytes.")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise bad_request("InvalidMLflowModel", f"{uri}/MLmodel is not valid YAML: {error}") from error
    found = content.get("flavors") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found:
        raise bad_request("InvalidMLflowModel", f"{uri}/MLmodel names no flavors.", target="modelUri")

    def text(value: Any) -> str:
        return value if isinstance(value, str) else json.dumps(value)

    return {
        str(name): {"data": {str(key): text(value) for key, value in (data or {}).items()}}
        for name, data in found.items()
        if data is None or isinstance(data, dict)
    }


MODELS = Resource(
    path="models",
    title="Model",
    versioned=True,
    immutable=("modelUri", "modelType"),
    top_level=(),
    prepare=_prepare,
)
