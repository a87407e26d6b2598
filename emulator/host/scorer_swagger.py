"""GET /swagger.json: an OpenAPI document of what a model takes and gives. Part of `scorer.py`.

Versions, as Azure's `?version=` has them: 2 (Swagger 2.0, the default), 3 (OpenAPI 3.0) and 3.1.
Standard library only.
"""

from __future__ import annotations

import json
import os
from typing import Any, Mapping, NamedTuple, Sequence  # noqa: UP035  (older Pythons)

VERSIONS = ("2", "3", "3.1")
MOST_CUSTOM = 4 * 1024 * 1024
# Types of MLflow's signatures.
TYPES: Mapping[str, Mapping[str, Any]] = {
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer", "format": "int32"},
    "long": {"type": "integer", "format": "int64"},
    "float": {"type": "number", "format": "float"},
    "double": {"type": "number", "format": "double"},
    "string": {"type": "string"},
    "binary": {"type": "string", "format": "byte"},
    "datetime": {"type": "string", "format": "date-time"},
    "array": {"type": "array", "items": {}},
    "object": {"type": "object"},
    "map": {"type": "object"},
}
NUMBERS = {"type": "array", "items": {"type": "number"}}
BOX = {
    "type": "object",
    "required": ["box", "label", "score"],
    "properties": {
        "box": {
            "type": "object",
            "properties": {name: {"type": "number"} for name in ("topX", "topY", "bottomX", "bottomY")},
        },
        "label": {"type": "string"},
        "score": {"type": "number"},
        "polygon": {"type": "array", "items": NUMBERS},
        "mask": {"type": "string", "format": "byte"},
    },
}
# What the columns of image models hold; their signature calls all of them strings.
IMAGE_COLUMNS: Mapping[str, Mapping[str, Any]] = {
    "probs": NUMBERS,
    "labels": {"type": "array", "items": {"type": "string"}},
    "boxes": {"type": "array", "items": BOX},
}
ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
        }
    },
}


class Shape(NamedTuple):
    """What goes in and out. `records` is another way to write `table`, which Swagger 2.0 cannot say."""

    request: dict[str, Any]
    answer: dict[str, Any]
    records: dict[str, Any] | None = None
    kinds: Sequence[str] = ("application/json",)
    methods: Sequence[str] = ("post",)


FREE = Shape({"description": "What the scoring script takes."}, {"description": "What run() returns."})
RAW = Shape(
    {"type": "string", "format": "binary"},
    {"description": "What run() returns."},
    kinds=("application/json", "application/octet-stream", "multipart/form-data"),
    methods=("get", "post"),
)


def column_type(column: Mapping[str, Any]) -> dict[str, Any]:
    return dict(TYPES.get(str(column.get("type")).lower(), {}))


def table_shape(columns: Sequence[Mapping[str, Any]], answer: dict[str, Any]) -> Shape:
    """Of a model with named columns; each has "name", "type" and perhaps "required" (MLflow's signature)."""
    names = [str(column["name"]) for column in columns]
    types = [column_type(column) for column in columns]
    same = types[0] if all(kind == types[0] for kind in types) else {}
    row: dict[str, Any] = {"type": "array", "items": same, "minItems": len(names), "maxItems": len(names)}
    table = {
        "type": "object",
        "required": ["data"],
        "properties": {
            "columns": {"type": "array", "items": {"type": "string", "enum": names}},
            "index": {"type": "array", "items": {}},
            "data": {"type": "array", "items": row},
        },
    }
    records = {
        "type": "array",
        "items": {
            "type": "object",
            "properties": dict(zip(names, types)),  # noqa: B905  (older Pythons)
            "required": [name for name, column in zip(names, columns) if column.get("required", True)],  # noqa: B905
        },
    }
    return Shape(table, answer, records)


def answer_rows(columns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A list with one object per row, or anything where the signature has no names."""
    names = [column.get("name") for column in columns]
    if not names or not all(names):
        return {"description": "The model's answer."}
    known = {str(column["name"]): column_type(column) for column in columns}
    known.update({name: dict(IMAGE_COLUMNS[name]) for name in known if name in IMAGE_COLUMNS})
    return {"type": "array", "items": {"type": "object", "properties": known}}


def document(version: str, shape: Shape, *, title: str, base: str) -> dict[str, Any]:
    """`base` is the path of the endpoint's address, or empty."""
    schemas: dict[str, Any] = {"ServiceInput": shape.request, "ServiceOutput": shape.answer, "Error": ERROR}
    prefix = "#/definitions/" if version == "2" else "#/components/schemas/"
    if shape.records is not None:
        schemas["Table"], schemas["Records"] = shape.request, shape.records
        table = {"$ref": prefix + "Table"}
        either = {"oneOf": [table, {"$ref": prefix + "Records"}]}
        schemas["ServiceInput"] = {
            "type": "object",
            "required": ["input_data"],
            "properties": {"input_data": table if version == "2" else either, "params": {"type": "object"}},
        }
    operations: dict[str, Any] = {}
    for method in shape.methods:
        operation: dict[str, Any] = {
            "operationId": "RunMLService" if method == "post" else f"RunMLService_{method}",
            "description": "Score with the deployed model.",
            "security": [{"Bearer": []}],
            "responses": {
                "200": _reply(version, "The model's answer.", prefix + "ServiceOutput"),
                "default": _reply(version, "What went wrong.", prefix + "Error"),
            },
        }
        if method == "post":
            operation.update(_body(version, prefix + "ServiceInput", shape.kinds))
        operations[method] = operation
    paths = {"/score": operations}
    info = {"title": title, "version": "1.0"}
    bearer = {
        "type": "apiKey",
        "name": "Authorization",
        "in": "header",
        "description": "Bearer <key or token>",
    }
    if version == "2":
        found: dict[str, Any] = {"swagger": "2.0", "info": info, "schemes": ["https"]}
        found.update({"consumes": list(shape.kinds), "produces": ["application/json"]})
        if base:
            found["basePath"] = base
        found.update({"securityDefinitions": {"Bearer": bearer}, "paths": paths, "definitions": schemas})
        return found
    return {
        "openapi": "3.0.3" if version == "3" else "3.1.0",
        "info": info,
        "servers": [{"url": base or "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"Bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _reply(version: str, text: str, reference: str) -> dict[str, Any]:
    schema = {"$ref": reference}
    if version == "2":
        return {"description": text, "schema": schema}
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _body(version: str, reference: str, kinds: Sequence[str]) -> dict[str, Any]:
    schema = {"$ref": reference}
    if version == "2":
        # Only a form could hold files in Swagger 2.0; a body is told as text.
        return {"parameters": [{"name": "serviceInputPayload", "in": "body", "schema": schema}]}
    return {"requestBody": {"content": {kind: {"schema": schema} for kind in kinds}}}


def custom(folders: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Documents that a user wrote: `swagger<version>.json` beside the code. Raises ValueError for one that is
    no JSON object or is too large."""
    found: dict[str, dict[str, Any]] = {}
    for version in VERSIONS:
        for folder in folders:
            path = os.path.join(folder, f"swagger{version}.json")
            if version in found or not os.path.isfile(path):
                continue
            if os.path.getsize(path) > MOST_CUSTOM:
                raise ValueError(f"{os.path.basename(path)} has more than {MOST_CUSTOM} bytes")
            try:
                with open(path, encoding="utf-8") as file:
                    value = json.load(file)
            except ValueError as error:
                raise ValueError(f"{os.path.basename(path)} is not JSON: {error}") from error
            if not isinstance(value, dict):
                raise ValueError(f"{os.path.basename(path)} must hold a JSON object")
            found[version] = value
    return found
