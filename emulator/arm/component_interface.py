"""The inputs and outputs that a component declares: names, types, limits and defaults that fit together."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from amlocal.emulator.http.errors import AzureError, bad_request, not_there_yet
from amlocal.emulator.jobs.fields import shown

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_LITERALS = ("string", "number", "integer", "boolean")
_ASSETS = ("uri_file", "uri_folder", "mltable", "custom_model", "mlflow_model", "triton_model")
_WHOLE = re.compile(r"[+-]?\d{1,300}")
_MOST = 1000


def inputs(spec: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The declared inputs by name, checked. Raises AzureError 400 naming the field."""
    found = _rows(spec, "inputs")
    for name, row in found.items():
        where = f"componentSpec.inputs.{name}"
        kind = row.get("type")
        if kind not in (*_LITERALS, *_ASSETS):
            raise _wrong(f"{where}.type", f"is {shown(kind)}; use {', '.join((*_LITERALS, *_ASSETS))}.")
        if not isinstance(row.get("optional", False), bool) and row["optional"] not in ("true", "false"):
            raise _wrong(f"{where}.optional", f"is {shown(row['optional'])}; use true or false.")
        if kind in _ASSETS:
            if row.get("default") is not None:
                raise _wrong(f"{where}.default", f"is given, but an input of type {kind} can have none.")
            continue
        _check_literal(row, where)
    return found


def outputs(spec: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The declared outputs by name, checked. Raises AzureError 400 naming the field."""
    found = _rows(spec, "outputs")
    for name, row in found.items():
        kind = row.get("type")
        if kind in _LITERALS:
            raise not_there_yet(f"A component's output of type {kind}")
        if kind not in _ASSETS:
            raise _wrong(f"componentSpec.outputs.{name}.type", f"is {shown(kind)}; use {', '.join(_ASSETS)}.")
    return found


def _rows(spec: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    rows = spec.get(key)
    if rows is None:
        return {}
    if not isinstance(rows, dict) or len(rows) > _MOST:
        raise _wrong(f"componentSpec.{key}", f"must be an object of at most {_MOST} names.")
    for name, row in rows.items():
        if not _NAME.fullmatch(name):
            raise _wrong(
                f"componentSpec.{key}",
                f"has {shown(name)}; a name is letters, digits and '_', not beginning with a digit.",
            )
        if not isinstance(row, dict):
            raise _wrong(f"componentSpec.{key}.{name}", f"must be an object, not {shown(row)}.")
    return rows


def _check_literal(row: Mapping[str, Any], where: str) -> None:
    kind, default, choices = row["type"], row.get("default"), row.get("enum")
    limits = [_value(kind, row.get(key), f"{where}.{key}") for key in ("min", "max")]
    if choices is not None and (not isinstance(choices, list) or not choices):
        raise _wrong(f"{where}.enum", "must be a list of values.")
    for choice in choices or ():
        _value(kind, choice, f"{where}.enum")
    value = _value(kind, default, f"{where}.default")
    if value is None:
        return
    if choices and str(default) not in [str(choice) for choice in choices]:
        raise _wrong(f"{where}.default", f"is {shown(default)}, which is not in enum.")
    low, high = limits
    if kind in ("number", "integer") and (
        (low is not None and value < low) or (high is not None and value > high)
    ):
        raise _wrong(f"{where}.default", f"is {shown(default)}, which is outside of min and max.")


def _value(kind: str, value: Any, where: str) -> Any:
    """A literal in its own type; None for none. azure-ai-ml writes numbers as texts."""
    if value is None or kind == "string":
        if value is not None and not isinstance(value, str | int | float):
            raise _wrong(where, f"is {shown(value)}; it must be a text.")
        return value
    text = str(value) if isinstance(value, str | int | float) else ""
    if kind == "boolean":
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
    elif kind == "integer":
        if not isinstance(value, bool) and _WHOLE.fullmatch(text):
            return int(text)
    elif not isinstance(value, bool):
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
    noun = {"boolean": "true or false", "integer": "a whole number", "number": "a number"}[kind]
    raise _wrong(where, f"is {shown(value)}; it must be {noun}.")


def _wrong(where: str, what: str) -> AzureError:
    return bad_request("InvalidComponent", f"{where} {what}", target=where)
