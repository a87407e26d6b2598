"""A built network, whoever built it: what it must be fed, and its stages for freezing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from amlocal.compat import model_config, names
from amlocal.trainers import registry

Stages = tuple[tuple[nn.Module, ...], ...]
Building = int | Mapping[str, Any]
"""What a builder must know besides model and classes: the side of a classifier's images in pixels, or the
parameters of a detector by their names in YAML."""


@dataclass(frozen=True)
class Network:
    """A classifier that takes (images, 3, height, width) and answers (images, classes), before softmax; or a
    `models.detector.Detector`.

    `mean` and `std` are those its inputs want; `stages` go from input to output; `image_size` is the side in
    pixels that it must be fed, None = any. `facts` must be kept with the trained weights where the model is
    none of the table's: without them it cannot be built again.
    """

    module: nn.Module
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    stages: Stages
    image_size: int | None = None
    facts: Mapping[str, Any] | None = None


_SHAPING = ("min_size", "max_size", "box_score_threshold", "nms_iou_threshold", "box_detections_per_image")
_SHAPING_YOLO = ("image_size", "model_size", "box_score_threshold", "nms_iou_threshold")


def building(row: names.Model, parameters: Mapping[str, Any], *, trained: bool = False) -> Building:
    """What a builder must know of a trial's parameters; `trained`: the network begins with weights that are
    no random ones."""
    if "validation_crop_size" in parameters:
        return int(parameters["validation_crop_size"])
    wanted = _SHAPING_YOLO if row.builder == "yolo" else _SHAPING
    return {**{name: parameters[name] for name in wanted}, "trained": trained}


def freeze(network: Network, layers: int | None) -> int:
    """Freeze the first `layers` stages and unfreeze the rest; None leaves all as they are.

    A frozen stage's weights get no gradient (requires_grad false), as in Azure's trainer; nothing else
    changes: its batch normalisations go on following the training images in their running mean and
    variance. Returns how many stages are frozen.
    """
    if layers is None:
        return 0
    network.module.requires_grad_(True)
    frozen = network.stages[:layers]
    for stage in frozen:
        for part in stage:
            part.requires_grad_(False)
    return len(frozen)


def rebuild(
    task: str, model_name: str, classes: int, building: Building, facts: Mapping[str, Any] | None
) -> Network:
    """The network of a model that was trained earlier, with random weights; `facts` are `Network.facts`.

    Raises BadParameter for a model that is neither in the table nor described by `facts`, TrainingError when
    the description cannot be built.
    """
    kept = model_config.Facts.from_json(facts) if facts is not None else None
    row = names.restored(task, model_name, kept)
    built: Network = registry.builder(row.builder)(row, classes, None, building)
    return built
