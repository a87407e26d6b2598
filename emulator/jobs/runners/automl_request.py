"""The definition of an AutoML image job: read, checked, and typed.

Source: the REST body that azure-ai-ml sends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from amlocal.compat import names
from amlocal.emulator.http.errors import not_there_yet, user_error
from amlocal.emulator.jobs import fields
from amlocal.emulator.jobs.fields import shown
from amlocal.emulator.jobs.runners import automl_limits, automl_parameters, automl_space

TASKS = tuple(names.tasks())
"""The tasks that are there, by their trainers' names."""
OTHER_TASK_TYPES = (
    "Classification",
    "Regression",
    "Forecasting",
    "TextClassification",
    "TextClassificationMultilabel",
    "TextNER",
)
MAXIMUM_NODES = 1000
VERBOSITIES = ("NotSet", "Debug", "Info", "Warning", "Error", "Critical")
_DETAILS = "taskDetails"
_SETTINGS = "taskDetails.modelSettings"
_DETAIL_KEYS = frozenset(
    {
        "taskType",
        "logVerbosity",
        "primaryMetric",
        "targetColumnName",
        "trainingData",
        "validationData",
        "validationDataSize",
        "limitSettings",
        "modelSettings",
        "searchSpace",
        "sweepSettings",
    }
)


@dataclass(frozen=True)
class ImageJob:
    """What a user asked for. `parameters` are only those given; `ignored` are keys without a meaning here.

    `task` is the trainers' name of the task. `model_given` is False where the model is the task's default;
    `nodes` is how many nodes one trial has, by what `nodes_field` says. `sample` is what a trial has drawn
    from the search space; it stands among `parameters`. `max_concurrent` is at most `max_trials`.
    """

    task: str
    metric: names.PrimaryMetric
    label_column: str
    training_uri: str
    validation_uri: str | None
    validation_data_size: float | None
    timeout: float
    max_trials: int
    max_concurrent: int
    nodes: int
    nodes_field: str
    log_verbosity: str
    model: str
    model_given: bool
    parameters: Mapping[str, Any]
    advanced: Mapping[str, Any]
    checkpoint_run_id: str | None
    checkpoint_model: str | None
    ignored: tuple[str, ...]
    notices: tuple[str, ...]
    search: automl_space.Search
    sample: Mapping[str, Any] | None = None

    @property
    def pretrained(self) -> bool:
        return self.advanced.get("pretrained", True) is True

    @property
    def automode(self) -> bool:
        """Whether amlocal plans the trials: there are several, and nothing says how to search for them."""
        return self.max_trials > 1 and self.search.space is None and not self.search.settled

    @property
    def fallback(self) -> str:
        """Why the model is not the one that Azure takes by default; "" where it is, or was named."""
        named = self.model_given or self.checkpoint_run_id is not None or self.checkpoint_model is not None
        return "" if named else names.fallback_notice(self.task)

    @property
    def distributed(self) -> bool:
        return bool(self.parameters.get("distributed", True))


def read(properties: Mapping[str, Any]) -> ImageJob:
    """The job that the ARM `properties` define. Raises AzureError naming field and remedy."""
    details = fields.mapping(properties, _DETAILS, _DETAILS)
    task = _task(details)
    limits = automl_limits.read(details)
    size = fields.fraction(
        details, "validationDataSize", "validation_data_size", f"{_DETAILS}.validationDataSize"
    )
    training = _data(details, "trainingData", "training_data")
    if training is None:
        raise user_error(
            "training_data is missing; give an Input of type mltable.", target=f"{_DETAILS}.trainingData"
        )
    validation = _data(details, "validationData", "validation_data")
    if validation is not None and size is not None:
        raise user_error(
            "validation_data and validation_data_size are both given; leave one of them out.",
            target=f"{_DETAILS}.validationDataSize",
        )
    column = fields.text(details, "targetColumnName", f"{_DETAILS}.targetColumnName", limit=256)
    if column is None:
        raise user_error(
            "target_column_name is missing; name the column of the labels, for example label.",
            target=f"{_DETAILS}.targetColumnName",
        )
    parameters = automl_parameters.read(task, details)
    search = automl_space.read(task, details)
    nodes, nodes_field = _nodes(properties)
    unknown = [key for key, value in details.items() if key not in _DETAIL_KEYS and value is not None]
    return ImageJob(
        task=task,
        metric=_metric(task, details),
        label_column=column,
        training_uri=training,
        validation_uri=validation,
        validation_data_size=size,
        timeout=limits.timeout,
        max_trials=limits.trials,
        max_concurrent=limits.concurrent,
        nodes=nodes,
        nodes_field=nodes_field,
        log_verbosity=_verbosity(details),
        model=parameters.model or names.default_model(task),
        model_given=parameters.model is not None,
        parameters=parameters.given,
        advanced=parameters.advanced,
        checkpoint_run_id=parameters.checkpoint_run_id,
        checkpoint_model=parameters.checkpoint_model,
        ignored=(*parameters.ignored, *search.ignored, *limits.ignored, *unknown),
        notices=parameters.notices,
        search=search,
    )


def _task(details: Mapping[str, Any]) -> str:
    """The trainers' name of the task. Raises AzureError for one that is unknown or not there yet."""
    given = fields.text(details, "taskType", f"{_DETAILS}.taskType")
    ready = {names.task(name).rest: name for name in TASKS}
    known = {name.lower(): name for name in (*ready, *OTHER_TASK_TYPES)}
    task = known.get((given or "").lower())
    if task is None:
        near = names.nearest(given or "", known.values())
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise user_error(
            f"taskType is {shown(given)}; it must be one of {', '.join(known.values())}.{hint}",
            target=f"{_DETAILS}.taskType",
        )
    if task not in ready:
        error = not_there_yet(f"The AutoML task {task}")
        error.target = f"{_DETAILS}.taskType"
        raise error
    return ready[task]


def _metric(task: str, details: Mapping[str, Any]) -> names.PrimaryMetric:
    target = f"{_DETAILS}.primaryMetric"
    given = fields.text(details, "primaryMetric", target)
    row = names.task(task)
    try:
        return names.primary_metric(task, given or row.default_primary_metric)
    except names.BadParameter as error:
        near = names.nearest(given or "", [metric.yaml for metric in row.primary_metrics])
        hint = f". Did you mean {' or '.join(near)}?" if near else "."
        raise user_error(f"{error}{hint}", target=target) from error


def _verbosity(details: Mapping[str, Any]) -> str:
    """The level of the trial's log in REST's spelling; YAML's (not_set) is taken as well."""
    target = f"{_DETAILS}.logVerbosity"
    given = fields.text(details, "logVerbosity", target) or "Info"
    for known in VERBOSITIES:
        if given.replace("_", "").lower() == known.lower():
            return known
    allowed = "not_set, debug, info, warning, error, critical"
    raise user_error(f"log_verbosity is {shown(given)}; it must be one of {allowed}.", target=target)


def _nodes(properties: Mapping[str, Any]) -> tuple[int, str]:
    """How many nodes one trial has, and the field that says so: the property node_count_per_trial (a number
    or its text), else resources.instance_count; 1 without."""
    name = "node_count_per_trial"
    given = fields.mapping(properties, "properties", "properties").get(name)
    if given is not None:
        target = f"properties.{name}"
        text = given.strip() if isinstance(given, str) else ""
        number = int(text) if re.fullmatch(r"0{0,9}[1-9][0-9]{0,3}", text) else given
        found = fields.whole({name: number}, name, target, target, maximum=MAXIMUM_NODES)
        return found or 1, target
    resources = fields.mapping(properties, "resources", "resources")
    # azure-ai-ml sends a `resources` that was given as a dictionary as it is, in snake_case.
    key = "instanceCount" if resources.get("instanceCount") is not None else "instance_count"
    field = "resources.instance_count"
    found = fields.whole(resources, key, field, "resources.instanceCount", maximum=MAXIMUM_NODES)
    return found or 1, field


def _data(details: Mapping[str, Any], key: str, name: str) -> str | None:
    place = f"{_DETAILS}.{key}"
    value = fields.mapping(details, key, place)
    if not value:
        return None
    kind = fields.text(value, "jobInputType", f"{place}.jobInputType")
    if (kind or "").lower() != "mltable":
        raise user_error(
            f"{name} has the type {shown(kind)}; it must be mltable: a folder with a file MLTable in it.",
            target=f"{place}.jobInputType",
        )
    uri = fields.text(value, "uri", f"{place}.uri", limit=4096)
    if uri is None:
        raise user_error(f"{name} has no path; give the folder that holds MLTable.", target=f"{place}.uri")
    return uri
