"""Whether the weights on this machine fit their models: each file is opened and put into its network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from amlocal.compat import names, weights
from amlocal.trainers import registry
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.models.network import building
from amlocal.trainers.progress import say

_CLASSES = 2


def run(model_names: list[str], weights_dir: Path | None) -> int:
    """Say OK or what is wrong for each model, in a line; returns 1 when something is wrong, else 0."""
    wrong = 0
    for name, given in ((model, given) for model in model_names for given in _there(model, weights_dir)):
        try:
            path = check(name, weights_dir, given)
        except (TrainingError, ValueError, MemoryError) as error:
            wrong += 1
            say(f"WRONG  {name}: {error or 'there is not enough memory to build the network'}")
        else:
            say(f"OK     {name}: {path}")
    return 1 if wrong else 0


def _there(model_name: str, weights_dir: Path | None) -> list[dict[str, str]]:
    """Which of the model's files are there; that of its default size where none is."""
    try:
        known = weights.variants(model_name)
        found = [given for given in known if weights.find(model_name, weights_dir, parameters=given)]
    except ValueError:
        return [{}]
    return found or [{}]


def check(model_name: str, weights_dir: Path | None, given: Mapping[str, str] | None = None) -> Path:
    """The weights file, once it was loaded into the model's network as a trial does it.

    `given` are the parameters of the trial: a model may have a file for each of its sizes. Raises ValueError
    for a name that no model can have, TrainingError when the file is missing, cannot be read or does not fit.
    """
    path = weights.find(model_name, weights_dir, parameters=given)
    if path is None:
        raise TrainingError(weights.where_to_put(model_name, weights_dir, "", given))
    task = _task(model_name)
    row = names.model(task, model_name, weights_dir)
    values = names.effective(task, row.name, given or {})
    names.apply_size_rules(row, values)
    registry.builder(row.builder)(row, _CLASSES, path, building(row, values))
    return path


def _task(model_name: str) -> str:
    found = [task for task in names.tasks() if model_name in names.models(task)]
    return found[0] if found else "image-classification"
