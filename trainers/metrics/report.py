"""classification_report: how well each class is recognised, and the averages.

The document, in the envelope of Azure's chart documents:

    {"schema_type": "classification_report", "schema_version": "1.0.0",
     "data": {"class_labels": [label, ...],
              "columns": ["class_name", "precision", "recall", "f1-score", "support", ("iou",) "auc",
                          "average_precision"],
              "rows": [{column: value, ...}, ...]}}

One row per label in the order of `class_labels`, then micro, macro and weighted: always the last three, even
where a label has one of these names. `support` counts images (the averages: the sum), `iou` is there for
multi-label only, numbers have five digits, and null stands where a value is not defined. The averages are the
trial's scalars.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sklearn import metrics as sk

from amlocal.trainers.metrics import averages, classification, multilabel, names
from amlocal.trainers.metrics.averages import Classes, Probabilities
from amlocal.trainers.metrics.envelope import Document, document

_SCALARS = {
    "precision": "precision_score",
    "recall": "recall_score",
    "f1-score": "f1_score",
    "support": None,
    "iou": names.IOU,
    "auc": "AUC",
    "average_precision": "average_precision_score",
}
AVERAGE_ROWS = ("micro", "macro", "weighted")


def classification_report(
    truth: Classes, probabilities: Probabilities, labels: Sequence[str], many: bool
) -> Document:
    """The document described above. `truth`: class numbers (images,), or 0 and 1 (images, labels) where an
    image may have `many` labels."""
    if many:
        columns, predicted = truth, multilabel.predictions(probabilities)
        scalars = multilabel.every(truth, probabilities)
    else:
        columns = classification.onehot(truth, len(labels))
        predicted = classification.onehot(probabilities.argmax(1), len(labels))
        scalars = classification.every(truth, probabilities)
    shown = [name for name in _SCALARS if many or name != names.IOU]
    values = _by_class(columns, predicted, probabilities)
    rows = [
        {"class_name": label} | {name: _plain(values[name][c]) for name in shown}
        for c, label in enumerate(labels)
    ]
    total = int(columns.sum())
    for average in AVERAGE_ROWS:
        row: dict[str, Any] = {"class_name": average}
        for name in shown:
            scalar = _SCALARS[name]
            row[name] = total if scalar is None else _plain(scalars[f"{scalar}_{average}"])
        rows.append(row)
    data = {"class_labels": list(labels), "columns": ["class_name", *shown], "rows": rows}
    return document("classification_report", data)


def _by_class(columns: Classes, predicted: Classes, probabilities: Probabilities) -> dict[str, list[Any]]:
    scored = averages.Columns(columns, predicted)
    precision, recall, f1, support = scored.score(sk.precision_recall_fscore_support, None)
    found = {
        "precision": precision,
        "recall": recall,
        "f1-score": f1,
        "support": support,
        "iou": scored.score(sk.jaccard_score, None),
        "auc": averages.area_under_roc(columns, probabilities),
        "average_precision": averages.average_precision(columns, probabilities),
    }
    return {name: values.tolist() for name, values in found.items()}


def _plain(value: float | int) -> float | int | None:
    if isinstance(value, int):
        return value
    return round(value, 5) if math.isfinite(value) else None
