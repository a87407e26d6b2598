"""Requests of MLflow's clients to the model registry, read and checked, and refusals in MLflow's words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from flask import Response, jsonify, request

from amlocal.emulator.history import mlflow_views
from amlocal.emulator.http.errors import AzureError

_CODES = {
    400: "INVALID_PARAMETER_VALUE",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    409: "RESOURCE_CONFLICT",
    501: "NOT_IMPLEMENTED",
    503: "TEMPORARILY_UNAVAILABLE",
}
_LISTS = frozenset({"order_by", "stages"})
_TAG = re.compile(r"[/\w.\- :]{1,250}\Z")
_LONGEST_TAG = 100_000
_LONGEST_TEXT = 10_000

Fields = Mapping[str, Any]


class RegistryError(Exception):
    """A refusal in MLflow's words: `status`, MLflow's `code`, a message."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


def refusal(status: int, code: str | None, error: AzureError) -> Response:
    """A refusal that MLflow's clients and Azure's both read; `code` None: MLflow's for the status."""
    code = code or _CODES.get(status, "INTERNAL_ERROR")
    response = jsonify({"error_code": code, "message": error.message, **error.body()})
    response.status_code = status
    response.headers.update(error.headers)
    return response


def fields(body: bytes) -> dict[str, Any]:
    """The request's fields: of the query, or of the JSON body; names in snake_case."""
    if request.args and request.method in ("GET", "HEAD"):
        return {
            key: values if key in _LISTS else values[0]
            for key, values in request.args.to_dict(flat=False).items()
        }
    value = json.loads(body) if body else {}
    value = json.loads(value) if isinstance(value, str) else value
    if not isinstance(value, dict):
        raise RegistryError("INVALID_PARAMETER_VALUE", "The body must be a JSON object.")
    return {
        re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", key): inner for key, inner in value.items()
    }


def text(fields: Fields, name: str) -> str:
    """A field that must be a text with something in it. Raises RegistryError."""
    value = fields.get(name)
    if name == "version" and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise RegistryError("INVALID_PARAMETER_VALUE", f"Missing value for required parameter '{name}'.")
    return value


def optional(fields: Fields, name: str) -> str | None:
    """A field that is a text or absent. Raises RegistryError."""
    value = fields.get(name)
    if value is not None and (not isinstance(value, str) or len(value) > _LONGEST_TEXT):
        raise RegistryError(
            "INVALID_PARAMETER_VALUE", f"'{name}' must be a text of at most {_LONGEST_TEXT} characters."
        )
    return value


def tag(fields: Fields) -> tuple[str, str]:
    """The fields `key` and `value`. Raises RegistryError."""
    key, value = text(fields, "key"), fields.get("value", "")
    if not _TAG.match(key) or not isinstance(value, str) or len(value) > _LONGEST_TAG:
        raise RegistryError(
            "INVALID_PARAMETER_VALUE",
            f"Invalid tag {key[:100]!r}: a name has at most 250 letters, digits and '_-. :/', a value "
            f"is a text of at most {_LONGEST_TAG} characters.",
        )
    return key, value


def tags(fields: Fields) -> dict[str, str]:
    """The field `tags` as a mapping. Raises RegistryError."""
    given = fields.get("tags") or []
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise RegistryError("INVALID_PARAMETER_VALUE", "'tags' must be a list of objects with key and value.")
    return dict(tag(one) for one in given)


def stage(text: Any) -> str:
    """One of MLflow's stages, whatever its case. Raises RegistryError."""
    for known in mlflow_views.STAGES:
        if known.lower() == str(text).lower():
            return known
    raise RegistryError(
        "INVALID_PARAMETER_VALUE", f"Invalid stage {str(text)[:60]!r}: use {', '.join(mlflow_views.STAGES)}."
    )


def orders(fields: Fields, default: list[str]) -> list[str]:
    """The orders asked for, and after them what makes the order whole."""
    given = fields.get("order_by") or []
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise RegistryError("INVALID_PARAMETER_VALUE", "'order_by' must be a list of texts.")
    named = {(one.replace("`", "").split() or [""])[0].rpartition(".")[2] for one in given}
    return [*given, *(one for one in default if one.split()[0] not in named)]


def page(items: list[Any], fields: Fields, default: int, most: int) -> tuple[list[Any], dict[str, str]]:
    """The page asked for, and the token of the next if there is one. Raises RegistryError."""
    size, token = str(fields.get("max_results") or default), str(fields.get("page_token") or "0")
    if not size.isdecimal() or not 1 <= int(size[:9]) <= most or len(size) > 9:
        raise RegistryError("INVALID_PARAMETER_VALUE", f"max_results must be from 1 to {most}.")
    if not token.isdecimal() or len(token) > 9:
        raise RegistryError("INVALID_PARAMETER_VALUE", "page_token is none that this server gave.")
    start, end = int(token), int(token) + int(size)
    return items[start:end], {"next_page_token": str(end)} if end < len(items) else {}
