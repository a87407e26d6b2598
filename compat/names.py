"""Names, types, ranges and defaults of training parameters and models, read from the two tables beside.

The server checks a job with these functions before it is queued; the trainer applies the same ones to its
spec.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

# Users of these tables say names.X for everything; the rows of models and tasks stand in files of their own.
from amlocal.compat import tile_grid
from amlocal.compat.image_tasks import BadParameter as BadParameter
from amlocal.compat.image_tasks import ImageTask as ImageTask
from amlocal.compat.image_tasks import PrimaryMetric as PrimaryMetric
from amlocal.compat.image_tasks import UnknownTask as UnknownTask
from amlocal.compat.image_tasks import nearest as nearest
from amlocal.compat.image_tasks import primary_metric as primary_metric
from amlocal.compat.image_tasks import task as task
from amlocal.compat.image_tasks import tasks as tasks
from amlocal.compat.model_rows import Model as Model
from amlocal.compat.model_rows import default_model as default_model
from amlocal.compat.model_rows import fallback_notice as fallback_notice
from amlocal.compat.model_rows import is_huggingface as is_huggingface
from amlocal.compat.model_rows import model as model
from amlocal.compat.model_rows import models as models
from amlocal.compat.model_rows import restored as restored
from amlocal.compat.parameter_rows import Hyperparameter as Hyperparameter
from amlocal.compat.parameter_rows import hyperparameters as hyperparameters
from amlocal.compat.size_rules import apply_size_rules as apply_size_rules

_TRUE = frozenset({"y", "yes", "t", "true", "on", "1"})
_FALSE = frozenset({"n", "no", "f", "false", "off", "0"})


class FromRest(NamedTuple):
    """What `from_rest` found: known parameters by snake_case name, and everything else as it came."""

    parameters: dict[str, Any]
    unknown: dict[str, Any]


def coerce(task_name: str, name: str, value: object) -> Any:
    """A parameter's value in its own type, by Azure's rules.

    "4.0" is a whole number and "4.2" is not; booleans are y/yes/t/true/on/1 and their opposites in any case;
    enums are taken in YAML or REST spelling in any case. Raises BadParameter, also for an unknown `name`.
    """
    known = hyperparameters(task_name)
    if name not in known:
        near = nearest(name, known)
        hint = f"a known parameter; did you mean {' or '.join(near)}?" if near else "a known parameter"
        raise BadParameter(name, value, hint)
    row = known[name]
    converted = _convert(row, value)
    if converted is None:
        raise BadParameter(name, value, row.allowed())
    return converted


def _convert(row: Hyperparameter, value: object) -> Any:
    if row.type == "str":
        return value if isinstance(value, str) else None
    if row.type == "model":
        return value if isinstance(value, Mapping) and value else None
    if row.type == "grid":
        return _grid(value)
    if row.type == "bool":
        return _boolean(value)
    if row.type == "enum":
        return _choice(row, value)
    number = _number(value)
    if number is None or (row.type == "int" and not float(number).is_integer()):
        return None
    if (
        (row.minimum is not None and number < row.minimum)
        or (row.maximum is not None and number > row.maximum)
        or (row.below is not None and number >= row.below)
    ):
        return None
    return int(number) if row.type == "int" else float(number)


def _boolean(value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return bool(value) if value in (0, 1) else None
    text = value.strip().lower() if isinstance(value, str) else ""
    return True if text in _TRUE else False if text in _FALSE else None


def _choice(row: Hyperparameter, value: object) -> str | None:
    if not isinstance(value, str):
        return None
    wanted = value.strip().lower()
    for yaml, rest in zip(row.choices, row.rest_choices, strict=True):
        if wanted in (yaml.lower(), rest.lower()):
            return yaml
    return row.aliases.get(wanted)


def _grid(value: object) -> str | None:
    try:
        return tile_grid.text(*tile_grid.parse(value)) if isinstance(value, str) else None
    except ValueError:
        return None


_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")


def _number(value: object) -> float | int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        text = value.strip()
        if len(text) > 64 or not _NUMBER.fullmatch(text):
            return None
        value = int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    try:
        return value if math.isfinite(value) else None
    except OverflowError:
        return None


def from_rest(task_name: str, model_settings: Mapping[str, Any]) -> FromRest:
    """A job's `modelSettings` as snake_case parameters in their own types.

    Null, and "None" for an enum, mean "not given". Keys that the task does not have come back in `unknown` as
    they were (the SDK itself sends keys that the REST model lacks, so they are never an error). Raises
    BadParameter.
    """
    by_rest = {row.rest: row for row in hyperparameters(task_name).values() if row.settings}
    parameters: dict[str, Any] = {}
    unknown: dict[str, Any] = {}
    for key, value in model_settings.items():
        row = by_rest.get(key)
        if row is None:
            unknown[key] = value
        elif not row.given(value):
            continue
        else:
            parameters[row.name] = coerce(task_name, row.name, value)
    return FromRest(parameters, unknown)


def effective(task_name: str, model: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter of a trial: the given values (coerced), the model's defaults for the rest.

    Raises BadParameter also for values that exclude each other.
    """
    rows = hyperparameters(task_name)
    values = {name: row.default_for(model) for name, row in rows.items()}
    for name, value in given.items():
        if value is None:
            continue
        values[name] = coerce(task_name, name, value)
    values["model_name"] = model
    _check_together(values)
    return values


def without_effect(task_name: str, model: str, given: Iterable[str]) -> list[str]:
    """A sentence for each given parameter that changes nothing for this model, and why."""
    rows = hyperparameters(task_name)
    notes = [(name, rows[name].note_for(model)) for name in given if name in rows]
    return [f"{name} has no effect here: {note}" for name, note in notes if note]


def _check_together(values: Mapping[str, Any]) -> None:
    if values["optimizer"] == "sgd" and values["nesterov"] and values["momentum"] == 0:
        raise BadParameter("nesterov", True, "false when optimizer is sgd and momentum is 0")
    for name in ("beta1", "beta2"):
        if values["optimizer"] != "sgd" and values[name] >= 1:
            raise BadParameter(name, values[name], f"less than 1 when optimizer is {values['optimizer']}")


def advanced_settings(text: str | None) -> tuple[dict[str, Any], str | None]:
    """The JSON object in `advanced_settings`, and a warning where it is none (Azure ignores it then)."""
    if text is None or not text.strip():
        return {}, None
    try:
        value = json.loads(text)
    except RecursionError:
        return {}, "advanced_settings is ignored: it is nested too deeply"
    except ValueError as error:
        return {}, f"advanced_settings is ignored: it is not JSON ({error})"
    if not isinstance(value, dict):
        return {}, f"advanced_settings is ignored: it must be a JSON object, not {type(value).__name__}"
    return value, None
