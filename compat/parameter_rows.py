"""The rows of hyperparameters.toml: what a training parameter is called, takes, and changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any

from amlocal.compat import tile_grid
from amlocal.compat.image_tasks import table, task
from amlocal.compat.model_rows import HUGGINGFACE, MMDETECTION, builder_of

_EMPTY: Mapping[str, Any] = MappingProxyType({})
# What a whole number of Azure's REST model (int32) can be at most.
_INT32 = 2**31 - 1
_TUPLES = ("choices", "rest_choices", "except_models", "only_models")


@dataclass(frozen=True)
class Hyperparameter:
    """One row of hyperparameters.toml, with the defaults of one task.

    `below` takes the place of `maximum` where the bound itself is not allowed. `except_models` do not use the
    parameter; where `only_models` is not empty, all others do not.
    """

    name: str
    rest: str
    trainer: str
    type: str
    source: str
    default: Any = None
    model_defaults: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)
    minimum: float | None = None
    maximum: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    rest_choices: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    except_models: tuple[str, ...] = ()
    only_models: tuple[str, ...] = ()
    effect: str = "used"
    note: str = ""
    search: bool = True
    settings: bool = True

    def default_for(self, model: str) -> Any:
        """Default of this parameter for one model."""
        if model in self.model_defaults:
            return self.model_defaults[model]
        builder = builder_of(model)
        # A name outside the table is one of the two that its task knows.
        for kind in (HUGGINGFACE, MMDETECTION) if builder is None else (builder,):
            if kind in self.model_defaults:
                return self.model_defaults[kind]
        return self.default

    def note_for(self, model: str) -> str:
        """Why the parameter changes nothing for this model; "" where it is used."""
        if self.effect == "ignored":
            return self.note
        if self.only_models and model not in self.only_models:
            return f"it is for {' and '.join(self.only_models)} only"
        if model in self.except_models:
            return f"{model} does not use it"
        return ""

    def given(self, value: object) -> bool:
        """Whether a value of the wire says anything: null, and "None" for an enum without such a choice, do
        not."""
        none = self.type == "enum" and value == "None" and "None" not in self.rest_choices
        return value is not None and not none

    def allowed(self) -> str:
        """The accepted values, in words."""
        if self.type == "enum":
            return "one of " + ", ".join(self.choices)
        if self.type == "bool":
            return "true or false"
        if self.type == "model":
            return 'a model: {"jobInputType": "mlflow_model", "uri": "azureml:NAME:VERSION"}'
        if self.type == "grid":
            return tile_grid.ALLOWED
        noun = {"int": "a whole number", "float": "a number", "str": "text"}[self.type]
        if self.below is not None:
            return f"{noun} of at least {self.minimum or 0:g} and less than {self.below:g}"
        if self.minimum is not None and self.maximum is not None:
            return f"{noun} from {self.minimum:g} to {self.maximum:.10g}"
        if self.minimum is not None:
            return f"{noun} of at least {self.minimum:g}"
        return noun


@cache
def hyperparameters(task_name: str) -> Mapping[str, Hyperparameter]:
    """Every training parameter of a task by snake_case name. Raises UnknownTask."""
    wanted = task(task_name).name
    found = {}
    for name, row in table("hyperparameters.toml").items():
        if wanted not in row.get("tasks", (wanted,)):
            continue
        keep = {key: row[key] for key in Hyperparameter.__dataclass_fields__ if key in row}
        keep |= {key: tuple(keep[key]) for key in _TUPLES if key in keep}
        if "aliases" in keep:
            keep["aliases"] = MappingProxyType(keep["aliases"])
        keep["default"] = row.get("task_default", {}).get(wanted, row.get("default"))
        if row["type"] == "int":
            keep.setdefault("maximum", _INT32)
        keep["model_defaults"] = MappingProxyType(row.get("model_default", {}).get(wanted, {}))
        if wanted in row.get("ignored_by", ()):
            keep |= {"effect": "ignored", "note": row["ignored_by"][wanted]}
        found[name] = Hyperparameter(name=name, **keep)
    return MappingProxyType(found)
