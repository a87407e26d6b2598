"""Which batches a detector is trained on: order, augmentation, and what its losses were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from amlocal.compat import names
from amlocal.trainers import distributed
from amlocal.trainers.data import aspect, batches, letterbox
from amlocal.trainers.data.cache import Geometry
from amlocal.trainers.data.detection_augment import Augmentation
from amlocal.trainers.data.detection_geometry import Longest, Resized
from amlocal.trainers.data.images import Pixels
from amlocal.trainers.data.mosaic import YoloAugmentation
from amlocal.trainers.data.objects import Objects
from amlocal.trainers.manner import Manner
from amlocal.trainers.spec import Spec
from amlocal.trainers.tasks.detection_data import Half

YOLO, MMDETECTION = "yolo", "mmdet"
"""Builders."""
_LARGE = 10_000.0


class Augmented(Protocol):
    """Makes the items of a batch."""

    def batch(
        self, half: Half, which: Sequence[int], generator: torch.Generator
    ) -> list[tuple[Pixels, Objects]]:
        """Pixels and objects of those that can be read."""


def geometry(row: names.Model, parameters: Mapping[str, Any]) -> Geometry:
    """How large the network sees images."""
    if row.builder == YOLO:
        return Longest(letterbox.network_side(parameters["image_size"]))
    return Resized(parameters["min_size"], parameters["max_size"])


def shared(spec: Spec) -> Geometry:
    """How large training images are kept: as the largest trial needs them that shares them.

    Augmentation resizes from images of any size. A trial that also looks at its training images as they are
    keeps its own.
    """
    plain = spec.advanced.get("apply_automl_train_augmentations", True) is False
    looked_at = spec.parameters["log_training_metrics"] == "Enable"
    return geometry(spec.model, spec.parameters if plain or looked_at else spec.cached())


def manner(row: names.Model, *, scored: bool) -> Manner:
    """How the loop treats the network. Losses of MMDetection's networks begin in the hundreds."""
    other = row.builder == MMDETECTION
    return Manner(
        compilable=False,
        mixed=not other,
        steady=False,
        scored=scored,
        beyond_patience=True,
        repeated=True,
        exploded=_LARGE if other else Manner.exploded,
        sizes="image_size" if row.builder == YOLO else "min_size and max_size",
    )


def augmented(row: names.Model, parameters: Mapping[str, Any], advanced: Mapping[str, Any]) -> Augmented:
    """What makes training images, as advanced_settings ask for it."""
    wanted = advanced.get("apply_automl_train_augmentations", True) is not False
    if row.builder == YOLO:
        return YoloAugmentation(
            letterbox.network_side(parameters["image_size"]),
            mosaic=advanced.get("apply_mosaic_for_yolo", True) is not False,
            augment=wanted,
            multi_scale=parameters["multi_scale"],
        )
    size = geometry(row, parameters).size
    return _Single(Augmentation(size, enabled=wanted))


class _Single:
    """Each image for itself."""

    def __init__(self, augmentation: Augmentation) -> None:
        self._augmentation = augmentation

    def batch(
        self, half: Half, which: Sequence[int], generator: torch.Generator
    ) -> list[tuple[Pixels, Objects]]:
        items = [(pixels, objects) for _, pixels, objects in half.get(which)]
        return self._augmentation.batch(items, generator)


def order(half: Half, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """This process's batches of an epoch: images of like shape together; each process has as many."""
    world = distributed.current()
    shuffled = torch.randperm(len(half), generator=batches.generator(seed, epoch)).tolist()
    return batches.shard(aspect.batches(half.sizes, shuffled, batch_size, world.size), world)


class Parts:
    """The means of the losses that make up the loss of an epoch. Adding waits for no GPU."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._images = 0

    def clear(self) -> None:
        """An epoch starts."""
        self._sums, self._images = {}, 0

    def add(self, losses: Mapping[str, Tensor], images: int) -> Tensor:
        """Take the losses of a batch, each a mean over its images; returns their sum."""
        self._images += images
        for name, loss in losses.items():
            part = loss.detach().double() * images
            self._sums[name] = self._sums[name] + part if name in self._sums else part
        return torch.stack([loss.float() for loss in losses.values()]).sum()

    def means(self) -> dict[str, float]:
        """Of all processes; empty before the first batch."""
        if not self._sums:
            return {}
        found = torch.stack([*self._sums.values()]).tolist()
        *sums, images = distributed.total(*found, self._images)
        return {name: value / images for name, value in zip(self._sums, sums, strict=True)}


def stepwise(
    half: Half, made: Augmented, which: Sequence[Sequence[int]], generator: torch.Generator
) -> Iterator[list[tuple[Pixels, Objects]]]:
    """The items of each batch; one of which nothing can be read is skipped."""
    for some in which:
        items = made.batch(half, some, generator)
        if items:
            yield items
