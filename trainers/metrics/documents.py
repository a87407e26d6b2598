"""The documents written once at the end of a trial: Azure's confusion_matrix and accuracy_table, and
classification_report."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sk

from amlocal.trainers.metrics import report
from amlocal.trainers.metrics.averages import Classes, Probabilities
from amlocal.trainers.metrics.envelope import Document, document

_THRESHOLDS = 101


def final_documents(
    truth: Classes, probabilities: Probabilities, labels: Sequence[str], multilabel: bool
) -> dict[str, Document]:
    """Every document of the final evaluation by its file name, as JSON values without NaN.

    `truth`: class numbers (images,), or 0 and 1 (images, labels) with `multilabel`. As in Azure, a
    multi-label trial has the report only.
    """
    truth = np.asarray(truth, dtype=np.int64)
    documents = {
        "classification_report": report.classification_report(truth, probabilities, labels, multilabel)
    }
    if not multilabel:
        documents["confusion_matrix"] = confusion_matrix(truth, probabilities.argmax(1), labels)
        documents["accuracy_table"] = accuracy_table(truth, probabilities, labels)
    return documents


def confusion_matrix(truth: Classes, predicted: Classes, labels: Sequence[str]) -> Document:
    """Azure's confusion_matrix document; rows are the true classes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one class is allowed, though scikit-learn doubts that it is meant
        matrix = sk.confusion_matrix(truth, predicted, labels=range(len(labels)))
    return document("confusion_matrix", {"class_labels": list(labels), "matrix": matrix.tolist()})


def accuracy_table(truth: Classes, probabilities: Probabilities, labels: Sequence[str]) -> Document:
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
    return document("accuracy_table", data)


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
