"""Whether the weights on this machine fit their models: each file is opened and put into its network."""

from __future__ import annotations

from pathlib import Path

from amlocal.compat import names, weights
from amlocal.trainers import registry
from amlocal.trainers.errors import TrainingError
from amlocal.trainers.progress import say

_CLASSES = 2


def run(model_names: list[str], weights_dir: Path | None) -> int:
    """Say OK or what is wrong for each model, in a line; returns 1 when something is wrong, else 0."""
    wrong = 0
    for name in model_names:
        try:
            path = check(name, weights_dir)
        except (TrainingError, ValueError, MemoryError) as error:
            wrong += 1
            say(f"WRONG  {name}: {error or 'there is not enough memory to build the network'}")
        else:
            say(f"OK     {name}: {path}")
    return 1 if wrong else 0


def check(model_name: str, weights_dir: Path | None) -> Path:
    """The weights file, once it was loaded into the model's network as a trial does it.

    Raises ValueError for a name that no model can have, TrainingError when the file is missing, cannot be
    read or does not fit.
    """
    path = weights.find(model_name, weights_dir)
    if path is None:
        raise TrainingError(weights.where_to_put(model_name, weights_dir))
    task = _task(model_name)
    row = names.model(task, model_name, weights_dir)
    values = names.effective(task, row.name, {})
    names.apply_size_rules(row, values)
    registry.builder(row.builder)(row, _CLASSES, path, values["validation_crop_size"])
    return path


def _task(model_name: str) -> str:
    found = [task for task in names.tasks() if model_name in names.models(task)]
    return found[0] if found else "image-classification"
