"""The definition of an AutoML image classification job: read, checked, and typed.

Sources: the REST body that azure-ai-ml sends, and the limits in "Set up AutoML to train computer vision
models".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amlocal.compat import names, weights
from amlocal.emulator.http.errors import AzureError, not_there_yet, user_error
from amlocal.emulator.jobs import fields
from amlocal.emulator.jobs.fields import shown

TASK = "image-classification"
TASK_TYPE = "ImageClassification"
OTHER_TASK_TYPES = (
    "ImageClassificationMultilabel",
    "ImageObjectDetection",
    "ImageInstanceSegmentation",
    "Classification",
    "Regression",
    "Forecasting",
    "TextClassification",
    "TextClassificationMultilabel",
    "TextNER",
)
DAY = 86400.0
DEFAULT_TIMEOUT = 7 * DAY
MAXIMUM_TIMEOUT = 60 * DAY
MAXIMUM_TRIALS = 1000
MAXIMUM_CONCURRENT = 100
_DETAILS = "taskDetails"
_SETTINGS = "taskDetails.modelSettings"


@dataclass(frozen=True)
class ImageJob:
    """What a user asked for. `parameters` are only those given; `ignored` are keys without a meaning here."""

    metric: names.PrimaryMetric
    label_column: str
    training_uri: str
    validation_uri: str | None
    validation_data_size: float | None
    timeout: float
    model: str
    parameters: Mapping[str, Any]
    advanced: Mapping[str, Any]
    ignored: tuple[str, ...]
    notices: tuple[str, ...]

    @property
    def pretrained(self) -> bool:
        return self.advanced.get("pretrained", True) is True


def read(properties: Mapping[str, Any]) -> ImageJob:
    """The job that the ARM `properties` define. Raises AzureError naming field and remedy."""
    details = fields.mapping(properties, _DETAILS, _DETAILS)
    _check_task(details)
    timeout = _limits(details)
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
    model, parameters, unknown = _parameters(details)
    advanced, warning = names.advanced_settings(parameters.pop("advanced_settings", None))
    _check_pretrained(advanced)
    return ImageJob(
        metric=_metric(details),
        label_column=column,
        training_uri=training,
        validation_uri=validation,
        validation_data_size=size,
        timeout=timeout,
        model=model,
        parameters=parameters,
        advanced=advanced,
        ignored=tuple(unknown),
        notices=(warning,) if warning else (),
    )


def check_weights(job: ImageJob, weights_dir: Path, missing: str) -> None:
    """Raises AzureError when the model's pretrained weights are needed and not on this machine."""
    if job.pretrained and missing == "error" and weights.find(job.model, weights_dir) is None:
        text = weights.where_to_put(job.model, weights_dir)
        raise user_error(f"{text[0].upper()}{text[1:]}.", target=f"{_SETTINGS}.modelName")


def _check_task(details: Mapping[str, Any]) -> None:
    given = fields.text(details, "taskType", f"{_DETAILS}.taskType")
    known = {name.lower(): name for name in (TASK_TYPE, *OTHER_TASK_TYPES)}
    task = known.get((given or "").lower())
    if task is None:
        near = names.nearest(given or "", known.values())
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise user_error(
            f"taskType is {shown(given)}; it must be one of {', '.join(known.values())}.{hint}",
            target=f"{_DETAILS}.taskType",
        )
    if task != TASK_TYPE:
        raise not_there_yet(f"The AutoML task {task}")


def _metric(details: Mapping[str, Any]) -> names.PrimaryMetric:
    target = f"{_DETAILS}.primaryMetric"
    given = fields.text(details, "primaryMetric", target)
    task = names.task(TASK)
    try:
        return names.primary_metric(TASK, given or task.default_primary_metric)
    except names.BadParameter as error:
        near = names.nearest(given or "", [metric.yaml for metric in task.primary_metrics])
        hint = f". Did you mean {' or '.join(near)}?" if near else "."
        raise user_error(f"{error}{hint}", target=target) from error


def _limits(details: Mapping[str, Any]) -> float:
    place = f"{_DETAILS}.limitSettings"
    limits = fields.mapping(details, "limitSettings", place)
    trials = fields.whole(
        limits, "maxTrials", "limits.max_trials", f"{place}.maxTrials", maximum=MAXIMUM_TRIALS
    )
    fields.whole(
        limits,
        "maxConcurrentTrials",
        "limits.max_concurrent_trials",
        f"{place}.maxConcurrentTrials",
        maximum=MAXIMUM_CONCURRENT,
    )
    timeout = DEFAULT_TIMEOUT
    if limits.get("timeout") is not None:
        timeout = fields.duration(
            limits["timeout"], "limits.timeout_minutes", f"{place}.timeout", maximum=MAXIMUM_TIMEOUT
        )
    sweep = fields.mapping(details, "sweepSettings", f"{_DETAILS}.sweepSettings")
    if (trials or 1) > 1 or details.get("searchSpace") or sweep:
        raise AzureError(
            501,
            "NotImplemented",
            "Sweeps of AutoML jobs (max_trials above 1, search_space, sweep) are not there yet in amlocal. "
            "Leave them out and set fixed values by set_training_parameters(...).",
            target=f"{place}.maxTrials" if (trials or 1) > 1 else f"{_DETAILS}.searchSpace",
        )
    return timeout


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


def _parameters(details: Mapping[str, Any]) -> tuple[str, dict[str, Any], list[str]]:
    """Model name, given parameters by snake_case name, and keys that mean nothing to this task."""
    settings = fields.mapping(details, "modelSettings", _SETTINGS)
    try:
        parameters, unknown = names.from_rest(TASK, settings)
        model = _model(parameters)
        names.effective(TASK, model, {k: v for k, v in parameters.items() if k != "model_name"})
    except names.BadParameter as error:
        row = names.hyperparameters(TASK).get(error.parameter)
        rest = row.rest if row else error.parameter
        raise user_error(f"training_parameters.{error}.", target=f"{_SETTINGS}.{rest}") from error
    return model, parameters, [key for key, value in unknown.items() if value is not None]


def _model(parameters: Mapping[str, Any]) -> str:
    """The model to train. Raises BadParameter for an unknown name, AzureError for one not there yet."""
    given = parameters.get("model_name")
    known = names.models(TASK)
    ready = ", ".join(row.name for row in known.values() if row.available)
    name = given or names.default_model(TASK)
    if given is not None and "/" in given and given not in known:
        raise not_there_yet(f"Training the Hugging Face model {shown(given)}")
    if name in known and not known[name].available:
        what = f"The model {name}" if given else f"The default model of {TASK_TYPE}, {name},"
        raise AzureError(
            501,
            "NotImplemented",
            f"{what} is not there yet in amlocal. Set model_name to one of: {ready}.",
            target=f"{_SETTINGS}.modelName",
        )
    return names.model(TASK, name).name


def _check_pretrained(advanced: Mapping[str, Any]) -> None:
    value = advanced.get("pretrained", True)
    if not isinstance(value, bool):
        raise user_error(
            f"advanced_settings.pretrained is {shown(value)}; it must be true or false, without quotes.",
            target=f"{_SETTINGS}.advancedSettings",
        )
