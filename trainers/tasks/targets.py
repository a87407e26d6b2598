"""What an image's labels mean: one class each, or any number; loss, probabilities and class weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

_IMBALANCE = 2


class Targets(Protocol):
    """How one kind of classification treats labels. `labels` is the sorted list of class names."""

    def tensor(self, rows: Sequence[tuple[str, ...]], labels: Sequence[str]) -> Tensor:
        """The targets of images with these labels, one row each."""

    def counts(self, targets: Tensor, classes: int) -> Tensor:
        """How many images have each class: (classes,) int64."""

    def weights(self, targets: Tensor, classes: int, power: int) -> Tensor | None:
        """Loss weights (classes,) for `weighted_loss` = `power` (1 or 2); None where none apply."""

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Mean loss of raw outputs (images, classes)."""

    def probabilities(self, outputs: Tensor) -> Tensor:
        """(images, classes), from raw outputs."""

    def scalars(self, truth: Any, probabilities: Any, loss: float, primary: str) -> dict[str, float]:
        """Metrics by their logged names."""


class OneClass:
    """Multi-class: cross entropy over class numbers (images,) int64."""

    def tensor(self, rows: Sequence[tuple[str, ...]], labels: Sequence[str]) -> Tensor:
        number = {label: i for i, label in enumerate(labels)}
        return torch.tensor([number[row[0]] for row in rows], dtype=torch.int64)

    def counts(self, targets: Tensor, classes: int) -> Tensor:
        return torch.bincount(targets, minlength=classes)

    def weights(self, targets: Tensor, classes: int, power: int) -> Tensor | None:
        counts = self.counts(targets, classes).double()
        return _tempered(1.0 / counts, power) if _imbalanced(counts, power) else None

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        return F.cross_entropy(outputs, targets, weight=weights)

    def probabilities(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(1)

    def scalars(self, truth: Any, probabilities: Any, loss: float, primary: str) -> dict[str, float]:
        from amlocal.trainers.metrics import classification

        return classification.scalars(truth, probabilities, loss, primary)


class ManyLabels:
    """Multi-label: binary cross entropy over (images, classes) of 0 and 1."""

    def tensor(self, rows: Sequence[tuple[str, ...]], labels: Sequence[str]) -> Tensor:
        number = {label: i for i, label in enumerate(labels)}
        found = torch.zeros(len(rows), len(labels))
        for position, row in enumerate(rows):
            for label in row:
                found[position, number[label]] = 1.0
        return found

    def counts(self, targets: Tensor, classes: int) -> Tensor:
        return targets.sum(0).long()

    def weights(self, targets: Tensor, classes: int, power: int) -> Tensor | None:
        counts = self.counts(targets, classes).double()
        return _tempered((len(targets) - counts) / counts, power) if _imbalanced(counts, power) else None

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype), pos_weight=weights)

    def probabilities(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def scalars(self, truth: Any, probabilities: Any, loss: float, primary: str) -> dict[str, float]:
        from amlocal.trainers.metrics import multilabel

        return multilabel.scalars(truth.astype("int64"), probabilities, loss, primary)


def targets(multilabel: bool) -> Targets:
    """How to treat the labels of a task."""
    return ManyLabels() if multilabel else OneClass()


def imbalance(counts: Tensor) -> int:
    """Images of the largest class per image of the smallest (at least 1), rounded down."""
    return int(counts.max().item()) // max(1, int(counts.min().item()))


def _imbalanced(counts: Tensor, power: int) -> bool:
    """Azure's rule: weights apply from three to one on."""
    return power in (1, 2) and imbalance(counts) > _IMBALANCE


def _tempered(weights: Tensor, power: int) -> Tensor:
    """The square root of each weight to the `power`; a class without images weighs nothing."""
    finite = torch.where(torch.isfinite(weights), weights, torch.zeros_like(weights))
    return (finite**0.5) ** power
