"""The points of each curve, from the counts of an accuracy table. Pure arithmetic, no drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Curve = tuple[Floats, Floats]

BINS = 10
_GRID = np.linspace(0.0, 1.0, 501)


@dataclass(frozen=True)
class Counts:
    """How many are rightly and wrongly predicted at falling thresholds, and how many there are in all."""

    right: Floats
    wrong: Floats
    positives: float
    negatives: float

    def roc(self) -> Curve:
        """False positive rate, true positive rate."""
        return (
            _from_nothing(self.wrong / max(self.negatives, 1.0)),
            _from_nothing(self.right / max(self.positives, 1.0)),
        )

    def precision_recall(self) -> Curve:
        """Recall, precision; from the first prediction on."""
        some = self.right + self.wrong > 0
        precision = self.right[some] / (self.right + self.wrong)[some]
        return _from_nothing(self.right[some] / max(self.positives, 1.0)), np.r_[precision[:1], precision]

    def gains(self) -> Curve:
        """Share of all that is predicted, share of the positives found by that."""
        share = (self.right + self.wrong) / (self.positives + self.negatives)
        return _from_nothing(share), _from_nothing(self.right / max(self.positives, 1.0))

    def lift(self) -> Curve:
        """Share of all that is predicted, how many times more positives it holds than an equal share by
        chance."""
        share, gain = self.gains()
        some = share > 0
        return share[some], gain[some] / share[some]


@dataclass(frozen=True)
class Bins:
    """Predictions in ten equal ranges of probability: how many, their mean probability, how many are true."""

    count: Floats
    mean: Floats
    true: Floats

    def calibration(self) -> Curve:
        """Mean predicted probability, share that is true; ranges without predictions are left out."""
        some = self.count > 0
        return self.mean[some], self.true[some] / self.count[some]

    def error(self) -> float:
        """Mean distance of the two, weighted by the number of predictions."""
        mean, share = self.calibration()
        return float(np.average(np.abs(mean - share), weights=self.count[self.count > 0]))


def counts(data: Mapping[str, Any]) -> tuple[list[Counts], Counts]:
    """Each class's counts over both tables' thresholds, and those of all classes taken together (micro)."""
    table = np.concatenate(
        [
            np.array(data[name], dtype=np.float64).reshape(len(data["class_labels"]), -1, 4)
            for name in ("probability_tables", "percentile_tables")
        ],
        axis=1,
    )
    return [_counts(one) for one in table], _counts(table.sum(0))


def bins(data: Mapping[str, Any]) -> tuple[list[Bins], Bins]:
    """Each class's predictions by probability, and those of all classes together."""
    table = np.array(data["probability_tables"], dtype=np.float64)
    thresholds = np.array(data["probability_thresholds"])
    return [_bins(one, thresholds) for one in table], _bins(table.sum(0), thresholds)


def macro(curves: Sequence[Curve], *, steps: bool = False) -> Curve:
    """The mean of curves over a common grid; with `steps`, a curve keeps the value of its next point."""
    return _GRID, np.mean([_at(x, y, steps) for x, y in curves], axis=0)


def _at(x: Floats, y: Floats, steps: bool) -> Floats:
    if not steps:
        return np.interp(_GRID, x, y)
    found: Floats = y[np.searchsorted(x, _GRID - 1e-12, side="left").clip(max=len(x) - 1)]
    return found


def _counts(table: Floats) -> Counts:
    # Lower thresholds predict more: sorting by how many are predicted sorts by threshold.
    order = np.argsort(table[:, 0] + table[:, 1], kind="stable")
    right, wrong, spared, missed = table[order].T
    return Counts(right, wrong, float(right[-1] + missed[-1]), float(wrong[-1] + spared[-1]))


def _bins(table: Floats, thresholds: Floats) -> Bins:
    # How many lie between two neighbouring thresholds; the last range includes 1. Within one hundredth the
    # middle stands for the mean.
    predicted = np.append(table[:, 0] + table[:, 1], 0.0)[:-1]
    count = predicted[:-1] - np.append(predicted[1:-1], 0.0)
    true = table[:-1, 0] - np.append(table[1:-1, 0], 0.0)
    middle = (thresholds[:-1] + thresholds[1:]) / 2
    shape = BINS, -1
    total = count.reshape(shape).sum(1)
    weighted = (count * middle).reshape(shape).sum(1)
    mean = np.divide(weighted, total, out=np.zeros(BINS), where=total > 0)
    return Bins(total, mean, true.reshape(shape).sum(1))


def _from_nothing(values: Floats) -> Floats:
    return np.concatenate(([0.0], values))
