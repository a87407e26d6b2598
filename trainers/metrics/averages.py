"""scikit-learn's functions over every class at once, and their averages under Azure's names.

What is undefined is NaN here; nothing is rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sk

from amlocal.trainers.metrics import names

_DIGITS = 5

Classes = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float64]


class Columns:
    """True and predicted classes as 0 and 1 (images, classes), for scikit-learn's multi-label functions."""

    def __init__(self, truth: Classes, predicted: Classes) -> None:
        classes = truth.shape[1]
        # scikit-learn takes a single column for a question with the answers 0 and 1; an empty second one,
        # which `labels` leaves out, keeps it a column.
        pad = ((0, 0), (0, 1 if classes == 1 else 0))
        self._arguments = np.pad(truth, pad), np.pad(predicted, pad)
        self._options = {"labels": list(range(classes)), "zero_division": 0}

    def score(self, function: Callable[..., Any], average: str | None) -> Any:
        """A scikit-learn function of predictions; average None gives one value per class."""
        return function(*self._arguments, average=average, **self._options)


def by_prediction(score: Callable[[Callable[..., Any], str], Any]) -> dict[str, float]:
    """F1, precision and recall in their three averages; `score` applies a scikit-learn function with an
    average."""
    values = {}
    for average in names.AVERAGES:
        precision, recall, f1, _ = score(sk.precision_recall_fscore_support, average)
        values[f"precision_score_{average}"] = float(precision)
        values[f"recall_score_{average}"] = float(recall)
        values[f"f1_score_{average}"] = float(f1)
    return values


def area_under_roc(columns: Classes, probabilities: Probabilities) -> Probabilities:
    """AUC of each class; NaN where a class is true for no image or for all. `columns`: 0 and 1 (images,
    classes)."""
    return _each(sk.roc_auc_score, columns, probabilities, most=len(columns) - 1)


def average_precision(columns: Classes, probabilities: Probabilities) -> Probabilities:
    """Average precision of each class; NaN where a class is true for no image."""
    return _each(sk.average_precision_score, columns, probabilities, most=len(columns))


def by_score(columns: Classes, probabilities: Probabilities) -> dict[str, float]:
    """AUC and average precision in their three averages.

    Macro and weighted are taken over the classes where the value is defined; micro over all, as one long
    column.
    """
    values = {}
    functions = {
        "AUC": (area_under_roc, sk.roc_auc_score),
        "average_precision_score": (average_precision, sk.average_precision_score),
    }
    count = columns.sum(0)
    total = int(count.sum())
    for name, (each, micro) in functions.items():
        found = each(columns, probabilities)
        defined = np.isfinite(found)
        some = bool(defined.any())
        values[f"{name}_macro"] = float(found[defined].mean()) if some else math.nan
        values[f"{name}_weighted"] = (
            float(np.average(found[defined], weights=count[defined])) if some else math.nan
        )
        possible = 0 < total < columns.size if name == "AUC" else total > 0
        values[f"{name}_micro"] = (
            float(micro(columns.ravel(), probabilities.ravel())) if possible else math.nan
        )
    return values


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """As Azure logs them: five digits; what is not a finite number is left out."""
    return {name: round(value, _DIGITS) for name, value in values.items() if math.isfinite(value)}


def _each(
    function: Callable[..., Any], columns: Classes, probabilities: Probabilities, most: int
) -> Probabilities:
    found = np.full(columns.shape[1], math.nan)
    count = columns.sum(0)
    for c in np.flatnonzero((count > 0) & (count <= most)):
        found[c] = function(columns[:, c], probabilities[:, c])
    return found
