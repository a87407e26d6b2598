"""The OpenAPI documents of scorers: of their versions' form, and true to what models take."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import jsonschema
import pytest

COLUMNS = [
    {"type": "long", "name": "age", "required": True},
    {"type": "string", "name": "town", "required": False},
]


@pytest.fixture
def swagger(host_module: Callable[[str], ModuleType]) -> Any:
    return host_module("scorer_swagger")


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def check(document: dict[str, Any], version: str) -> None:
    """The parts that every tool reads."""
    if version == "2":
        assert document["swagger"] == "2.0" and "openapi" not in document
        assert document["securityDefinitions"]["Bearer"]["type"] == "apiKey"
        schemas = document["definitions"]
    else:
        assert document["openapi"] == {"3": "3.0.3", "3.1": "3.1.0"}[version] and "swagger" not in document
        schemas = document["components"]["schemas"]
    assert document["info"] == {"title": "e/blue", "version": "1.0"}
    for reference in references(document):
        place = document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
    for schema in schemas.values():
        jsonschema.Draft4Validator.check_schema({k: v for k, v in schema.items() if k != "oneOf"})
    seen = set()
    for operation in document["paths"]["/score"].values():
        seen.add(operation["operationId"])
        assert all("description" in answer for answer in operation["responses"].values())
        assert ("requestBody" in operation) <= (version != "2")
    assert len(seen) == len(document["paths"]["/score"])


@pytest.mark.parametrize("version", ["2", "3", "3.1"])
def test_documents_hold_together(swagger: Any, version: str) -> None:
    for shape in (
        swagger.FREE,
        swagger.RAW,
        swagger.table_shape(COLUMNS, swagger.answer_rows(COLUMNS)),
        swagger.table_shape(COLUMNS, swagger.answer_rows([{"type": "tensor"}])),
    ):
        document = swagger.document(version, shape, title="e/blue", base="/w/e")
        check(json.loads(json.dumps(document)), version)
        if version == "2":
            assert document["basePath"] == "/w/e"
        else:
            assert document["servers"] == [{"url": "/w/e"}]
    assert set(swagger.document(version, swagger.RAW, title="", base="")["paths"]["/score"]) == {
        "get",
        "post",
    }


@pytest.mark.parametrize(
    ("request_body", "right"),
    [
        ({"input_data": {"columns": ["age", "town"], "index": [0], "data": [[1, "x"]]}}, True),
        ({"input_data": [{"age": 1, "town": "x"}]}, True),
        ({"input_data": [{"age": 1}]}, True),
        ({"input_data": [{"town": "x"}]}, False),
        ({"input_data": [{"age": "old"}]}, False),
        ({"input_data": {"columns": ["weight"], "data": [[1, 2]]}}, False),
        ({"input_data": {"columns": ["age", "town"], "data": [[1]]}}, False),
        ({"data": []}, False),
    ],
)
def test_what_a_table_model_takes(swagger: Any, request_body: Any, right: bool) -> None:
    shape = swagger.table_shape(COLUMNS, {})
    document = swagger.document("3.1", shape, title="", base="")
    schema = {"$ref": "#/components/schemas/ServiceInput", "components": document["components"]}
    assert jsonschema.Draft202012Validator(schema).is_valid(request_body) is right


def test_answers_of_image_models(swagger: Any) -> None:
    names = [{"type": "string", "name": name} for name in ("probs", "labels")]
    schema = swagger.answer_rows(names)
    validator = jsonschema.Draft4Validator(schema)
    assert validator.is_valid([{"probs": [0.1, 0.9], "labels": ["a", "b"]}])
    assert not validator.is_valid([{"probs": ["0.1"], "labels": ["a"]}])
    boxes = jsonschema.Draft4Validator(swagger.answer_rows([{"type": "string", "name": "boxes"}]))
    box = {"topX": 0.1, "topY": 0, "bottomX": 1, "bottomY": 1}
    assert boxes.is_valid([{"boxes": [{"box": box, "label": "can", "score": 0.9, "polygon": [[0.1, 0.2]]}]}])
    assert not boxes.is_valid([{"boxes": [{"label": "can"}]}])
