"""Who builds which network and who knows which task; imported only when asked for.

A new model of a known builder is a row in compat/models.toml; a new builder or task is one file and one line
here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

DESCRIPTION = "model.json"
"""The file of a finished model that says its task and its network."""

_CLASSIFICATION = ("image-classification", "image-classification-multilabel")
_DETECTION = ("image-object-detection", "image-instance-segmentation")
TASKS = dict.fromkeys(_CLASSIFICATION, "amlocal.trainers.tasks.classification:Classification")
TASKS |= dict.fromkeys(_DETECTION, "amlocal.trainers.tasks.detection:Detection")
BUILDERS = {
    "timm": "amlocal.trainers.models.timm:build",
    "huggingface": "amlocal.trainers.models.huggingface:build",
    "torchvision": "amlocal.trainers.models.torchvision_detection:build",
    "yolo": "amlocal.trainers.models.yolo:build",
    "mmdet": "amlocal.trainers.models.mmdet:build",
}
PREDICTORS = dict.fromkeys(_CLASSIFICATION, "amlocal.trainers.tasks.classification_scoring:Predictor")
PREDICTORS |= dict.fromkeys(_DETECTION, "amlocal.trainers.tasks.detection_scoring:Predictor")


def task(name: str) -> Callable[..., Any]:
    """The class that trains a task. Raises KeyError."""
    return _load(TASKS[name])


def builder(name: str) -> Callable[..., Any]:
    """The function that builds a network from its row in models.toml. Raises KeyError."""
    return _load(BUILDERS[name])


def predictor(task_name: str) -> Callable[..., Any]:
    """The class that scores images of a task. Raises KeyError."""
    return _load(PREDICTORS[task_name])


def restored(folder: Path) -> Any:
    """What scores images with the model in `folder`, an MLflow model's artifacts. Raises ValueError."""
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    if description.get("task") not in PREDICTORS:
        raise ValueError(
            f"{folder / DESCRIPTION}: task is {description.get('task')!r}; models of {', '.join(PREDICTORS)} "
            "can be scored"
        )
    return predictor(description["task"])(folder, description)


def _load(reference: str) -> Callable[..., Any]:
    module, _, name = reference.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found
