"""Names, types, ranges and defaults of training parameters and models, read from the two tables beside.

The server checks a job with these functions before it is queued; the trainer applies the same ones to its
spec.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

_TRUE = frozenset({"y", "yes", "t", "true", "on", "1"})
_FALSE = frozenset({"n", "no", "f", "false", "off", "0"})
_EMPTY: Mapping[str, Any] = MappingProxyType({})


class BadParameter(ValueError):
    """A training parameter's value cannot be used; the text names parameter, value and what is allowed."""

    def __init__(self, parameter: str, value: object, allowed: str) -> None:
        super().__init__(f"{parameter}: {value!r} is not allowed; it must be {allowed}")
        self.parameter = parameter
        self.value = value
        self.allowed = allowed


class UnknownTask(ValueError):
    """No such image task in models.toml."""


@dataclass(frozen=True)
class Hyperparameter:
    """One row of hyperparameters.toml, with the defaults of one task."""

    name: str
    rest: str
    trainer: str
    type: str
    source: str
    default: Any = None
    model_defaults: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    rest_choices: tuple[str, ...] = ()
    effect: str = "used"
    note: str = ""
    search: bool = True
    settings: bool = True

    def default_for(self, model: str) -> Any:
        """Default of this parameter for one model."""
        return self.model_defaults.get(model, self.default)

    def allowed(self) -> str:
        """The accepted values, in words."""
        if self.type == "enum":
            return "one of " + ", ".join(self.choices)
        if self.type == "bool":
            return "true or false"
        noun = {"int": "a whole number", "float": "a number", "str": "text"}[self.type]
        if self.minimum is not None and self.maximum is not None:
            return f"{noun} from {self.minimum:g} to {self.maximum:.10g}"
        if self.minimum is not None:
            return f"{noun} of at least {self.minimum:g}"
        return noun


@dataclass(frozen=True)
class PrimaryMetric:
    """One primary metric's name in YAML, on the wire, and as logged."""

    yaml: str
    rest: str
    logged: str


@dataclass(frozen=True)
class ImageTask:
    """One image task's names, primary metrics and default model."""

    name: str
    yaml: str
    rest: str
    default_model: str
    default_primary_metric: str
    primary_metrics: tuple[PrimaryMetric, ...]


@dataclass(frozen=True)
class Model:
    """One row of models.toml. `parameters` in millions, `gmacs` in 10^9 multiply-adds at 224 x 224."""

    name: str
    tasks: tuple[str, ...]
    available: bool
    builder: str
    architecture: str
    family: str
    weights: str
    hub: str
    parameters: float
    gmacs: float
    gradient_clip: str


class FromRest(NamedTuple):
    """What `from_rest` found: known parameters by snake_case name, and everything else as it came."""

    parameters: dict[str, Any]
    unknown: dict[str, Any]


@cache
def _table(name: str) -> Mapping[str, Any]:
    return MappingProxyType(tomllib.loads(Path(__file__).with_name(name).read_text(encoding="utf-8")))


@cache
def tasks() -> Mapping[str, ImageTask]:
    """Every image task by its trainer name, e.g. "image-classification"."""
    found = {}
    for name, row in _table("models.toml")["task"].items():
        metrics = tuple(PrimaryMetric(**metric) for metric in row["primary_metrics"])
        found[name] = ImageTask(
            name, row["yaml"], row["rest"], row["default_model"], row["default_primary_metric"], metrics
        )
    return MappingProxyType(found)


def task(name: str) -> ImageTask:
    """The task of any of its names (YAML, REST or trainer). Raises UnknownTask with the known ones."""
    for known in tasks().values():
        if name in (known.name, known.yaml, known.rest):
            return known
    raise UnknownTask(f"unknown image task {name!r}; known: {', '.join(tasks())}")


def primary_metric(task_name: str, spelling: str) -> PrimaryMetric:
    """The primary metric of any of its spellings in any case. Raises BadParameter with the accepted ones."""
    metrics = task(task_name).primary_metrics
    for metric in metrics:
        if spelling.lower() in (metric.yaml.lower(), metric.rest.lower(), metric.logged.lower()):
            return metric
    raise BadParameter("primary_metric", spelling, "one of " + ", ".join(metric.yaml for metric in metrics))


@cache
def hyperparameters(task_name: str) -> Mapping[str, Hyperparameter]:
    """Every training parameter of a task by snake_case name. Raises UnknownTask."""
    wanted = task(task_name).name
    found = {}
    for name, row in _table("hyperparameters.toml").items():
        if wanted not in row["tasks"]:
            continue
        keep = {key: row[key] for key in Hyperparameter.__dataclass_fields__ if key in row}
        keep |= {key: tuple(keep[key]) for key in ("choices", "rest_choices") if key in keep}
        keep["default"] = row.get("task_default", {}).get(wanted, row.get("default"))
        keep["model_defaults"] = MappingProxyType(row.get("model_default", {}).get(wanted, {}))
        found[name] = Hyperparameter(name=name, **keep)
    return MappingProxyType(found)


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
    if row.type == "bool":
        return _boolean(value)
    if row.type == "enum":
        return _choice(row, value)
    number = _number(value)
    if number is None or (row.type == "int" and not float(number).is_integer()):
        return None
    if (row.minimum is not None and number < row.minimum) or (
        row.maximum is not None and number > row.maximum
    ):
        return None
    return int(number) if row.type == "int" else float(number)


def _boolean(value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip().lower() if isinstance(value, str | int) else ""
    return True if text in _TRUE else False if text in _FALSE else None


def _choice(row: Hyperparameter, value: object) -> str | None:
    if not isinstance(value, str):
        return None
    for yaml, rest in zip(row.choices, row.rest_choices, strict=True):
        if value.strip().lower() in (yaml.lower(), rest.lower()):
            return yaml
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
        elif value is None or (row.type == "enum" and value == "None"):
            continue
        elif row.effect == "refused":
            raise BadParameter(row.name, value, f"left out: {row.note}")
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
        if rows[name].effect == "refused":
            raise BadParameter(name, value, f"left out: {rows[name].note}")
    values["model_name"] = model
    _check_together(values)
    return values


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
    except ValueError as error:
        return {}, f"advanced_settings is ignored: it is not JSON ({error})"
    if not isinstance(value, dict):
        return {}, f"advanced_settings is ignored: it must be a JSON object, not {type(value).__name__}"
    return value, None


@cache
def models(task_name: str) -> Mapping[str, Model]:
    """Every known model of a task by model_name; `available`: can be trained. Raises UnknownTask."""
    wanted = task(task_name).name
    return MappingProxyType(
        {
            name: Model(name=name, **{**row, "tasks": tuple(row["tasks"])})
            for name, row in _table("models.toml")["model"].items()
            if wanted in row["tasks"]
        }
    )


def model(task_name: str, name: str) -> Model:
    """One available model. Raises BadParameter: unknown (with the nearest names) or not there yet."""
    known = models(task_name)
    ready = [row.name for row in known.values() if row.available]
    if name not in known:
        near = nearest(name, known)
        hint = f"one of {', '.join(ready)}" + (f" (did you mean {' or '.join(near)}?)" if near else "")
        raise BadParameter("model_name", name, hint)
    if not known[name].available:
        allowed = (
            f"one of {', '.join(ready)}; {name} is a known model of Azure's that cannot be trained here yet"
        )
        raise BadParameter("model_name", name, allowed)
    return known[name]


def default_model(task_name: str) -> str:
    """The model of a job that names none, as documented by Azure; it need not be available yet."""
    return task(task_name).default_model


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Up to three of `names` that look like `name`, best first, ignoring case."""
    by_lower = {known.lower(): known for known in names}
    return [by_lower[hit] for hit in difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)]
