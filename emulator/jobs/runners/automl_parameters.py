"""The training parameters of an AutoML image job: `taskDetails.modelSettings`, read and checked.

Source: the REST body that azure-ai-ml sends. What a key may hold stands in compat/hyperparameters.toml. A key
that the task does not know is kept and ignored, as the service does; a value that it cannot use is an error.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amlocal.compat import names
from amlocal.compat.label_readers import DETECTION
from amlocal.emulator.http.errors import user_error
from amlocal.emulator.jobs import fields
from amlocal.emulator.jobs.fields import shown

PLACE = "taskDetails.modelSettings"
_TOLD = 20
# Many names have words in common (logTrainingMetrics, trainingBatchSize); a slip of the pen is closer.
_SLIP = 0.8
_MOSAIC = "apply_mosaic_for_yolo"
_SWITCHES = (
    "stream_image_files",
    "apply_automl_train_augmentations",
    _MOSAIC,
    "pretrained",
    "fast_path",
)
_PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_ADVANCED = (*_SWITCHES, "precision")


@dataclass(frozen=True)
class Parameters:
    """`given` holds only what the user set, by snake_case name, without what has a field of its own here.

    `model` None: the user named none. `ignored` are the places of keys that mean nothing to the task.
    """

    model: str | None
    given: Mapping[str, Any]
    advanced: Mapping[str, Any]
    checkpoint_run_id: str | None
    checkpoint_model: str | None
    ignored: tuple[str, ...]
    notices: tuple[str, ...]


def read(task: str, details: Mapping[str, Any]) -> Parameters:
    """The parameters in a job's `taskDetails`. Raises AzureError: parameter, value and what is allowed."""
    settings = fields.mapping(details, "modelSettings", PLACE)
    try:
        given, unknown = names.from_rest(task, settings)
        model = given.pop("model_name", None) or None
        advanced, warning = names.advanced_settings(given.pop("advanced_settings", None))
        run_id, registered = _checkpoint(given)
        name = model or names.default_model(task)
        names.model(task, name)
        # With a search space, only what is drawn from it makes the trial whole.
        if not details.get("searchSpace"):
            # Without a name, the model is that of the checkpoint.
            check_together(task, name, given, sized=model is not None or not (run_id or registered))
    except names.BadParameter as error:
        known = names.hyperparameters(task)
        field = known[error.parameter].rest if error.parameter in known else error.parameter
        raise user_error(f"training_parameters.{error}.", target=f"{PLACE}.{field}") from error
    known_settings = _advanced(task)
    _check_advanced({key: value for key, value in advanced.items() if key in known_settings})
    strange = [f"advancedSettings.{key}" for key in advanced if key not in known_settings]
    ignored = [*(key for key, value in unknown.items() if value is not None), *strange]
    return Parameters(
        model=model,
        given=given,
        advanced=advanced,
        checkpoint_run_id=run_id,
        checkpoint_model=registered,
        ignored=tuple(f"modelSettings.{key}" for key in ignored),
        notices=(f"WARNING: {warning}",) if warning else (),
    )


def check_together(task: str, model: str, given: Mapping[str, Any], *, sized: bool) -> None:
    """Raises BadParameter for values that exclude each other; with `sized`, also for sizes that the model
    cannot have."""
    values = names.effective(task, model, given)
    if sized:
        names.apply_size_rules(names.model(task, model), values, given)


def told(task: str, ignored: Sequence[str]) -> list[str]:
    """Ignored keys as the log tells them: quoted, with the keys that were perhaps meant, and not too many."""
    found = [f"{shown(place)}{_hint(task, place)}" for place in ignored[:_TOLD]]
    return [*found, f"each of {len(ignored) - _TOLD} more keys"] if len(ignored) > _TOLD else found


def _hint(task: str, place: str) -> str:
    above, _, key = place.rpartition(".")
    known: Iterable[str] = ()
    if above == "modelSettings":
        known = [row.rest for row in names.hyperparameters(task).values() if row.settings]
    elif above.startswith("searchSpace["):
        known = [row.rest for row in names.hyperparameters(task).values() if row.search]
    elif above == "modelSettings.advancedSettings":
        known = _advanced(task)
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(key[:100].lower(), by_lower, n=1, cutoff=_SLIP)
    return f" (did you mean {by_lower[near[0]]}?)" if near else ""


def _advanced(task: str) -> tuple[str, ...]:
    """The keys of advanced_settings that mean something to a task."""
    return tuple(key for key in _ADVANCED if key != _MOSAIC or task in DETECTION)


def _checkpoint(given: dict[str, Any]) -> tuple[str | None, str | None]:
    """checkpoint_run_id and the address in checkpoint_model, taken out of `given`."""
    run_id = given.pop("checkpoint_run_id", None) or None
    model = given.pop("checkpoint_model", None)
    if model is None:
        return run_id, None
    place = f"{PLACE}.checkpointModel"
    if run_id is not None:
        raise user_error(
            "checkpoint_run_id and checkpoint_model are both given; leave one of them out.", target=place
        )
    kind = fields.text(model, "jobInputType", f"{place}.jobInputType")
    if (kind or "").lower() != "mlflow_model":
        raise user_error(
            f"checkpoint_model has the type {shown(kind)}; it must be mlflow_model.",
            target=f"{place}.jobInputType",
        )
    uri = fields.text(model, "uri", f"{place}.uri", limit=4096)
    if uri is None:
        raise user_error(
            "checkpoint_model has no uri; name a registered model (azureml:NAME:VERSION) or the folder of an "
            "MLflow model in a datastore.",
            target=f"{place}.uri",
        )
    return None, uri


def _check_advanced(advanced: Mapping[str, Any]) -> None:
    """Raises AzureError for a value that a known key cannot have."""
    for key, value in advanced.items():
        if key in _SWITCHES and not isinstance(value, bool):
            allowed = "true or false, without quotes"
        elif key == "precision" and value not in _PRECISIONS:
            allowed = f"one of {', '.join(_PRECISIONS)}"
        else:
            continue
        raise user_error(
            f"advanced_settings.{key} is {shown(value)}; it must be {allowed}.",
            target=f"{PLACE}.advancedSettings",
        )
