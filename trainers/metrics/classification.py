"""Multi-class metrics under Azure's names, computed by scikit-learn, and the two chart documents.

Classes that do not occur among the true labels cannot have an AUC or average precision; those two are taken
over the classes that occur. Values are rounded to five digits, as Azure logs them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sk

_AVERAGES = ("macro", "micro", "weighted")
_DIGITS = 5
_THRESHOLDS = 101

Classes = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float64]


def scalars(truth: Classes, probabilities: Probabilities, loss: float, primary: str) -> dict[str, float]:
    """Every scalar of one evaluation: accuracy, log_loss (the mean validation loss given), AUC, average
    precision, F1, precision and recall with their averages, and the primary metric where it is another one.

    With one class among the true labels only the primary metric is defined, if at all.
    """
    predicted = probabilities.argmax(1)
    values = {"accuracy": float(sk.accuracy_score(truth, predicted))}
    several = len(np.unique(truth)) > 1
    if several or primary == "norm_macro_recall":
        values |= _by_prediction(truth, predicted, probabilities.shape[1])
    if several:
        values |= _by_score(truth, probabilities)
    else:
        values = {name: value for name, value in values.items() if name == primary}
    if primary != "norm_macro_recall":
        values.pop("norm_macro_recall", None)
    values["log_loss"] = loss
    return {name: round(value, _DIGITS) for name, value in values.items() if math.isfinite(value)}


def _by_prediction(truth: Classes, predicted: Classes, classes: int) -> dict[str, float]:
    values = {}
    functions = {
        "f1_score": sk.f1_score,
        "precision_score": sk.precision_score,
        "recall_score": sk.recall_score,
    }
    for name, function in functions.items():
        for average in _AVERAGES:
            values[f"{name}_{average}"] = float(function(truth, predicted, average=average, zero_division=0))
        if classes == 2:
            values[f"{name}_binary"] = float(function(truth, predicted, average="binary", zero_division=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes predicted but never true are expected early on
        balanced = float(sk.balanced_accuracy_score(truth, predicted))
    chance = 1.0 / classes if classes > 1 else 0.0
    values["norm_macro_recall"] = (balanced - chance) / (1.0 - chance)
    return values


def _by_score(truth: Classes, probabilities: Probabilities) -> dict[str, float]:
    present = np.unique(truth)
    onehot = (truth[:, None] == np.arange(probabilities.shape[1])[None, :]).astype(np.int64)
    values = {}
    functions = {"AUC": sk.roc_auc_score, "average_precision_score": sk.average_precision_score}
    for name, function in functions.items():
        for average in ("macro", "weighted"):
            values[f"{name}_{average}"] = float(
                function(onehot[:, present], probabilities[:, present], average=average)
            )
        values[f"{name}_micro"] = float(function(onehot, probabilities, average="micro"))
        if probabilities.shape[1] == 2:
            values[f"{name}_binary"] = float(function(onehot[:, 1], probabilities[:, 1]))
    return values


def confusion_matrix(truth: Classes, predicted: Classes, labels: Sequence[str]) -> dict[str, Any]:
    """Azure's confusion_matrix document; rows are the true classes."""
    matrix = sk.confusion_matrix(truth, predicted, labels=range(len(labels)))
    return _document("confusion_matrix", {"class_labels": list(labels), "matrix": matrix.tolist()})


def accuracy_table(truth: Classes, probabilities: Probabilities, labels: Sequence[str]) -> dict[str, Any]:
    """Azure's accuracy_table document: [TP, FP, TN, FN] of each class against the rest at 101 thresholds.

    Probability thresholds lie evenly between 0 and 1; percentile thresholds follow the predicted
    probabilities. An image counts as predicted when its probability is at least the threshold.
    """
    even = np.linspace(0.0, 1.0, _THRESHOLDS)
    percentile = np.percentile(probabilities, even * 100.0)
    data = {
        "probability_tables": [_counts(truth == c, probabilities[:, c], even) for c in range(len(labels))],
        "percentile_tables": [
            _counts(truth == c, probabilities[:, c], percentile) for c in range(len(labels))
        ],
        "probability_thresholds": [round(float(t), 6) for t in even],
        "percentile_thresholds": [round(float(t), 6) for t in percentile],
        "class_labels": list(labels),
    }
    return _document("accuracy_table", data)


def _counts(
    positive: npt.NDArray[np.bool_], scores: Probabilities, thresholds: Probabilities
) -> list[list[int]]:
    # A count of scores at or above each threshold is a search in the sorted scores.
    hits, misses = np.sort(scores[positive]), np.sort(scores[~positive])
    true_positive = len(hits) - np.searchsorted(hits, thresholds, side="left")
    false_positive = len(misses) - np.searchsorted(misses, thresholds, side="left")
    table = np.stack(
        (true_positive, false_positive, len(misses) - false_positive, len(hits) - true_positive), axis=1
    )
    rows: list[list[int]] = table.tolist()
    return rows


def _document(kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
    return {"schema_type": kind, "schema_version": "1.0.0", "data": dict(data)}
