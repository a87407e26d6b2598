"""A built classifier, whoever built it: what it must be fed, and its stages for freezing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from amlocal.compat import model_config, names
from amlocal.trainers import registry

Stages = tuple[tuple[nn.Module, ...], ...]


@dataclass(frozen=True)
class Network:
    """A classifier that takes (images, 3, height, width) and answers (images, classes), before softmax.

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
    task: str, model_name: str, classes: int, image_size: int, facts: Mapping[str, Any] | None
) -> Network:
    """The network of a model that was trained earlier, with random weights; `facts` are `Network.facts`.

    Raises BadParameter for a model that is neither in the table nor described by `facts`, TrainingError when
    the description cannot be built.
    """
    kept = model_config.Facts.from_json(facts) if facts is not None else None
    row = names.restored(task, model_name, kept)
    built: Network = registry.builder(row.builder)(row, classes, None, image_size)
    return built
