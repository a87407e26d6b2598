"""Image tasks and their primary metrics, read from models.toml; what every table reader shares."""

from __future__ import annotations

import difflib
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

_SHOWN = 120


class BadParameter(ValueError):
    """A training parameter's value cannot be used; the text names parameter, value and what is allowed."""

    def __init__(self, parameter: str, value: object, allowed: str) -> None:
        super().__init__(f"{parameter}: {_shown(value)} is not allowed; it must be {allowed}")
        self.parameter = parameter
        self.value = value
        self.allowed = allowed


class UnknownTask(ValueError):
    """No such image task in models.toml."""


@dataclass(frozen=True)
class PrimaryMetric:
    """One primary metric's name in YAML, on the wire, and as logged."""

    yaml: str
    rest: str
    logged: str


@dataclass(frozen=True)
class ImageTask:
    """One image task's names, primary metrics and default model.

    `fallback_model` is trained where the default's software is not installed.
    """

    name: str
    yaml: str
    rest: str
    default_model: str
    default_primary_metric: str
    primary_metrics: tuple[PrimaryMetric, ...]
    fallback_model: str = ""


@cache
def table(name: str) -> Mapping[str, Any]:
    """One of the tables beside this file, e.g. "models.toml"."""
    return MappingProxyType(tomllib.loads(Path(__file__).with_name(name).read_text(encoding="utf-8")))


@cache
def tasks() -> Mapping[str, ImageTask]:
    """Every image task by its trainer name, e.g. "image-classification"."""
    found = {}
    for name, row in table("models.toml")["task"].items():
        metrics = tuple(PrimaryMetric(**metric) for metric in row["primary_metrics"])
        found[name] = ImageTask(
            name,
            row["yaml"],
            row["rest"],
            row["default_model"],
            row["default_primary_metric"],
            metrics,
            row.get("fallback_model", ""),
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


def _shown(value: object) -> str:
    """A value for a message: quoted and short; a number that is too long to be written is not."""
    try:
        text = repr(value)
    except ValueError:
        return f"a number of more than {sys.get_int_max_str_digits()} digits"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Up to three of `names` that look like `name`, best first, ignoring case."""
    by_lower = {known.lower(): known for known in names}
    return [by_lower[hit] for hit in difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)]
